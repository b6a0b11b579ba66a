"""A plain sentence on each comparison of a study."""

from collections.abc import Sequence

import numpy as np

from hlfd.evaluation.statistics import mean_interval
from hlfd.study.collect import ModelRuns

LEAST_PATIENTS = 5


def findings(models: Sequence[ModelRuns]) -> list[str]:
    """Teacher and distilled students against the student alone, region by region. Pairs are patients."""
    named = {model.name: model for model in models}
    alone = [named[name] for name in dict.fromkeys(model.alone for model in models) if name in named]
    alone = alone or [model for model in models if model.name == "student"]
    told: list[str] = []
    for model in models:
        other = named.get(model.alone) if model.alone else (alone[0] if alone and "teacher" in model.name else None)
        for region in model.cases[model.first.seed][0].regions if other and other is not model else ():
            assert other is not None
            told.append(sentence(model, other, region))
    return told


def sentence(model: ModelRuns, other: ModelRuns, region: str) -> str:
    """Whether a model is better than another in a region's Dice, and how sure that is."""
    ours, theirs = model.dice(region), other.dice(region)
    values = [float(np.mean(ours[patient]) - np.mean(theirs[patient])) for patient in ours]
    found, seeds = mean_interval(values), len(model.cases)
    basis = f"{found.patients} patients, {seeds} seed{'s' * (seeds != 1)}"
    if found.patients < LEAST_PATIENTS or found.mean is None or found.low is None or found.high is None:
        return f"{model.name} and {other.name}, {region}: too few patients for a claim ({basis})."
    gap = f"{100 * found.mean:+.1f} Dice [{100 * found.low:+.1f}, {100 * found.high:+.1f}], {basis}"
    if found.low > 0 or found.high < 0:
        word = "better" if found.low > 0 else "worse"
        return f"{model.name} is {word} than {other.name} on {region}: {gap}."
    return f"{model.name} and {other.name}, {region}: no difference shown ({gap})."

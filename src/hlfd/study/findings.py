"""What a study shows: each model against the student alone, and HLFD against the other methods, region by region."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hlfd.evaluation.comparison import compare_models, patient_values
from hlfd.evaluation.stability import rank_stability, variances
from hlfd.io.files import jsonable
from hlfd.study.collect import ModelRuns


def pairs(models: Sequence[ModelRuns]) -> list[tuple[str, str]]:
    """Which models are compared: teacher and distilled students with the student alone, HLFD's with the others."""
    named = {model.name: model for model in models}
    students = [model for model in models if model.kind == "student"]
    first = next((model.name for model in students if not model.alone), None)
    found: list[tuple[str, str]] = [(m.name, first) for m in models if m.kind == "teacher" and first]
    found += [(m.name, m.alone) for m in students if m.alone in named]
    ours = [m for m in students if m.alone and m.method == "hlfd"]
    return found + [(a.name, b.name) for a in ours for b in students if b.alone == a.alone and b.method != "hlfd"]


def findings(models: Sequence[ModelRuns]) -> dict[str, Any]:
    """``comparisons``: each with its figures, its ``region`` and its ``sentence``; ``ranks`` and ``variances``.

    Holm's correction is over the comparisons of a region. Ranks are of the students, variances of models with seeds.
    """
    found: dict[str, Any] = {"comparisons": [], "ranks": {}, "variances": {}}
    for region in next(iter(models[0].cases.values()))[0].regions:
        values = patient_values({model.name: list(model.cases.values()) for model in models}, region, "dice")
        for comparison in compare_models(values, pairs(models), "dice"):
            shown = {**asdict(comparison), "verdict": comparison.verdict, "region": region}
            found["comparisons"].append({**shown, "sentence": f"{region}: {comparison.sentence}"})
        students = {model.name: values[model.name] for model in models if model.kind == "student"}
        if len(students) > 1:
            found["ranks"][region] = {name: asdict(rank) for name, rank in rank_stability(students, "dice").items()}
        found["variances"][region] = {
            model.name: asdict(variances(values[model.name])) for model in models if min(values[model.name].shape) > 1
        }
    return jsonable(found)

"""How far a ranking depends on which patients and which seeds were drawn."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hlfd.errors import InputError
from hlfd.evaluation.comparison import measure_of


@dataclass(frozen=True)
class Rank:
    """A model's place among the models, 1 is best; equals share the mean of their places.

    Attributes:
        rank: by the mean over patients and seeds.
        low, high: of 95 % of the bootstrap samples of patients.
        first: share of the samples in which no model is better.
        by_seed: its place with each seed alone.
    """

    rank: float
    low: float
    high: float
    first: float
    by_seed: tuple[float, ...]


@dataclass(frozen=True)
class Variances:
    """Where the spread of one model's values comes from: variances of a two-way layout without replication.

    Attributes:
        patient: between patients.
        seed: between seeds, the same for all patients.
        rest: between seeds, different from patient to patient.
    """

    patient: float
    seed: float
    rest: float


def rank_stability(
    values: Mapping[str, np.ndarray], metric: str = "dice", *, seed: int = 0, resamples: int = 1000
) -> dict[str, Rank]:
    """Rank the models on bootstrap samples of the patients (as Wiesenfarth et al. 2021, Scientific Reports 11:2369).

    Args:
        values: model -> patients x seeds. Patients for whom any model's value is undefined are left out.
        metric: what the values are.
        seed, resamples: of the bootstrap.

    Raises:
        InputError: the models' values differ in shape, or no patient has them all.
    """
    shapes = {model: array.shape for model, array in values.items()}
    if len(set(shapes.values())) != 1:
        raise InputError(f"expected patients x seeds of one shape, got {shapes}")
    stacked = np.stack(list(values.values()))  # models x patients x seeds
    better = measure_of(metric).better
    goodness = stacked if better == "high" else -np.abs(stacked) if better == "zero" else -stacked
    goodness = goodness[:, ~np.isnan(goodness).any((0, 2))]
    patients = goodness.shape[1]
    if not patients:
        raise InputError("no patient has a value from every model")
    drawn = np.random.default_rng(seed).integers(patients, size=(resamples, patients))
    means = goodness.mean(2)[:, drawn].mean(2)  # models x resamples
    ranks = _ranks(means)
    low, high = np.quantile(ranks, [0.025, 0.975], axis=1)
    by_seed = _ranks(goodness.mean(1))
    whole = _ranks(goodness.mean((1, 2))[:, None])[:, 0]
    first = (means >= means.max(0)).mean(1)
    return {
        model: Rank(float(whole[i]), float(low[i]), float(high[i]), float(first[i]), tuple(map(float, by_seed[i])))
        for i, model in enumerate(values)
    }


def _ranks(goodness: np.ndarray) -> np.ndarray:
    return stats.rankdata(-goodness, axis=0)


def variances(values: np.ndarray) -> Variances:
    """Variance components of one model's patients x seeds (analysis of variance, random effects, Searle 1971).

    An estimate below 0 is 0. Patients with an undefined value are left out.

    Raises:
        InputError: fewer than two patients or two seeds.
    """
    defined = values[~np.isnan(values).any(1)]
    patients, seeds = defined.shape
    if patients < 2 or seeds < 2:
        raise InputError(f"variances: expected two patients and two seeds or more, got {patients} and {seeds}")
    rows, columns, mean = defined.mean(1), defined.mean(0), defined.mean()
    rest = ((defined - rows[:, None] - columns + mean) ** 2).sum() / ((patients - 1) * (seeds - 1))
    between_patients = seeds * ((rows - mean) ** 2).sum() / (patients - 1)
    between_seeds = patients * ((columns - mean) ** 2).sum() / (seeds - 1)
    return Variances(
        max(0.0, float(between_patients - rest) / seeds), max(0.0, float(between_seeds - rest) / patients), float(rest)
    )

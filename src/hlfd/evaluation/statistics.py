"""Figures over patients: mean, median, and how far another choice of patients might have moved the mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hlfd.errors import InputError


@dataclass(frozen=True)
class Summary:
    """One metric over patients.

    Attributes:
        mean, median: over the patients with a defined value; None if there are none.
        low, high: ends of the bootstrap interval of the mean; None with fewer than two such patients, from whom
            nothing can be said about other patients.
        patients: how many have a defined value.
        undefined: how many have none (NaN); they are in no other figure.
    """

    mean: float | None
    median: float | None
    low: float | None
    high: float | None
    patients: int
    undefined: int


def mean_interval(
    values: Sequence[float] | np.ndarray, *, seed: int = 0, resamples: int = 9999, level: float = 0.95
) -> Summary:
    """Mean over patients with its bootstrap interval.

    Patients are drawn with replacement. The percentile interval (Efron and Tibshirani 1993, chapter 13), its
    percentiles moved outwards as Student's are for few patients (Hesterberg 2015, The American Statistician 69:371,
    "expanded"); the plain one is too narrow for them. For two models on the same patients, pass the differences per
    patient: the interval of the mean difference says far more than two intervals side by side.

    Args:
        values: one number per patient, in any order; NaN where the metric is undefined.
        seed: of the resampling: equal values and seed give equal intervals.
        resamples: number of bootstrap samples.
        level: the interval's nominal coverage, in (0, 1).
    """
    if not 0 < level < 1:
        raise InputError(f"level: expected a number between 0 and 1, got {level}")
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1:
        raise InputError(f"expected one value per patient, got an array of shape {given.shape}")
    # Sorted, so that the order of patients has no say in which ones are drawn.
    defined = np.sort(given[~np.isnan(given)])
    undefined = given.size - defined.size
    if defined.size == 0:
        return Summary(None, None, None, None, patients=0, undefined=undefined)
    mean, median = float(defined.mean()), float(np.median(defined))
    if defined.size == 1:
        return Summary(mean, median, None, None, patients=1, undefined=undefined)
    spread = np.sqrt(defined.size / (defined.size - 1)) * stats.t.ppf((1 + level) / 2, defined.size - 1)
    wider = min(1 - 2 * float(stats.norm.sf(spread)), 1 - 1e-12)
    interval = stats.bootstrap(
        (defined,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, 10_000_000 // defined.size),
        confidence_level=wider,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Summary(mean, median, float(interval.low), float(interval.high), int(defined.size), undefined)

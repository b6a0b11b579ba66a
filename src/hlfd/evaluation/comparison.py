"""Is one model better than another? Paired statistics over patients, and a plain sentence for each comparison.

Values come as patients x seeds. Differences are averaged over seeds, then patients are drawn: the interval and the test
say how far the patients decide. How far another training would, only several seeds can say: where there are any, a
claim has to hold over them too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from hlfd.errors import InputError
from hlfd.evaluation.results import CaseResult
from hlfd.evaluation.statistics import mean_interval

LEAST_PATIENTS = 5
Better = Literal["high", "low", "zero"]
Values = Mapping[str, np.ndarray]

_HIGH = (
    "dice",
    "jaccard",
    "iou",
    "precision",
    "recall",
    "surface_dice",
    "lesion_precision",
    "lesion_recall",
    "lesion_f1",
)
_ZERO = ("rvd", "rvd_evaluator", "volume_difference_ml", "tumor_burden_error")


@dataclass(frozen=True)
class Measure:
    """How a metric reads: which values are good, and the unit that differences are told in.

    Attributes:
        better: ``zero``: the smaller its absolute value.
        unit: for example ``Dice`` (in points of 100) or ``mm HD95``.
        scale: from the value to the unit.
    """

    better: Better
    unit: str
    scale: float = 1.0


def measure_of(metric: str) -> Measure:
    """How a protocol's metric reads: ``measure_of("hd95_mm")`` is in mm and better when low."""
    better: Better = "high" if metric in _HIGH else "zero" if metric in _ZERO else "low"
    stem, _, unit = metric.rpartition("_")
    if unit in ("mm", "ml"):
        return Measure(better, f"{unit} {stem.replace('_', ' ').upper() if unit == 'mm' else stem.replace('_', ' ')}")
    names = {"dice": "Dice", "jaccard": "Jaccard", "iou": "IoU", "surface_dice": "surface Dice", "voe": "VOE"}
    return Measure(better, names.get(metric, metric.replace("_", " ")), 100.0)


@dataclass(frozen=True)
class Comparison:
    """One model against another, patient by patient.

    Attributes:
        name, minus: the models: differences are ``name`` minus ``minus``.
        measure: of the metric.
        difference: mean over patients of the difference, averaged over seeds, in the metric's own scale.
        low, high: its bootstrap interval over patients; None with fewer than two.
        p: of Wilcoxon's signed-rank test, two-sided; zero differences are ranked (Pratt 1959). None if refused.
        p_holm: after Holm's correction for the comparisons made together.
        effect: Cohen's d of the paired differences, mean over standard deviation; None where that is 0.
        rank_biserial: matched-pairs rank-biserial correlation, in [-1, 1] (Kerby 2014).
        patients: with a defined difference; ``undefined``: without.
        trainings: of ``name`` and of ``minus``, one a seed; a single one is compared with each of the other's.
        by_seed: mean difference over patients with each seed.
        patient_sd, seed_sd: standard deviation of a patient's difference, averaged over seeds, and of the mean
            difference from seed to seed; None with fewer than two.
    """

    name: str
    minus: str
    measure: Measure
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    effect: float | None
    rank_biserial: float | None
    patients: int
    undefined: int
    trainings: tuple[int, int]
    by_seed: tuple[float, ...]
    patient_sd: float | None
    seed_sd: float | None

    @property
    def steady(self) -> bool:
        """Whether the difference is not 0 over seeds: by a t interval of 95 %. One seed can't say, and is not asked."""
        seeds = len(self.by_seed)
        if self.difference is None or self.seed_sd is None or seeds < 2:
            return True
        return abs(self.difference) > float(stats.t.ppf(0.975, seeds - 1)) * self.seed_sd / math.sqrt(seeds)

    @property
    def verdict(self) -> Literal["better", "worse", "none", "refused"]:
        """What may be claimed of ``name``: better or worse if it is so over patients and over seeds.

        Over patients: p after Holm is below 0.05 and the interval agrees. Over seeds: `steady`.
        """
        if self.patients < LEAST_PATIENTS or self.difference is None:
            return "refused"
        if not (self._over_patients and self.steady):
            return "none"
        return "better" if (self.difference > 0) == (self.measure.better == "high") else "worse"

    @property
    def _over_patients(self) -> bool:
        shown = self.p_holm is not None and self.p_holm < 0.05
        return shown and self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    @property
    def sentence(self) -> str:
        """``hlfd is better than kd by 2.1 Dice [0.9, 3.4], p = 0.004 after Holm, 31 patients, 5 seeds``."""
        who = f"{self.name} and {self.minus}"
        if self.verdict == "refused" or self.difference is None or self.low is None or self.high is None:
            return f"no claim about {who}: {_number(self.patients, 'patient')}, at least {LEAST_PATIENTS} are needed"
        sign = -1 if self.verdict != "none" and self.difference < 0 else 1
        low, high = sorted((sign * self.low, sign * self.high))
        difference, low, high = (value * self.measure.scale for value in (sign * self.difference, low, high))
        figures = f"{_figure(difference)} {self.measure.unit} [{_figure(low)}, {_figure(high)}]"
        tail = f"{_p(self.p_holm)} after Holm, {_number(self.patients, 'patient')}, {self._trained}"
        if self.verdict == "none":
            if self._over_patients:
                ends = (_figure(value * self.measure.scale) for value in (min(self.by_seed), max(self.by_seed)))
                tail += f", from {' to '.join(ends)} seed by seed"
            return f"no difference shown between {who}: {figures}, {tail}"
        return f"{self.name} is {self.verdict} than {self.minus} by {figures}, {tail}"

    @property
    def _trained(self) -> str:
        one, other = self.trainings
        if one != other:
            return f"{_number(one, 'training')} of {self.name} and {other} of {self.minus}"
        return _number(one, "seed") if one > 1 else "one training of each"


def patient_values(
    runs: Mapping[str, Sequence[Sequence[CaseResult]]], region: str, metric: str
) -> dict[str, np.ndarray]:
    """Model -> patients x seeds, the same patients in the same order for all; NaN where undefined.

    A model that was trained once, as a teacher is, has one column beside others' several.

    Args:
        runs: model -> seed by seed, its case results. A patient with several cases counts with their mean.

    Raises:
        InputError: a model was judged on other patients or with another number of seeds, or has no such metric.
    """
    first: tuple[str, list[str]] | None = None
    several: tuple[str, int] | None = None
    values: dict[str, np.ndarray] = {}
    for model, seeds in runs.items():
        columns: list[dict[str, float]] = []
        for cases in seeds:
            found: dict[str, list[float]] = {}
            for case in cases:
                if metric not in case.regions.get(region, {}):
                    raise InputError(f"{model}: {case.case}: has no {metric} of {region}")
                found.setdefault(case.patient, []).append(case.regions[region][metric])
            columns.append({p: _mean([v for v in found[p] if not math.isnan(v)]) for p in sorted(found)})
        for column in columns:
            first = first or (model, list(column))
            if different := set(first[1]).symmetric_difference(column):
                raise InputError(
                    f"{model}: judged on other patients than {first[0]}: {', '.join(sorted(different)[:3])}"
                )
        if len(seeds) > 1:
            several = several or (model, len(seeds))
            if len(seeds) != several[1]:
                raise InputError(f"{model}: {len(seeds)} seeds, {several[0]} has {several[1]}")
        values[model] = np.array([list(column.values()) for column in columns], dtype=np.float64).T
    return values


def compare_models(
    values: Values, pairs: Sequence[tuple[str, str]], metric: str = "dice", *, seed: int = 0, resamples: int = 9999
) -> list[Comparison]:
    """Compare models patient by patient; Holm's correction is over all the pairs.

    Args:
        values: model -> patients x seeds, or patients x 1, see `patient_values`.
        pairs: (model, the one it is compared with).
        metric: what the values are.
        seed, resamples: of the bootstrap.

    Raises:
        InputError: a model that isn't there, or values of another shape.
    """
    measure = measure_of(metric)
    found = [_compare(values, name, minus, measure, seed, resamples) for name, minus in pairs]
    tested = [c["p"] for c in found if c["p"] is not None]
    corrected = iter(holm(tested))
    return [Comparison(**c, p_holm=None if c["p"] is None else next(corrected)) for c in found]


def _compare(values: Values, name: str, minus: str, measure: Measure, seed: int, resamples: int) -> dict[str, Any]:
    for model in (name, minus):
        if model not in values:
            raise InputError(f"there is no model '{model}' to compare; there are {', '.join(values)}")
    one, other = values[name], values[minus]
    fits = one.ndim == other.ndim == 2 and len(one) == len(other)
    if not fits or (one.shape[1] != other.shape[1] and 1 not in (one.shape[1], other.shape[1])):
        raise InputError(f"expected patients x seeds of one shape, {name} has {one.shape}, {minus} {other.shape}")
    each = np.abs(one) - np.abs(other) if measure.better == "zero" else one - other
    each = each[~np.isnan(each).any(1)]
    differences = each.mean(1)
    interval = mean_interval(differences, seed=seed, resamples=resamples)
    by_seed = each.mean(0) if len(each) else np.empty(0)
    sd = _sd(differences)
    return {
        "name": name,
        "minus": minus,
        "measure": measure,
        "difference": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "p": signed_rank(differences) if len(differences) >= LEAST_PATIENTS else None,
        "effect": float(differences.mean() / sd) if sd else None,
        "rank_biserial": rank_biserial(differences) if len(differences) else None,
        "patients": len(differences),
        "undefined": len(one) - len(differences),
        "trainings": (one.shape[1], other.shape[1]),
        "by_seed": tuple(map(float, by_seed)),
        "patient_sd": sd,
        "seed_sd": _sd(by_seed),
    }


def signed_rank(differences: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; 1 if no difference differs from 0."""
    if not differences.any():
        return 1.0
    result: Any = stats.wilcoxon(differences, zero_method="pratt")
    return float(result.pvalue)


def rank_biserial(differences: np.ndarray) -> float:
    """Share of the rank sum in favour minus share against, in [-1, 1]; 0 if no difference differs from 0."""
    differences = differences[differences != 0]
    if not differences.size:
        return 0.0
    ranks = stats.rankdata(np.abs(differences))
    return float((ranks * np.sign(differences)).sum() / ranks.sum())


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values that keep the chance of any false claim at the level (Holm 1979)."""
    adjusted, highest = [0.0] * len(p), 0.0
    for place, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = highest
    return adjusted


def _sd(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _number(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)


def _figure(value: float) -> str:
    digits = 1 if abs(value) >= 0.1 or value == 0 else 2
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _p(p: float | None) -> str:
    if p is None:
        return "p unknown"
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.1g}" if p < 0.01 else f"p = {p:.2f}"

"""From cases to patients to one figure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hlfd.errors import InputError
from hlfd.evaluation.results import CaseResult
from hlfd.evaluation.statistics import mean_interval


def summarize(cases: Sequence[CaseResult]) -> dict[str, dict[str, dict[str, Any]]]:
    """Region -> metric -> the fields of a `Summary`, over patients.

    A patient with several cases counts once, with the mean of the cases in which the metric is defined.

    Raises:
        InputError: if there are no cases, a case occurs twice or the cases don't share their regions and metrics.
    """
    if not cases:
        raise InputError("no cases to summarize")
    first = {region: list(scores) for region, scores in cases[0].regions.items()}
    seen: set[str] = set()
    by_patient: dict[str, list[CaseResult]] = {}
    for result in cases:
        if result.case in seen:
            raise InputError(f"case {result.case} occurs twice")
        if set(result.regions) != set(first):
            raise InputError(f"{result.case}: expected regions {list(first)}, got {list(result.regions)}")
        for region, scores in result.regions.items():
            if set(scores) != set(first[region]):
                raise InputError(f"{result.case}: {region}: expected metrics {first[region]}, got {list(scores)}")
        seen.add(result.case)
        by_patient.setdefault(result.patient, []).append(result)
    return {
        region: {
            metric: asdict(mean_interval([_of_patient(group, region, metric) for group in by_patient.values()]))
            for metric in metrics
        }
        for region, metrics in first.items()
    }


def count_empty(cases: Sequence[CaseResult]) -> dict[str, dict[str, int]]:
    """Region -> ``both``, ``reference``, ``prediction`` -> in how many cases that is empty."""
    kinds = ("both", "reference", "prediction")
    return {
        region: {kind: Counter(c.voxels[region].empty for c in cases)[kind] for kind in kinds}
        for region in (cases[0].voxels if cases else ())
    }


def _of_patient(cases: Sequence[CaseResult], region: str, metric: str) -> float:
    values = np.array([c.regions[region][metric] for c in cases], dtype=np.float64)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")

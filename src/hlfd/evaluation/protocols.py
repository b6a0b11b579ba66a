"""The default protocol: every slice of every case counts, metrics per case, means over patients."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hlfd.errors import InputError
from hlfd.evaluation.metrics import EMPTY_POLICY, METRICS, Overlap, overlap
from hlfd.evaluation.statistics import mean_interval
from hlfd.io.files import write_atomic, write_json
from hlfd.labels import Labels
from hlfd.volume import Volume


@dataclass(frozen=True)
class CaseResult:
    """Overlap of every region in one case."""

    case: str
    patient: str
    regions: Mapping[str, Overlap]


def evaluate_case(prediction: Volume, reference: Volume, labels: Labels, case: str) -> dict[str, Overlap]:
    """Region -> overlap, over all voxels of one case.

    Args:
        prediction: class indices, on the grid of the reference.
        reference: class indices.
        labels: what the class indices mean; the keys of the result are its regions.
        case: the case's id, for messages.

    Raises:
        InputError: if the grids differ, or a volume holds anything but the class indices of ``labels``.
    """
    reference.require_same_grid(prediction, f"{case}: prediction")
    _require_classes(prediction.voxels, labels, f"{case}: prediction")
    _require_classes(reference.voxels, labels, f"{case}: reference")
    return {
        name: overlap(labels.region(prediction.voxels, name), labels.region(reference.voxels, name))
        for name in labels.regions
    }


def summarize(cases: Sequence[CaseResult]) -> dict[str, dict[str, dict[str, Any]]]:
    """Region -> metric -> the fields of a `Summary`, over patients.

    A patient with several cases counts once, with the mean of the cases in which the metric is defined.

    Raises:
        InputError: if there are no cases, a case occurs twice or the cases don't share their regions.
    """
    if not cases:
        raise InputError("no cases to summarize")
    regions = list(cases[0].regions)
    seen: set[str] = set()
    by_patient: dict[str, list[CaseResult]] = {}
    for result in cases:
        if result.case in seen:
            raise InputError(f"case {result.case} occurs twice")
        if set(result.regions) != set(regions):
            raise InputError(f"{result.case}: expected regions {regions}, got {list(result.regions)}")
        seen.add(result.case)
        by_patient.setdefault(result.patient, []).append(result)
    return {
        region: {
            metric: asdict(mean_interval([_of_patient(group, region, metric) for group in by_patient.values()]))
            for metric in METRICS
        }
        for region in regions
    }


def write_evaluation(folder: str | Path, cases: Sequence[CaseResult]) -> None:
    """Write ``evaluation.json`` (protocol, every case, the summary) and ``evaluation.csv`` (a row per case and region).

    An undefined value is null in the JSON and an empty field in the CSV.
    """
    folder = Path(folder)
    document = {
        "protocol": "default",
        "empty_policy": EMPTY_POLICY,
        "cases": [
            {"case": c.case, "patient": c.patient, "regions": {name: asdict(o) for name, o in c.regions.items()}}
            for c in cases
        ],
        "labels": summarize(cases),
    }
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["case", "patient", "region", *METRICS])
    for result in cases:
        for region, values in result.regions.items():
            numbers = (getattr(values, metric) for metric in METRICS)
            rows.writerow([result.case, result.patient, region, *("" if np.isnan(n) else n for n in numbers)])
    write_json(folder / "evaluation.json", document)
    write_atomic(folder / "evaluation.csv", table.getvalue())


def read_evaluation(path: Path) -> list[CaseResult]:
    """The case results of an ``evaluation.json``; null reads as NaN."""
    cases = json.loads(path.read_text())["cases"]

    def overlap_of(values: Mapping[str, float | None]) -> Overlap:
        return Overlap(**{metric: float("nan") if (v := values[metric]) is None else v for metric in METRICS})

    return [
        CaseResult(c["case"], c["patient"], {name: overlap_of(values) for name, values in c["regions"].items()})
        for c in cases
    ]


def _of_patient(cases: Sequence[CaseResult], region: str, metric: str) -> float:
    values = np.array([getattr(c.regions[region], metric) for c in cases], dtype=np.float64)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _require_classes(voxels: np.ndarray, labels: Labels, what: str) -> None:
    if voxels.dtype.kind not in "iu":
        raise InputError(f"{what}: expected integer class indices, got {voxels.dtype}")
    low, high = int(voxels.min(initial=0)), int(voxels.max(initial=0))
    if low < 0 or high >= labels.classes:
        found = low if low < 0 else high
        raise InputError(f"{what}: expected class indices 0 to {labels.classes - 1}, got {found}")

"""What an evaluation gives: figures per case and region, and their files."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hlfd.errors import InputError
from hlfd.evaluation.overlap import Counts
from hlfd.io.files import jsonable, write_atomic, write_json

if TYPE_CHECKING:
    from hlfd.evaluation.protocols import Protocol

VERSION = 2
Side = Literal["reference", "prediction"]


class Scores(dict[str, float]):
    """Metric -> value of one region in one case; NaN where it is undefined."""

    @property
    def dice(self) -> float:
        """2I / (P + G), as the protocol defines it; every protocol has it."""
        return self["dice"]


@dataclass(frozen=True)
class Lesion:
    """A connected component of a region, in the reference or in the prediction.

    Attributes:
        volume_ml: its volume.
        overlap: intersection over union of the group that it was matched into (`hlfd.evaluation.lesions`), in [0, 1];
            0 if it touches nothing of the other side.
        group: number of that group within its case and region, None if there is none.
        scores: what a protocol measured of the group; on the group's first reference lesion only.
    """

    side: Side
    volume_ml: float
    overlap: float
    group: int | None = None
    scores: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def detected(self) -> bool:
        """Whether it overlaps the other side at all."""
        return self.overlap > 0

    @property
    def detected_50(self) -> bool:
        """Whether its group's overlap is above one half."""
        return self.overlap > 0.5

    @property
    def diameter_mm(self) -> float:
        """Diameter of the ball of its volume."""
        return float((6000 * self.volume_ml / math.pi) ** (1 / 3))


@dataclass(frozen=True)
class Calibration:
    """How often the most probable class is right, by how probable it was; equally wide bins from 0 to 1.

    Attributes:
        voxels, confidence, correct: per bin: number of voxels, sum of the top probabilities, number of right ones.
    """

    voxels: Sequence[int]
    confidence: Sequence[float]
    correct: Sequence[int]

    @property
    def ece(self) -> float:
        """Expected calibration error, in [0, 1], 0 is best; NaN without voxels (Guo et al. 2017)."""
        total = sum(self.voxels)
        gaps = (abs(right - sure) for right, sure in zip(self.correct, self.confidence, strict=True))
        return sum(gaps) / total if total else float("nan")


@dataclass(frozen=True)
class CaseResult:
    """Everything measured of one case.

    Attributes:
        case, patient: ids.
        regions: region -> its scores.
        voxels: region -> voxels of prediction, reference and both, over the whole volume.
        lesions: region -> lesions of both sides, for regions that consist of lesions.
        calibration: ``all`` voxels, and those in the ``foreground`` of reference or prediction, where probabilities
            were at hand.
        nan: whether the network gave NaN, which counts as background.
    """

    case: str
    patient: str
    regions: Mapping[str, Scores]
    voxels: Mapping[str, Counts] = field(default_factory=dict[str, Counts])
    lesions: Mapping[str, Sequence[Lesion]] = field(default_factory=dict[str, Sequence[Lesion]])
    calibration: Mapping[str, Calibration] = field(default_factory=dict[str, Calibration])
    nan: bool = False


def write_evaluation(folder: str | Path, cases: Sequence[CaseResult], protocol: "Protocol") -> dict[str, Any]:
    """Write ``evaluation.json`` and ``evaluation.csv`` (a row per case and region); the JSON's content.

    An undefined value is null in the JSON and an empty field in the CSV.
    """
    from hlfd.evaluation.calibration import calibration_totals
    from hlfd.evaluation.summary import count_empty, summarize

    folder = Path(folder)
    document = jsonable(
        {
            "version": VERSION,
            "protocol": protocol.name,
            "options": protocol.options,
            "empty_policy": protocol.empty_policy,
            "cases": [_case_as_json(case) for case in cases],
            "labels": summarize(cases),
            "empty": count_empty(cases),
            "global": {**protocol.totals(cases), **calibration_totals(cases)},
        }
    )
    metrics = list(dict.fromkeys(m for case in cases for scores in case.regions.values() for m in scores))
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["case", "patient", "region", "empty", *metrics])
    for case in cases:
        for region, scores in case.regions.items():
            numbers = (scores.get(metric, math.nan) for metric in metrics)
            empty = case.voxels[region].empty
            rows.writerow([case.case, case.patient, region, empty, *("" if math.isnan(n) else n for n in numbers)])
    write_json(folder / "evaluation.json", document)
    write_atomic(folder / "evaluation.csv", table.getvalue())
    return document


def read_evaluation(path: Path) -> list[CaseResult]:
    """The case results of an ``evaluation.json``; null reads as NaN.

    Raises:
        InputError: no such file, or not one of ours.
    """
    try:
        document = json.loads(path.read_text())
        return [_case_from_json(case) for case in document["cases"]]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: not the file of an evaluation, {' '.join(repr(error).split())}") from None


def _case_as_json(case: CaseResult) -> dict[str, Any]:
    return {
        "case": case.case,
        "patient": case.patient,
        "regions": {region: dict(scores) for region, scores in case.regions.items()},
        "voxels": {region: asdict(counts) for region, counts in case.voxels.items()},
        "lesions": {
            region: [
                {**asdict(x), "diameter_mm": x.diameter_mm, "detected": x.detected, "detected_50": x.detected_50}
                for x in lesions
            ]
            for region, lesions in case.lesions.items()
        },
        "calibration": {where: asdict(bins) for where, bins in case.calibration.items()},
        **({"nan": True} if case.nan else {}),
    }


def _case_from_json(case: Mapping[str, Any]) -> CaseResult:
    def numbers(values: Mapping[str, float | None]) -> dict[str, float]:
        return {metric: math.nan if value is None else value for metric, value in values.items()}

    def lesion(values: Mapping[str, Any]) -> Lesion:
        known = {key: values[key] for key in ("side", "volume_ml", "overlap", "group")}
        return Lesion(**known, scores=numbers(values["scores"]))

    return CaseResult(
        case["case"],
        case["patient"],
        {region: Scores(numbers(values)) for region, values in case["regions"].items()},
        {region: Counts(**counts) for region, counts in case.get("voxels", {}).items()},
        {region: tuple(map(lesion, found)) for region, found in case.get("lesions", {}).items()},
        {where: Calibration(**bins) for where, bins in case.get("calibration", {}).items()},
        nan=case.get("nan", False),
    )

"""What protocols are made from."""

import math
from collections.abc import Sequence
from dataclasses import asdict

from hlfd.errors import InputError
from hlfd.evaluation.distances import SurfaceDistances
from hlfd.evaluation.lesions import detection
from hlfd.evaluation.overlap import Counts, overlap_of
from hlfd.evaluation.pairs import Regions
from hlfd.evaluation.results import CaseResult
from hlfd.labels import Labels

SIZES_MM = ((0.0, 10.0), (10.0, 20.0), (20.0, math.inf))
"""Lesion diameters that are counted apart: below 10 mm RECIST calls a lesion too small to measure."""


def regions_as_declared(labels: Labels) -> Regions:
    """The regions that the labels declare."""
    return labels.regions


def require_classes(protocol: str, labels: Labels, *expected: str, optional: tuple[str, ...] = ()) -> None:
    """Raise `InputError` unless the classes are these, in this order, with or without the optional ones after them."""
    if labels.names not in (expected, expected + optional):
        wanted = ", ".join([*expected, *(f"[{name}]" for name in optional)])
        raise InputError(f"protocol '{protocol}': expected the classes {wanted}, got {', '.join(labels.names)}")


def overlap_scores(counts: Counts) -> dict[str, float]:
    """Every metric of `hlfd.evaluation.overlap`."""
    return asdict(overlap_of(counts))


def volume_scores(counts: Counts, voxel_ml: float) -> dict[str, float]:
    """Volumes in ml, and prediction minus reference."""
    difference = (counts.prediction - counts.reference) * voxel_ml
    return {
        "prediction_ml": counts.prediction * voxel_ml,
        "reference_ml": counts.reference * voxel_ml,
        "volume_difference_ml": difference,
        "abs_volume_difference_ml": abs(difference),
    }


def distance_scores(distances: SurfaceDistances | None, counts: Counts, worst_mm: float) -> dict[str, float]:
    """Distances of two surfaces; 0 if both masks are empty, ``worst_mm`` if one is."""
    if distances is None:
        worst = 0.0 if counts.empty == "both" else worst_mm
        return dict.fromkeys(("assd_mm", "rmsd_mm", "hd95_mm", "hd_mm", "mssd_mm"), worst)
    hd_mm = distances.hd_mm
    return {
        "assd_mm": distances.assd_mm,
        "rmsd_mm": distances.rmsd_mm,
        "hd95_mm": distances.hd95_mm,
        "hd_mm": hd_mm,
        "mssd_mm": hd_mm,
    }


def surface_dice(distances: SurfaceDistances | None, counts: Counts, tolerance_mm: float) -> float:
    """Surface Dice; 1 if both masks are empty, 0 if one is."""
    if distances is None:
        return 1.0 if counts.empty == "both" else 0.0
    return distances.surface_dice(tolerance_mm)


def global_dice(cases: Sequence[CaseResult]) -> dict[str, dict[str, float]]:
    """Region -> ``dice_global``."""
    return {region: {"dice_global": dice_global(cases, region)} for region in cases[0].voxels}


def dice_global(cases: Sequence[CaseResult], region: str) -> float:
    """Dice over the voxels of all cases together; 1 if no case has the region on either side."""
    counts = [case.voxels[region] for case in cases]
    total = sum(c.prediction + c.reference for c in counts)
    return 2 * sum(c.both for c in counts) / total if total else 1.0


def lesion_totals(cases: Sequence[CaseResult], region: str) -> dict[str, float]:
    """Detection over the lesions of all cases, at any overlap and above one half, and recall by diameter."""
    lesions = [lesion for case in cases for lesion in case.lesions[region]]
    real = [lesion for lesion in lesions if lesion.side == "reference"]
    totals: dict[str, float] = {
        "lesions_reference": len(real),
        "lesions_prediction": len(lesions) - len(real),
        **detection(lesions),
        **{f"{name}_50": value for name, value in detection(lesions, 0.5).items()},
    }
    for low, high in SIZES_MM:
        name = f"{low:g}_to_{high:g}_mm" if math.isfinite(high) else f"from_{low:g}_mm"
        group = [lesion for lesion in real if low <= lesion.diameter_mm < high]
        totals[f"lesions_{name}"] = len(group)
        totals[f"lesion_recall_{name}"] = detection(group)["lesion_recall"]
    return totals

"""The figures that MONAI's metrics give with their defaults, without running them.

DiceMetric (empty references ignored), HausdorffDistanceMetric (with percentile=95, and without),
SurfaceDistanceMetric(symmetric=True), SurfaceDiceMetric (border voxels). One departure: where only the prediction is
empty MONAI gives a distance of infinity or NaN, of which the latter drops out of its mean; here it is the volume's
diagonal.
"""

from hlfd.evaluation.distances import surface_distances
from hlfd.evaluation.overlap import Counts, count, overlap_of
from hlfd.evaluation.pairs import Pair
from hlfd.evaluation.protocol import Measured, Protocol
from hlfd.evaluation.protocols import _shared
from hlfd.evaluation.results import Scores

METRICS = ("dice", "iou", "surface_dice", "hd95_mm", "hd_mm", "assd_mm")
EMPTY_POLICY = (
    "both empty: all undefined; only the reference empty: surface Dice 0, the rest undefined; only the prediction "
    "empty: Dice, IoU and surface Dice 0, distances the volume's diagonal (MONAI: infinity or NaN); undefined values "
    "are counted and left out of means"
)


def build(*, tolerance_mm: float = 2.0) -> Protocol:
    """MONAI's Dice, IoU, Hausdorff, average surface distance and surface Dice, with its treatment of empty references.

    Args:
        tolerance_mm: of the surface Dice.
    """
    nan = float("nan")

    def measure(pair: Pair) -> Measured:
        scores: dict[str, Scores] = {}
        voxels: dict[str, Counts] = {}
        for region in pair.regions:
            masks = pair.masks(region)
            voxels[region] = counts = count(*masks)
            distances = surface_distances(*masks, pair.spacing_mm)
            if counts.reference:
                overlap, mm = overlap_of(counts), _shared.distance_scores(distances, counts, pair.diagonal_mm)
                surface_dice = _shared.surface_dice(distances, counts, tolerance_mm)
                values = (overlap.dice, overlap.jaccard, surface_dice, mm["hd95_mm"], mm["hd_mm"], mm["assd_mm"])
            else:
                values = (nan, nan, 0.0 if counts.prediction else nan, nan, nan, nan)
            scores[region] = Scores(zip(METRICS, values, strict=True))
        return Measured(scores, voxels)

    return Protocol(
        "monai",
        METRICS,
        EMPTY_POLICY,
        _shared.regions_as_declared,
        measure,
        _shared.global_dice,
        options={"tolerance_mm": tolerance_mm},
    )

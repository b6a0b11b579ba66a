"""Everything: overlap, volumes, surface distances, surface Dice and, for tumours and lesions, lesion-wise detection."""

from collections.abc import Sequence

from hlfd.evaluation.distances import surface_distances
from hlfd.evaluation.lesions import detection, lesions_of, match
from hlfd.evaluation.overlap import Counts, count
from hlfd.evaluation.pairs import Pair
from hlfd.evaluation.protocol import Measured, Protocol, Totals
from hlfd.evaluation.protocols import _shared
from hlfd.evaluation.results import CaseResult, Lesion, Scores
from hlfd.labels import consists_of_lesions

METRICS = ("dice", "surface_dice", "hd95_mm", "assd_mm", "rvd", "lesion_recall", "lesion_precision")

EMPTY_POLICY = (
    "both empty: dice, jaccard, precision, recall, surface Dice 1, the rest 0; only the prediction empty (a miss): "
    "overlap, surface Dice and detection 0, voe 1, distances the volume's diagonal, the worst there is, but rvd -1, "
    "abs_rvd 1 and minus the reference's volume, which over-segmentation can exceed; only the reference empty: overlap "
    "and surface Dice 0, voe 1, distances the diagonal, rvd, abs_rvd and recall undefined (null); lesion recall is "
    "undefined without reference lesions, lesion precision and F1 without any; undefined values are counted and left "
    "out of means"
)


def build(*, tolerance_mm: float = 2.0) -> Protocol:
    """Overlap, volumes, surface distances, surface Dice, lesion-wise detection; every slice of every case counts.

    Args:
        tolerance_mm: of the surface Dice.

    A region is taken to consist of lesions if its name says so (tumor, cancer, lesion, mass, cyst, metastases, nodule)
    and it holds nothing else: ``kidney_and_mass`` doesn't.
    Components touch by faces, edges or corners; surfaces are border voxels that lack a neighbour across a face.
    """

    def measure(pair: Pair) -> Measured:
        scores: dict[str, Scores] = {}
        voxels: dict[str, Counts] = {}
        lesions: dict[str, tuple[Lesion, ...]] = {}
        for region in pair.regions:
            prediction, reference = pair.masks(region)
            voxels[region] = counts = count(prediction, reference)
            distances = surface_distances(prediction, reference, pair.spacing_mm)
            scores[region] = Scores(
                _shared.overlap_scores(counts)
                | _shared.distance_scores(distances, counts, pair.diagonal_mm)
                | {"surface_dice": _shared.surface_dice(distances, counts, tolerance_mm)}
                | _shared.volume_scores(counts, pair.voxel_ml)
            )
            if consists_of_lesions(region, [pair.names[index - 1] for index in pair.regions[region]]):
                lesions[region] = lesions_of(match(prediction, reference), pair.voxel_ml)
                scores[region] |= detection(lesions[region])
        return Measured(scores, voxels, lesions)

    return Protocol(
        "default",
        METRICS,
        EMPTY_POLICY,
        _shared.regions_as_declared,
        measure,
        totals,
        options={"tolerance_mm": tolerance_mm},
    )


def totals(cases: Sequence[CaseResult]) -> Totals:
    """Global Dice, and detection over all lesions."""
    found = _shared.global_dice(cases)
    for region in cases[0].lesions:
        found[region] |= _shared.lesion_totals(cases, region)
    return found

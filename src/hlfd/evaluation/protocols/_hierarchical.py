"""What KiTS 2021 and 2023 share: hierarchical evaluation classes, Dice and surface Dice over surface elements."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from hlfd.evaluation.distances import surface_distances
from hlfd.evaluation.overlap import count, overlap_of
from hlfd.evaluation.pairs import Pair, Regions
from hlfd.evaluation.protocol import Measured, Protocol, Totals
from hlfd.evaluation.protocols import _shared
from hlfd.evaluation.results import CaseResult, Scores
from hlfd.evaluation.surfaces import element_surface
from hlfd.labels import Labels

REGIONS: Regions = {"kidney_and_mass": (1, 2, 3), "mass": (2, 3), "tumor": (2,)}
LABELS = Labels({0: 0, 1: 1, 2: 2, 3: 3}, REGIONS, ("kidney", "tumor", "cyst"))
EMPTY_POLICY = "Dice and surface Dice: both empty 1, one of them empty 0"


def build_hierarchical(name: str, tolerances_mm: Mapping[str, float]) -> Protocol:
    """The protocol of one year; it differs in the tolerances alone."""

    def regions(labels: Labels) -> Regions:
        _shared.require_classes(name, labels, "kidney", "tumor", optional=("cyst",))
        return REGIONS

    def measure(pair: Pair) -> Measured:
        scores: dict[str, Scores] = {}
        voxels = {region: count(*pair.masks(region)) for region in pair.regions}
        for region, counts in voxels.items():
            distances = surface_distances(*pair.masks(region), pair.spacing_mm, element_surface)
            scores[region] = Scores(
                dice=overlap_of(counts).dice,
                surface_dice=_shared.surface_dice(distances, counts, tolerances_mm[region]),
            )
        return Measured(scores, voxels)

    def totals(cases: Sequence[CaseResult]) -> Totals:
        means = {
            f"mean_{metric}": fmean(scores[metric] for case in cases for scores in case.regions.values())
            for metric in ("dice", "surface_dice")
        }
        return {**_shared.global_dice(cases), "all": means}

    options = {"tolerances_mm": dict(tolerances_mm)}
    return Protocol(name, ("dice", "surface_dice"), EMPTY_POLICY, regions, measure, totals, LABELS, options)

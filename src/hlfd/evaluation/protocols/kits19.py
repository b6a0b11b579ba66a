"""KiTS 2019: Dice of the kidney with its tumour, and of the tumour.

As github.com/neheller/kits19, starter_code/evaluation.py. The challenge's score of a case is the mean of its two Dice
(Heller et al. 2021, Medical Image Analysis 67:101821).
"""

from collections.abc import Sequence
from statistics import fmean

from hlfd.evaluation.overlap import count, overlap_of
from hlfd.evaluation.pairs import Pair, Regions
from hlfd.evaluation.protocol import Measured, Protocol, Totals
from hlfd.evaluation.protocols import _shared
from hlfd.evaluation.results import CaseResult, Scores
from hlfd.labels import Labels, organ_and_tumor

EMPTY_POLICY = (
    "Dice 0 wherever the reference or the prediction is empty, or both, as the script's error handling intends"
)


def build() -> Protocol:
    """KiTS 2019: Dice of kidney with tumour and of tumour, and their mean."""
    return Protocol("kits19", ("dice",), EMPTY_POLICY, regions, measure, totals, organ_and_tumor("both", "kidney"))


def regions(labels: Labels) -> Regions:
    """Kidney with tumour; tumour."""
    _shared.require_classes("kits19", labels, "kidney", "tumor")
    return {"kidney": (1, 2), "tumor": (2,)}


def measure(pair: Pair) -> Measured:
    """Dice; 0 if both are empty."""
    voxels = {region: count(*pair.masks(region)) for region in pair.regions}
    scores = {
        region: Scores(dice=0.0 if counts.empty == "both" else overlap_of(counts).dice)
        for region, counts in voxels.items()
    }
    return Measured(scores, voxels)


def totals(cases: Sequence[CaseResult]) -> Totals:
    """Global Dice, and the challenge's composite."""
    composite = fmean(fmean(scores.dice for scores in case.regions.values()) for case in cases)
    return {**_shared.global_dice(cases), "all": {"composite_dice": composite}}

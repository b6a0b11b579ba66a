"""The authors' own script, for comparison with tables made by it and for nothing else.

github.com/vangorade/RethinkingKD_ISBI24, utils/base_pl_model.py and scripts/SliceMaker.py: only axial slices count on
which the reference has the region, so false positives elsewhere are free; VOE is 2(P - I)/(P + G), which is 0 for any
under-segmentation; a case without the region is left out; RVD is signed. What can't be repeated from label maps: its
threshold of 0.4 on the probability (make the label maps with it), its crop to the middle 384 x 384 pixels.
"""

import numpy as np

from hlfd.evaluation.overlap import Counts, count
from hlfd.evaluation.pairs import Pair
from hlfd.evaluation.protocol import Measured, Protocol
from hlfd.evaluation.protocols import _shared
from hlfd.evaluation.results import Scores

METRICS = ("dice", "voe", "rvd")
EMPTY_POLICY = (
    "slices without the region in the reference are not looked at; a reference without it leaves the case undefined; "
    "prediction empty: dice 1/(G + 1), voe 0 (so a missed tumour has the best VOE), rvd -1"
)


def build() -> Protocol:
    """The script released with the paper: Dice, its VOE and RVD over the slices that show the region."""
    return Protocol("released", METRICS, EMPTY_POLICY, _shared.regions_as_declared, measure, _shared.global_dice)


def measure(pair: Pair) -> Measured:
    """Dice, VOE and RVD as the script has them."""
    scores: dict[str, Scores] = {}
    voxels: dict[str, Counts] = {}
    others = tuple(axis for axis in range(3) if axis != pair.axial_axis)
    for region in pair.regions:
        prediction, reference = pair.masks(region)
        shown = np.flatnonzero(reference.any(axis=others))
        voxels[region] = counts = count(*(m.take(shown, pair.axial_axis) for m in (prediction, reference)))
        p, g, both = counts.prediction, counts.reference, counts.both
        values = (
            ((2 * both + 1) / (p + g + 1), 2 * (p - both) / (p + g + 1e-7), p / (g + 1e-7) - 1)
            if g
            else (float("nan"),) * 3
        )
        scores[region] = Scores(zip(METRICS, values, strict=True))
    return Measured(scores, voxels)

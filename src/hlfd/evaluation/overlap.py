"""Overlap and volume of a predicted and a reference region.

P and G are the voxel counts of prediction and reference, I of their intersection.

What an empty mask gives:

| reference | prediction | dice, jaccard | voe | rvd | abs_rvd | precision | recall |
|---|---|---|---|---|---|---|---|
| empty | empty | 1 | 0 | 0 | 0 | 1 | 1 |
| empty | not empty | 0 | 1 | undefined (NaN) | undefined (NaN) | 0 | undefined (NaN) |
| not empty | empty | 0 | 1 | -1 | 1 | 0 | 0 |

An undefined value is counted and left out of means (`hlfd.evaluation.summary`). A region that was missed is never left
out, and has the worst dice, jaccard, voe, precision and recall there is. Not so rvd and abs_rvd: a region more than
twice too large has a larger abs_rvd than a missed one, so beside their means the number of missed regions stands.
"""

from dataclasses import dataclass

import numpy as np

from hlfd.errors import InputError


@dataclass(frozen=True)
class Counts:
    """Voxels of the prediction, of the reference, and of both at once."""

    prediction: int
    reference: int
    both: int

    @property
    def empty(self) -> str:
        """Which of the two is empty: ``both``, ``reference``, ``prediction`` or ``""``."""
        if not self.prediction:
            return "prediction" if self.reference else "both"
        return "" if self.reference else "reference"


@dataclass(frozen=True)
class Overlap:
    """How well two masks agree.

    Attributes:
        dice: 2I / (P + G), in [0, 1], 1 is best. Dice 1945, Ecology 26:297.
        jaccard: I / (P + G - I), in [0, 1], 1 is best. Jaccard 1912, New Phytologist 11:37.
        voe: volumetric overlap error 1 - jaccard, in [0, 1], 0 is best. Heimann et al. 2009, IEEE TMI 28:1251.
        rvd: relative volume difference (P - G) / G, in [-1, inf), 0 is best, negative when the prediction is too
            small. Signed, so that over- and under-segmentation cancel in a mean. Heimann et al. 2009.
        abs_rvd: its absolute value, in [0, inf).
        precision: I / P, in [0, 1], 1 is best.
        recall: I / G (sensitivity), in [0, 1], 1 is best.
    """

    dice: float
    jaccard: float
    voe: float
    rvd: float
    abs_rvd: float
    precision: float
    recall: float


def count(prediction: np.ndarray, reference: np.ndarray) -> Counts:
    """Count the voxels of two boolean masks of the same shape, any number of axes.

    Raises:
        InputError: if the shapes differ or an array isn't boolean.
    """
    if prediction.dtype != np.bool_ or reference.dtype != np.bool_:
        raise InputError(f"overlap: expected boolean masks, got {prediction.dtype} and {reference.dtype}")
    if prediction.shape != reference.shape:
        raise InputError(f"overlap: prediction has shape {prediction.shape}, reference {reference.shape}")
    p, g = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    return Counts(p, g, int(np.count_nonzero(prediction & reference)) if p and g else 0)


def overlap_of(counts: Counts) -> Overlap:
    """Overlap from voxel counts. Empty masks: see this module's table."""
    p, g, both = counts.prediction, counts.reference, counts.both
    if p + g == 0:
        return Overlap(dice=1.0, jaccard=1.0, voe=0.0, rvd=0.0, abs_rvd=0.0, precision=1.0, recall=1.0)
    # Whole-number numerators: no rounding takes voe below 0 or dice above 1.
    either = p + g - both
    rvd = (p - g) / g if g else float("nan")
    return Overlap(
        dice=2 * both / (p + g),
        jaccard=both / either,
        voe=(either - both) / either,
        rvd=rvd,
        abs_rvd=abs(rvd),
        precision=both / p if p else 0.0,
        recall=both / g if g else float("nan"),
    )


def overlap(prediction: np.ndarray, reference: np.ndarray) -> Overlap:
    """Overlap of two boolean masks of the same shape, any number of axes. Empty masks: see this module's table.

    >>> overlap(np.array([True, True, False]), np.array([True, False, False])).dice
    0.6666666666666666

    Raises:
        InputError: if the shapes differ or an array isn't boolean.
    """
    return overlap_of(count(prediction, reference))

"""Overlap of a predicted and a reference region: Dice, volumetric overlap error, relative volume difference.

P and G are the voxel counts of prediction and reference, I of their intersection.

What an empty mask gives:

| reference | prediction | dice | voe | rvd | abs_rvd |
|---|---|---|---|---|---|
| empty | empty | 1 | 0 | 0 | 0 |
| empty | not empty | 0 | 1 | undefined (NaN) | undefined (NaN) |
| not empty | empty | 0 | 1 | -1 | 1 |

An undefined value is counted and left out of means (`hlfd.evaluation.statistics`).
"""

from dataclasses import dataclass

import numpy as np

from hlfd.errors import InputError

METRICS = ("dice", "voe", "rvd", "abs_rvd")

EMPTY_POLICY = (
    "reference and prediction empty: dice 1, voe 0, rvd 0, abs_rvd 0; "
    "reference empty, prediction not: dice 0, voe 1, rvd and abs_rvd undefined (null, counted, left out of means); "
    "prediction empty, reference not: dice 0, voe 1, rvd -1, abs_rvd 1"
)


@dataclass(frozen=True)
class Overlap:
    """How well two masks agree.

    Attributes:
        dice: 2I / (P + G), in [0, 1], 1 is best. Dice 1945, Ecology 26:297.
        voe: volumetric overlap error 1 - I / (P + G - I), in [0, 1], 0 is best. Heimann et al. 2009, IEEE TMI 28:1251.
        rvd: relative volume difference (P - G) / G, in [-1, inf), 0 is best, negative when the prediction is too
            small. Signed, so that over- and under-segmentation cancel in a mean. Heimann et al. 2009.
        abs_rvd: its absolute value, in [0, inf).
    """

    dice: float
    voe: float
    rvd: float
    abs_rvd: float


def overlap(prediction: np.ndarray, reference: np.ndarray) -> Overlap:
    """Overlap of two boolean masks of the same shape, any number of axes. Empty masks: see this module's table.

    >>> overlap(np.array([True, True, False]), np.array([True, False, False]))
    Overlap(dice=0.6666666666666666, voe=0.5, rvd=1.0, abs_rvd=1.0)

    Raises:
        InputError: if the shapes differ or an array isn't boolean.
    """
    if prediction.dtype != np.bool_ or reference.dtype != np.bool_:
        raise InputError(f"overlap: expected boolean masks, got {prediction.dtype} and {reference.dtype}")
    if prediction.shape != reference.shape:
        raise InputError(f"overlap: prediction has shape {prediction.shape}, reference {reference.shape}")
    p, g = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    both = int(np.count_nonzero(prediction & reference))
    if p + g == 0:
        return Overlap(dice=1.0, voe=0.0, rvd=0.0, abs_rvd=0.0)
    # Whole-number numerators: no rounding takes voe below 0 or dice above 1.
    rvd = (p - g) / g if g else float("nan")
    return Overlap(dice=2 * both / (p + g), voe=(p + g - 2 * both) / (p + g - both), rvd=rvd, abs_rvd=abs(rvd))

"""Calibration: is a class that is given 80 % right in 80 % of the voxels?"""

from collections.abc import Sequence

import numpy as np

from hlfd.errors import InputError
from hlfd.evaluation.results import Calibration, CaseResult

BINS = 15
"""As in Guo et al. 2017."""


def calibrate(probabilities: np.ndarray, reference: np.ndarray, where: str) -> dict[str, Calibration]:
    """Bin the voxels of one case by the probability of their most probable class.

    Args:
        probabilities: C x I x J x K, of every class (background first), each voxel's adding up to 1; unsigned integers
            are shares of the largest that their type holds.
        reference: I x J x K class indices.
        where: the case or file, for messages.

    Returns:
        ``all`` voxels, nearly all of which are easy background, and those of the ``foreground``: of reference or
        prediction.

    Raises:
        InputError: another shape, NaN, values outside [0, 1], or that don't add up to 1.
    """
    if probabilities.shape[1:] != reference.shape:
        raise InputError(f"{where}: expected probabilities of shape C x {reference.shape}, got {probabilities.shape}")
    needed, given = int(reference.max(initial=0)) + 1, len(probabilities)
    if given < needed:
        raise InputError(f"{where}: expected the probabilities of {needed} classes or more, got {given}")
    found = {name: np.zeros((3, BINS)) for name in ("all", "foreground")}
    for k in range(reference.shape[2]):  # a slice at a time: bounds the memory
        p, truth = probabilities[..., k].astype(np.float32), reference[..., k]
        if probabilities.dtype.kind == "u":
            p /= np.iinfo(probabilities.dtype).max
        if np.isnan(p).any():
            raise InputError(f"{where}: expected probabilities, got {int(np.isnan(p).sum())} NaN in slice {k}")
        if p.min(initial=0) < -1e-4 or p.max(initial=0) > 1 + 1e-4:
            raise InputError(f"{where}: expected probabilities in [0, 1], got {p.min():.4g} to {p.max():.4g}")
        if np.abs(p.sum(0) - 1).max(initial=0) > 1e-2:
            raise InputError(f"{where}: expected the probabilities of a voxel to add up to 1, in slice {k} they don't")
        best, sure = p.argmax(0), p.max(0)
        for name, chosen in (("all", np.ones(truth.shape, dtype=bool)), ("foreground", (truth > 0) | (best > 0))):
            bins = np.minimum((sure[chosen] * BINS).astype(np.int64), BINS - 1)
            right = (best == truth)[chosen]
            found[name] += [np.bincount(bins, weights, BINS) for weights in (None, sure[chosen], right)]
    return {
        name: Calibration([int(n) for n in voxels], list(map(float, sums)), [int(n) for n in correct])
        for name, (voxels, sums, correct) in found.items()
    }


def calibration_totals(cases: Sequence[CaseResult]) -> dict[str, dict[str, float]]:
    """Expected calibration error over the voxels of all cases together, where probabilities were at hand."""
    found: dict[str, float] = {}
    for where in dict.fromkeys(where for case in cases for where in case.calibration):
        bins = [case.calibration[where] for case in cases if where in case.calibration]
        voxels, confidence, correct = (
            [sum(values) for values in zip(*rows, strict=True)]
            for rows in ([b.voxels for b in bins], [b.confidence for b in bins], [b.correct for b in bins])
        )
        found[f"ece_{where}"] = Calibration(voxels, confidence, correct).ece
    return {"calibration": found} if found else {}

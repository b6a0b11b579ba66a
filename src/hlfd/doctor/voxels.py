"""Voxels summed up: a histogram, extremes, and digests that stay the same when axes are flipped or exchanged."""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

LOW_HU, HIGH_HU = -3072, 4095
_AIR, _TOP = -1024 - LOW_HU, 3071 - LOW_HU  # what lies beyond, differs from one conversion to another
_BLOCK = 16


@dataclass(frozen=True, eq=False)
class ImageValues:
    """An image's values in HU.

    Attributes:
        shape, affine: of the array that was read.
        not_finite: how many are NaN or infinite.
        minimum, maximum: of the others; inf and -inf where there are none.
        counts: voxels at each HU from `LOW_HU` to `HIGH_HU`, those beyond at the ends.
        digest: hash of the counts from -1024 to 3071 HU: two images that have it in common are one image, whatever
            their orientation and data type. Empty for an image with hardly any values.
        slices: such hashes of the axial slices, without empty ones.
        swapped: they look like HU with the bytes of each voxel in reverse, and not as they are.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    not_finite: int
    minimum: float
    maximum: float
    counts: np.ndarray
    digest: str
    slices: frozenset[str]
    swapped: bool = False

    def share(self, low_hu: int, high_hu: int) -> float:
        """Part of the voxels from ``low_hu`` to ``high_hu``, both included, 0 to 1."""
        within = self.counts[low_hu - LOW_HU : high_hu - LOW_HU + 1].sum()
        return float(within / max(self.counts.sum(), 1))

    def percentile(self, percent: float) -> float:
        """HU below which so many percent of the voxels lie."""
        total = np.cumsum(self.counts)
        return float(np.searchsorted(total, total[-1] * percent / 100) + LOW_HU)


@dataclass(frozen=True)
class LabelCounts:
    """How many voxels have each value; ``whole``: all values are whole numbers."""

    counts: dict[float, int]
    whole: bool


def describe_image(stored: np.ndarray, affine: np.ndarray, slope: float, inter: float) -> ImageValues:
    """Sum up an image, some axial slices at a time, so that little more memory than for the stored voxels is taken."""
    axial = int(np.abs(affine[2, :3]).argmax()) if np.isfinite(affine).all() else 2
    slices = np.moveaxis(stored, axial, 0)
    total, digests = np.zeros(HIGH_HU - LOW_HU + 1, np.int64), set[str]()
    not_finite, minimum, maximum = 0, np.inf, -np.inf
    for first in range(0, len(slices), _BLOCK):
        block = np.ascontiguousarray(slices[first : first + _BLOCK])
        block = _in_hu(block.reshape(len(block), -1), slope, inter)
        finite = np.isfinite(block)
        if not finite.all():
            not_finite += int((~finite).sum())
            np.nan_to_num(block, copy=False, nan=-1024, posinf=-1024, neginf=-1024)
        if finite.any():
            minimum = min(minimum, float(block.min(where=finite, initial=np.inf)))
            maximum = max(maximum, float(block.max(where=finite, initial=-np.inf)))
        bins = (np.clip(np.rint(block), LOW_HU, HIGH_HU) - LOW_HU).astype(np.intp)
        for plane in bins:
            counts = np.bincount(plane, minlength=len(total))
            total += counts
            digests.add(_digest(counts))
    some = stored[tuple(slice(None, None, n // 64 + 1) for n in stored.shape)]
    turned = some.byteswap()
    grey = stored.dtype.kind in "iu" and turned.min() >= 0 and turned.max() < 256  # 8 bits, shifted up by 8
    swapped = not grey and not _like_hu(_in_hu(some, slope, inter)) and _like_hu(_in_hu(turned, slope, inter))
    return ImageValues(
        stored.shape, affine, not_finite, minimum, maximum, total, _digest(total), frozenset(digests - {""}), swapped
    )


def _in_hu(stored: np.ndarray, slope: float, inter: float) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return stored.astype(np.float32) * np.float32(slope) + np.float32(inter)


def _like_hu(hu: np.ndarray) -> bool:
    """Nearly all within what CT has, some soft tissue among it, and more than that."""
    within, soft = ((low <= hu) & (hu <= high) for low, high in ((LOW_HU, HIGH_HU), (-200, 250)))
    return bool(within.mean() > 0.99 and soft.mean() > 0.02 and np.ptp(hu[within]) > 100)


def _digest(counts: np.ndarray) -> str:
    inner = counts[_AIR : _TOP + 1].copy()
    inner[0] += counts[:_AIR].sum()
    inner[-1] += counts[_TOP + 1 :].sum()
    if np.count_nonzero(inner) < 16:  # padding, or nothing but a few values: many images have such slices
        return ""
    return blake2b(inner.tobytes(), digest_size=16).hexdigest()


def count_labels(stored: np.ndarray, slope: float, inter: float) -> LabelCounts:
    """Count a label map's values."""
    if stored.dtype.kind in "iu" and stored.size and stored.min() >= 0 and stored.max() < 1 << 16:
        flat = stored.ravel(order="K")
        found = np.zeros(int(stored.max()) + 1, np.int64)
        for first in range(0, flat.size, 1 << 20):  # counting makes 8-byte integers: a part of them at a time
            found += np.bincount(flat[first : first + (1 << 20)], minlength=len(found))
        values, counts = np.flatnonzero(found), found[found > 0]
    else:
        values, counts = np.unique(stored, return_counts=True)
    scaled = values * np.float64(slope) + inter
    whole = bool(np.isfinite(scaled).all()) and bool((np.abs(np.rint(scaled) - scaled) <= 1e-4).all())
    named = np.rint(scaled) if whole else scaled
    return LabelCounts(dict(zip(named.tolist(), counts.tolist(), strict=True)), whole)

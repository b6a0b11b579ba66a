"""Where organs lie in the body, to tell a flipped image: liver on the right, kidneys and spine behind, lungs above."""

from collections.abc import Mapping
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from hlfd.labels import Labels
from hlfd.volume import Volume

_FEW = 20  # voxels of the thinned-out image that say nothing


@dataclass(frozen=True)
class Anatomy:
    """Positions relative to the body in the same slices.

    Attributes:
        right: region -> how far to the patient's right of the body's middle its centre lies, in half widths.
        front: region -> how far in front, in half depths. Empty where the image doesn't tell fat from air: where the
            body ends, and the table begins, it doesn't show.
        bones_front: the same of all bone, None without enough of it.
        lungs_ml: air within the body, ml: in the lower and in the upper third of the image. None where the image
            shows no air.
    """

    right: Mapping[str, float]
    front: Mapping[str, float]
    bones_front: float | None
    lungs_ml: tuple[float, float] | None


def examine_anatomy(hu: np.ndarray, affine: np.ndarray, classes: np.ndarray | None, labels: Labels) -> Anatomy | None:
    """Look where things lie.

    Args:
        hu: an image, thinned out to some mm, on any axes.
        affine: of ``hu``; its directions are put to the test.
        classes: class indices on the same grid.

    Returns:
        None if there is no body to be seen.
    """
    upright = Volume(hu, affine).oriented("RAS")
    hu, spacing_mm = upright.voxels, upright.spacing_mm
    low, high = float(hu.min()), float(hu.max())
    shows_air, shows_fat = low < -500, low < -150
    dense = hu > (-300 if shows_air else low + 0.08 * (high - low))
    if not dense.any():
        return None
    body = dense
    if shows_fat:  # else organs are apart, and the largest part is one of them
        parts = np.asarray(ndimage.label(dense)[0])  # pyright: ignore
        body = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    filled = np.stack([np.asarray(ndimage.binary_fill_holes(body[..., k])) for k in range(body.shape[2])], axis=2)
    if filled.sum() < 10 * _FEW:
        return None
    right: dict[str, float] = {}
    front: dict[str, float] = {}
    if classes is not None:
        placed = Volume(classes, affine).oriented("RAS").voxels
        for name, indices in labels.regions.items():
            region = np.isin(placed, indices)
            if region.sum() >= _FEW:
                right[name], ahead = _offset(region, filled)
                front |= {name: ahead} if shows_fat else {}
    bones = body & (hu > 300)
    bones_front = _offset(bones, filled)[1] if shows_air and bones.sum() >= max(10 * _FEW, 2e-3 * body.sum()) else None
    lungs_ml = None
    if shows_air and hu.shape[2] >= 9:
        air = (filled & (hu < -500)).sum(axis=(0, 1)) * float(np.prod(spacing_mm)) / 1000
        third = len(air) // 3
        lungs_ml = float(air[:third].sum()), float(air[-third:].sum())
    return Anatomy(right, front, bones_front, lungs_ml)


def _offset(region: np.ndarray, body: np.ndarray) -> tuple[float, float]:
    """From the body's middle, in the slices of the region, to the region's: to the right, to the front."""
    around = body & region.any(axis=(0, 1))
    found: list[float] = []
    for axis in (0, 1):
        at, within = np.nonzero(region)[axis], np.nonzero(around)[axis]
        if not len(within):
            return 0.0, 0.0
        low, high = np.percentile(within, (1, 99))
        found.append(float((at.mean() - (low + high) / 2) / max((high - low) / 2, 1)))
    return found[0], found[1]


def axes(affine: np.ndarray) -> str:
    """Directions of the array axes, as ``LPS``; a question mark for one that has none."""
    return "".join(code or "?" for code in nib.orientations.aff2axcodes(affine))

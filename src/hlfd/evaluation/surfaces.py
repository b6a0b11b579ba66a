"""Surfaces of masks as points in mm. Two definitions are in use, and they give different distances.

- **Voxels**: the voxels of a mask that have a neighbour outside it, at their centres, all counting the same. MONAI and
  medpy look at the 6 neighbours that share a face, the LiTS evaluator at the 18 that share a face or an edge. What lies
  outside the array is outside the mask.
- **Surface elements** (Nikolov et al. 2021, JMIR 23:e26151, and their ``surface-distance``): the corners where eight
  voxels meet that are not all alike, each weighted with the area in mm2 that marching cubes puts there.

Where axes are not perpendicular (a gantry tilt kept in the affine), a matrix takes the place of the spacing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

Spacing = Sequence[float] | np.ndarray
"""mm along each axis; or the 3 x 3 matrix that turns steps along the axes into mm."""


@dataclass(frozen=True, eq=False)
class Surface:
    """Points on a surface.

    Attributes:
        points_mm: N x 3 (N x axes), relative to the first voxel of the array.
        areas_mm2: N, the area that each point stands for; None: all the same.
    """

    points_mm: np.ndarray
    areas_mm2: np.ndarray | None = None


def bounding_box(*masks: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box around what isn't zero in any of the arrays of one shape; None if nothing is."""
    axes = range(masks[0].ndim)
    box: list[slice] = []
    for axis in axes:
        others = tuple(a for a in axes if a != axis)
        found = np.flatnonzero(np.logical_or.reduce([mask.any(axis=others) for mask in masks]))
        if not found.size:
            return None
        box.append(slice(int(found[0]), int(found[-1]) + 1))
        masks = tuple(mask[(slice(None),) * axis + (box[-1],)] for mask in masks)
    return tuple(box)


def voxel_surface(mask: np.ndarray, spacing_mm: Spacing, connectivity: int = 1) -> Surface:
    """Centres of a boolean mask's border voxels.

    Args:
        mask: any number of axes.
        spacing_mm: of each axis, or the matrix.
        connectivity: how many coordinates of a neighbour may differ: 1 (faces), 2 (and edges), 3 (and corners).
    """
    return Surface(_placed(np.argwhere(mask & ~_interior(mask, connectivity)), spacing_mm))


def _placed(steps: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Steps along the axes (N x axes) as points in mm."""
    mm = np.asarray(spacing_mm, dtype=np.float64)
    return steps * mm if mm.ndim == 1 else steps @ mm.T


def _interior(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """Erosion by shifts: as `scipy.ndimage.binary_erosion`, several times faster."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for offset in product((-1, 0, 1), repeat=mask.ndim):
        if 0 < sum(map(abs, offset)) <= connectivity:
            inside &= padded[tuple(slice(1 + o, n + 1 + o) for o, n in zip(offset, mask.shape, strict=True))]
    return inside


def element_surface(mask: np.ndarray, spacing_mm: Spacing) -> Surface:
    """Surface elements of a boolean mask with 3 axes: corners between unlike voxels, and their marching-cubes areas."""
    from monai.metrics.utils import ENCODING_KERNEL

    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([n - 1 for n in padded.shape], dtype=np.uint8)
    for corner, bit in np.ndenumerate(np.array(ENCODING_KERNEL[3], dtype=np.uint8)):
        codes += bit * padded[tuple(slice(c, n - 1 + c) for c, n in zip(corner, padded.shape, strict=True))]
    where = np.nonzero((codes != 0) & (codes != 255))
    return Surface(_placed(np.stack(where, axis=1) - 0.5, spacing_mm), _areas_mm2(spacing_mm)[codes[where]])


def _areas_mm2(spacing_mm: Spacing) -> np.ndarray:
    """Area of the surface element of each of the 256 neighbourhoods."""
    from monai.metrics import utils

    mm = np.asarray(spacing_mm, dtype=np.float64)
    if mm.ndim == 1:
        return utils.get_code_to_measure_table(tuple(mm.tolist()))[0].numpy().astype(np.float64)
    cofactors = np.linalg.det(mm) * np.linalg.inv(mm).T  # what a matrix does to normals as long as their areas
    normals = utils._get_neighbour_code_to_normals_table()  # pyright: ignore[reportPrivateUsage]
    return np.linalg.norm(normals.numpy() @ cofactors.T, axis=-1).sum(-1)

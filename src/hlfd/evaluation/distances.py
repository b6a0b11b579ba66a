"""Distances between two surfaces in mm: computed once, read as ASSD, RMSD, MSSD, HD95 and surface Dice.

| | here | elsewhere |
|---|---|---|
| ASSD | mean over both surfaces' points together (Heimann et al. 2009, medpy, MONAI) | mean of the two means |
| RMSD | root of the mean square over both together (Heimann et al. 2009) | |
| MSSD = HD | the largest of all (Heimann et al. 2009, medpy, MONAI) | |
| HD95 | the larger of the two directions' 95th percentiles (MONAI) | medpy: of both together |
| surface Dice | share of both surfaces that lies within the tolerance of the other (Nikolov et al. 2021) | |
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import KDTree

from hlfd.evaluation.surfaces import Spacing, Surface, bounding_box, voxel_surface

_CHUNK = 1 << 18  # points looked up at a time: bounds the memory of a ragged mask

MakeSurface = Callable[[np.ndarray, Spacing], Surface]


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """From every point of each surface to the nearest point of the other, mm.

    Attributes:
        prediction_mm, reference_mm: distances of the prediction's and of the reference's points.
        prediction_areas, reference_areas: what each point counts for; None: all the same.
    """

    prediction_mm: np.ndarray
    reference_mm: np.ndarray
    prediction_areas: np.ndarray | None = None
    reference_areas: np.ndarray | None = None

    @cached_property
    def _both(self) -> np.ndarray:
        return np.concatenate([self.prediction_mm, self.reference_mm])

    @property
    def assd_mm(self) -> float:
        """Average symmetric surface distance."""
        return float(np.average(self._both, weights=self._areas))

    @property
    def rmsd_mm(self) -> float:
        """Root mean square symmetric surface distance."""
        return float(np.sqrt(np.average(self._both**2, weights=self._areas)))

    @property
    def hd_mm(self) -> float:
        """Hausdorff distance of the surfaces, which is the maximum symmetric surface distance (MSSD)."""
        return float(self._both.max())

    @property
    def hd95_mm(self) -> float:
        """The larger of the two directions' 95th percentiles (linear interpolation); areas have no part in it."""
        return float(max(np.percentile(self.prediction_mm, 95), np.percentile(self.reference_mm, 95)))

    def surface_dice(self, tolerance_mm: float) -> float:
        """Share of both surfaces at most ``tolerance_mm`` from the other, in [0, 1].

        A distance that is the tolerance but for rounding is within it: 3 x 0.7 is more than 2.1, and NIfTI's spacings
        have the seven digits of a float32.
        """
        return float(np.average(self._both <= tolerance_mm * (1 + 1e-6) + 1e-9, weights=self._areas))

    @property
    def _areas(self) -> np.ndarray | None:
        if self.prediction_areas is None or self.reference_areas is None:
            return None
        return np.concatenate([self.prediction_areas, self.reference_areas])


def surface_distances(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Spacing,
    surface: MakeSurface = voxel_surface,
) -> SurfaceDistances | None:
    """Distances between the surfaces of two boolean masks of one shape; None if either is empty.

    Only the box around both is looked at.

    Args:
        spacing_mm: of each axis, or the matrix that turns steps along axes that are not perpendicular into mm.
        surface: mask, spacing -> its surface.
    """
    box = bounding_box(prediction, reference)
    if box is None:
        return None
    p, r = (surface(mask[box], spacing_mm) for mask in (prediction, reference))
    if not len(p.points_mm) or not len(r.points_mm):
        return None
    return SurfaceDistances(
        _nearest_mm(p.points_mm, r.points_mm), _nearest_mm(r.points_mm, p.points_mm), p.areas_mm2, r.areas_mm2
    )


def _nearest_mm(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    # A tree without balancing is built in a third of the time and serves points on a grid as well.
    tree = KDTree(others, balanced_tree=False, compact_nodes=False)
    distances = np.empty(len(points))
    for start in range(0, len(points), _CHUNK):
        distances[start : start + _CHUNK] = tree.query(points[start : start + _CHUNK])[0]
    return distances

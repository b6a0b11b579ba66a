"""A prediction beside its reference: checked, and cut to the box around both."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from hlfd.errors import InputError
from hlfd.evaluation.surfaces import Spacing, bounding_box
from hlfd.labels import Labels
from hlfd.volume import Volume

Regions = Mapping[str, tuple[int, ...]]

RIGHT_ANGLE = 1e-3
"""Cosine up to which axes count as perpendicular: distances are right to as much."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Class indices of prediction and reference in the box around everything that isn't background in either.

    Attributes:
        prediction, reference: of one shape.
        spacing_mm: of each axis; of axes that are not perpendicular the matrix that turns steps along them into mm.
        voxel_ml: volume of a voxel.
        diagonal_mm: of the whole volume: no distance within it is longer.
        axial_axis: the axis that runs along the patient.
        regions: region -> the class indices it is made of.
        names: class index - 1 -> name.
    """

    prediction: np.ndarray
    reference: np.ndarray
    spacing_mm: Spacing
    voxel_ml: float
    diagonal_mm: float
    axial_axis: int
    regions: Regions
    names: tuple[str, ...]

    def masks(self, region: str) -> tuple[np.ndarray, np.ndarray]:
        """Boolean masks of a region, prediction and reference."""
        member = np.zeros(256, dtype=bool)
        member[list(self.regions[region])] = True
        return member[self.prediction], member[self.reference]


def make_pair(prediction: Volume, reference: Volume, labels: Labels, regions: Regions, case: str) -> Pair:
    """Check two label maps and bring them together.

    Args:
        prediction: class indices, on the grid of the reference.
        reference: class indices.
        labels: what the class indices mean.
        regions: what is to be measured.
        case: the case's id, for messages.

    Raises:
        InputError: if the grids differ, or a volume holds anything but the class indices of ``labels``.
    """
    reference.require_same_grid(prediction, f"{case}: prediction")
    _require_classes(prediction.voxels, labels, f"{case}: prediction")
    _require_classes(reference.voxels, labels, f"{case}: reference")
    corners = [reference.affine[:3, :3] @ np.multiply(reference.shape, way) for way in product((1, -1), repeat=3)]
    box = bounding_box(prediction.voxels, reference.voxels) or (slice(0, 0),) * 3
    return Pair(
        prediction.voxels[box].astype(np.uint8, copy=False),
        reference.voxels[box].astype(np.uint8, copy=False),
        _spacing(reference),
        reference.voxel_mm3 / 1000,
        float(np.linalg.norm(corners, axis=1).max()),
        int(np.abs(reference.affine[2, :3] / reference.spacing_mm).argmax()),
        regions,
        labels.names,
    )


def _spacing(volume: Volume) -> Spacing:
    """The spacing, or for sheared axes the triangular matrix that gives the affine's distances."""
    axes = volume.affine[:3, :3]
    products = axes.T @ axes
    cosines = products / np.outer(volume.spacing_mm, volume.spacing_mm) - np.eye(3)
    return volume.spacing_mm if np.abs(cosines).max() <= RIGHT_ANGLE else np.linalg.cholesky(products).T


def _require_classes(voxels: np.ndarray, labels: Labels, what: str) -> None:
    if voxels.dtype.kind not in "iu":
        raise InputError(f"{what}: expected integer class indices, got {voxels.dtype}")
    low, high = int(voxels.min(initial=0)), int(voxels.max(initial=0))
    if low < 0 or high >= labels.classes:
        found = low if low < 0 else high
        raise InputError(f"{what}: expected class indices 0 to {labels.classes - 1}, got {found}")

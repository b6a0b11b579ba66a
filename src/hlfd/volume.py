"""A CT volume: voxels and where they lie in the patient."""

from dataclasses import dataclass

import nibabel as nib
import numpy as np

from hlfd.errors import InputError

AXCODES = "SPL"
"""Prepared volumes are stacks of axial slices in radiological view: slices to superior, rows to posterior, columns to
the patient's left."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with their position in space.

    Attributes:
        voxels: array of shape (I, J, K): HU for an image, integers for a label map.
        affine: 4 x 4, voxel index to world position in mm, world axes pointing right, anterior, superior (RAS+).
    """

    voxels: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3:
            raise InputError(f"a volume has 3 axes, this array has {self.voxels.ndim}: shape {self.voxels.shape}")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise InputError(f"the affine must be a finite, invertible 4 x 4 matrix, got {affine.tolist()}")
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each array axis."""
        i, j, k = self.voxels.shape
        return i, j, k

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each array axis, mm. Derived from the affine, never stored."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel, mm3; of a sheared one too, which is less than the product of the spacing."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))

    @property
    def axcodes(self) -> str:
        """Direction each array axis points to, for example ``"RAS"`` or ``"SPL"``."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    def oriented(self, axcodes: str) -> "Volume":
        """The same volume with its axes flipped and permuted to point to ``axcodes``. No voxel changes its value."""
        transform = _between(self.affine, axcodes)
        voxels = nib.orientations.apply_orientation(self.voxels, transform)
        return Volume(voxels, self.affine @ nib.orientations.inv_ornt_aff(transform, self.shape))

    def restored(self, voxels: np.ndarray, axcodes: str) -> "Volume":
        """Voxels in the shape of ``oriented(axcodes)``, back on this volume's own grid.

        Not the same as ``oriented`` to the old axes: where an axis lies between two directions (45 degrees), which of
        them it points to is a toss-up.
        """
        return self.like(self.own_axes(voxels, axcodes))

    def own_axes(self, voxels: np.ndarray, axcodes: str) -> np.ndarray:
        """An array in the shape of ``oriented(axcodes)``, perhaps with further axes, with its axes as here. No copy."""
        upright = _between(self.affine, axcodes)
        own = np.array([[axis, 1] for axis in range(3)])
        return nib.orientations.apply_orientation(voxels, nib.orientations.ornt_transform(own, upright))

    def with_axes_of(self, other: "Volume") -> "Volume":
        """The volume with its axes flipped and permuted to run as the other's, as near as that goes."""
        turn = nib.orientations.io_orientation(np.linalg.inv(other.affine) @ self.affine)
        voxels = nib.orientations.apply_orientation(self.voxels, turn)
        return Volume(voxels, self.affine @ nib.orientations.inv_ornt_aff(turn, self.shape))

    def like(self, voxels: np.ndarray) -> "Volume":
        """Other voxels of the same shape on the same grid."""
        if voxels.shape != self.shape:
            raise InputError(f"expected voxels of shape {self.shape}, got {voxels.shape}")
        return Volume(voxels, self.affine)

    def require_same_grid(self, other: "Volume", what: str, tolerance_mm: float = 1e-2) -> None:
        """Raise `InputError` unless ``other`` has this shape and its corners lie within the tolerance of these."""
        if self.shape != other.shape:
            raise InputError(f"{what}: expected shape {self.shape}, got {other.shape}")
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], [1.0], indexing="ij")).reshape(4, -1)
        apart_mm = float(np.abs((self.affine - other.affine)[:3] @ corners).max())
        if apart_mm > tolerance_mm:
            raise InputError(
                f"{what}: the affines differ, a corner lies {apart_mm:.3g} mm away "
                f"(expected {self.affine[:3].round(4).tolist()}, got {other.affine[:3].round(4).tolist()})"
            )


def _between(affine: np.ndarray, axcodes: str) -> np.ndarray:
    start = nib.orientations.io_orientation(affine)
    return nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(axcodes))

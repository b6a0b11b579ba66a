"""From a CT volume to what a network sees, and back to the volume's own grid."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from hlfd.data.geometry import Geometry, Shape, body_box, resampled_affine, resize, shifted_affine
from hlfd.errors import InputError
from hlfd.plugins import Section
from hlfd.volume import AXCODES, Volume

__all__ = ["AXCODES", "GridOptions", "Pixels", "Preprocess", "Window", "resize"]

Pixels = Annotated[int, Field(ge=8)]
Slices = Annotated[int, Field(ge=2)]
Millimetres = Annotated[float, Field(gt=0)]


class GridOptions(Section):
    """What is done to a volume's grid, and how a network is shown it.

    Attributes:
        spacing_mm: in-plane pixel size to resample to (the nearest that gives whole pixels), mm.
        size: rows and columns to resize a whole slice to, whatever its pixel size; not together with ``spacing_mm``.
        slice_mm: distance of slices to resample to (the nearest that gives whole slices), mm; None: as they are.
        crop: rows and columns of the central crop (or padding with the window's lower end) that a network sees; or
            ``foreground``: the box around the body, in all three axes. What lies outside is predicted as background.
        neighbours: slices on either side that a 2D network is shown as further channels (2.5D); beyond the first and
            the last slice, that one again.
        patch: rows and columns (2D), or slices, rows and columns (3D), of the patches that a network is shown; None:
            whole slices. A stack that is smaller is padded with the window's lower end.
    """

    spacing_mm: Millimetres | None = None
    size: tuple[Pixels, Pixels] | None = None
    slice_mm: Millimetres | None = None
    crop: tuple[Pixels, Pixels] | Literal["foreground"] | None = None
    neighbours: Annotated[int, Field(ge=0, le=16)] = 0
    patch: tuple[Pixels, Pixels] | tuple[Slices, Pixels, Pixels] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.spacing_mm is not None and self.size is not None:
            raise InputError("preprocess: spacing_mm and size exclude each other")
        if self.neighbours and self.dims == 3:
            raise InputError("preprocess: neighbours and a patch of three axes exclude each other")
        return self

    @property
    def dims(self) -> int:
        """Spatial axes of what a network is shown: 2 or 3."""
        return 3 if self.patch is not None and len(self.patch) == 3 else 2

    @property
    def channels(self) -> int:
        """Channels of what a network is shown."""
        return 2 * self.neighbours + 1

    @property
    def part(self) -> tuple[int, int] | None:
        """Rows and columns of the part of a slice that a network is shown; None: whole slices, or the body's box."""
        if self.patch is not None:
            return self.patch[-2], self.patch[-1]
        return None if self.crop == "foreground" else self.crop

    @property
    def plane(self) -> tuple[int, int] | None:
        """Rows and columns of what a network is shown; None: that depends on the case."""
        return self.part or (None if self.crop else self.size)

    def shown(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Spatial size of what a network is shown of a prepared stack of this shape: 2 or 3 numbers."""
        window = self.window(shape)
        return window if self.dims == 3 else window[1:]

    def window(self, shape: Sequence[int]) -> Shape:
        """Slices, rows and columns that a network is shown at once of a prepared stack of this shape.

        One slice for a 2D network, whose further channels don't count.
        """
        if self.patch is None:
            return 1, shape[1], shape[2]
        return (1, *self.patch) if len(self.patch) == 2 else self.patch


def _rising(window: tuple[float, float]) -> tuple[float, float]:
    if window[0] >= window[1]:
        raise InputError(f"window_hu: expected a lower and a higher end, got {list(window)}")
    return window


Window = Annotated[tuple[float, float], AfterValidator(_rising)]


class Preprocess(GridOptions):
    """Orient, resample, crop, window. Every step but the window and the crop has an inverse.

    A case is worked on slab by slab: `geometry` once, then `image_slab` and `label_slab` for any of its prepared
    slices, and `Geometry.scores` for the way back. `prepared` does all of it at once.

    Attributes:
        window_hu: the HU mapped to -1 and to 1; what lies outside is clipped.
    """

    window_hu: Window

    def geometry(self, volume: Volume) -> Geometry:
        """How this volume is prepared; its voxels are looked at for a crop to the foreground alone."""
        upright = volume.oriented(AXCODES)
        shape = upright.shape
        slice_mm = upright.spacing_mm[0]
        slices = shape[0] if self.slice_mm is None else max(round(shape[0] * slice_mm / self.slice_mm), 1)
        resampled = (slices, *self._plane(upright))
        start, box = self._box(upright, resampled)
        affine = shifted_affine(resampled_affine(upright.affine, shape, resampled), start)
        return Geometry(shape, resampled, start, box, affine)

    def image_slab(self, upright: np.ndarray, geometry: Geometry, prepared: slice) -> Tensor:
        """Prepared slices of an image: float32 in [-1, 1], (slices, rows, columns).

        Args:
            upright: HU of the whole volume, ``volume.oriented(AXCODES).voxels``.
            prepared: which slices; with both ends, within the prepared stack.
        """
        return self.scaled(geometry.image(upright, prepared, self.window_hu[0]))

    def label_slab(self, upright: np.ndarray, geometry: Geometry, prepared: slice) -> np.ndarray:
        """Prepared slices of class indices: uint8, (slices, rows, columns), nearest neighbour."""
        return geometry.label(upright, prepared)

    def scaled(self, hu: Tensor) -> Tensor:
        """HU (float32) to [-1, 1]."""
        low, high = self.window_hu
        return (hu.clamp(low, high) - low) * (2 / (high - low)) - 1

    def prepared(self, volume: Volume, geometry: Geometry | None = None) -> Volume:
        """The whole prepared stack of an image: float32 in [-1, 1]."""
        found = geometry or self.geometry(volume)
        upright = volume.oriented(AXCODES).voxels
        return Volume(self.image_slab(upright, found, slice(0, found.shape[0])).numpy(), found.affine)

    def prepared_label(self, volume: Volume, geometry: Geometry) -> Volume:
        """The whole prepared stack of class indices (uint8), in the geometry of its image."""
        upright = volume.oriented(AXCODES).voxels
        return Volume(self.label_slab(upright, geometry, slice(0, geometry.shape[0])), geometry.affine)

    def image(self, volume: Volume) -> Volume:
        """As `prepared`, not cropped."""
        return self.model_copy(update={"crop": None}).prepared(volume)

    def label(self, volume: Volume) -> Volume:
        """As `prepared_label`, not cropped."""
        whole = self.model_copy(update={"crop": None})
        return whole.prepared_label(volume, whole.geometry(volume))

    def _box(self, upright: Volume, resampled: Shape) -> tuple[Shape, Shape]:
        """Start and shape of the prepared stack in the resampled grid."""
        if self.crop is None:
            return (0, 0, 0), resampled
        if self.crop == "foreground":
            return self._foreground(upright, resampled)
        starts = [
            (have - wanted) // 2 if have >= wanted else -((wanted - have) // 2)
            for have, wanted in zip(resampled[1:], self.crop, strict=True)
        ]
        return (0, starts[0], starts[1]), (resampled[0], *self.crop)

    def _foreground(self, upright: Volume, resampled: Shape) -> tuple[Shape, Shape]:
        """The body's box, in the resampled grid; at least as large as a patch, where the volume is."""
        first, end = body_box(upright.voxels, upright.spacing_mm, self.window_hu[0])
        least = (1, *self.patch) if self.patch is not None and len(self.patch) == 2 else self.patch or (1, 1, 1)
        start: list[int] = []
        size: list[int] = []
        for a, b, have, wanted, room in zip(first, end, upright.shape, resampled, least, strict=True):
            low, high = a * wanted // have, -(-b * wanted // have)
            length = max(high - low, min(room, wanted))
            low = min(max(low - (length - (high - low)) // 2, 0), wanted - length)
            start.append(low)
            size.append(length)
        return (start[0], start[1], start[2]), (size[0], size[1], size[2])

    def _plane(self, upright: Volume) -> tuple[int, int]:
        _, rows, columns = upright.shape
        if self.size is not None:
            return self.size
        if self.spacing_mm is None:
            return rows, columns
        _, row_mm, column_mm = upright.spacing_mm
        return max(round(rows * row_mm / self.spacing_mm), 1), max(round(columns * column_mm / self.spacing_mm), 1)

"""From a CT volume to what a network sees, and back to the volume's own grid."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from hlfd.plugins import Section
from hlfd.volume import Volume

AXCODES = "SPL"
"""Prepared volumes are stacks of axial slices in radiological view: slices to superior, rows to posterior, columns to
the patient's left."""

Pixels = Annotated[int, Field(ge=8)]


class Preprocess(Section):
    """Orient, resample in plane, window, crop. Every step but the window and the crop has an inverse.

    Attributes:
        window_hu: the HU mapped to -1 and to 1; what lies outside is clipped.
        spacing_mm: in-plane pixel size to resample to (the nearest that gives whole pixels), mm.
        size: rows and columns to resize a whole slice to, whatever its pixel size; not together with ``spacing_mm``.
        crop: rows and columns of the central crop (or padding with the window's lower end) that a network trains on.
            Inference sees the whole slice.
    """

    window_hu: tuple[float, float]
    spacing_mm: Annotated[float, Field(gt=0)] | None = None
    size: tuple[Pixels, Pixels] | None = None
    crop: tuple[Pixels, Pixels] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Preprocess":
        if self.window_hu[0] >= self.window_hu[1]:
            raise ValueError(f"window_hu must rise, got {self.window_hu}")
        if self.spacing_mm is not None and self.size is not None:
            raise ValueError("spacing_mm and size exclude each other")
        return self

    def image(self, volume: Volume) -> Volume:
        """HU on any grid -> float32 in [-1, 1], axes `AXCODES`, resampled in plane; not yet cropped."""
        upright = volume.oriented(AXCODES)
        voxels = torch.from_numpy(np.ascontiguousarray(upright.voxels, dtype=np.float32))
        low, high = self.window_hu
        resized = resize(voxels[:, None], self._plane(upright))[:, 0]
        scaled = (resized.clamp(low, high) - low) * (2 / (high - low)) - 1
        return Volume(scaled.numpy(), self._affine(upright))

    def label(self, volume: Volume) -> Volume:
        """Class indices on any grid -> class indices (uint8) on the grid of `image`; nearest neighbour."""
        upright = volume.oriented(AXCODES)
        voxels = torch.from_numpy(np.ascontiguousarray(upright.voxels, dtype=np.uint8))
        plane = self._plane(upright)
        if tuple(voxels.shape[1:]) != plane:
            voxels = F.interpolate(voxels[:, None], plane, mode="nearest-exact")[:, 0]
        return Volume(voxels.numpy(), self._affine(upright))

    def to_crop(self, slices: np.ndarray, pad_value: float) -> np.ndarray:
        """The central crop of (..., rows, columns), padded where the slice is smaller; all of it without ``crop``."""
        if self.crop is None:
            return slices
        for axis, wanted in zip((-2, -1), self.crop, strict=True):
            have = slices.shape[axis]
            start = max((have - wanted) // 2, 0)
            slices = np.take(slices, range(start, min(start + wanted, have)), axis=axis)
            before = max((wanted - have) // 2, 0)
            widths = [(0, 0)] * slices.ndim
            widths[axis] = (before, wanted - slices.shape[axis] - before)
            slices = np.pad(slices, widths, constant_values=pad_value)
        return slices

    def _plane(self, upright: Volume) -> tuple[int, int]:
        _, rows, columns = upright.shape
        if self.size is not None:
            return self.size
        if self.spacing_mm is None:
            return rows, columns
        _, row_mm, column_mm = upright.spacing_mm
        return max(round(rows * row_mm / self.spacing_mm), 1), max(round(columns * column_mm / self.spacing_mm), 1)

    def _affine(self, upright: Volume) -> np.ndarray:
        """The slice keeps its outer edges: pixel centres move by half the change of the pixel size."""
        scale = np.eye(4)
        for axis, wanted in zip((1, 2), self._plane(upright), strict=True):
            scale[axis, axis] = upright.shape[axis] / wanted
            scale[axis, 3] = (scale[axis, axis] - 1) / 2
        return upright.affine @ scale


def resize(images: Tensor, plane: tuple[int, int]) -> Tensor:
    """(N, C, rows, columns) to another size of the plane: bilinear, with an antialiasing filter when it shrinks."""
    if tuple(images.shape[2:]) == plane:
        return images
    return F.interpolate(images, plane, mode="bilinear", align_corners=False, antialias=True)

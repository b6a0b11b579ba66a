"""From a CT volume to what a network sees, and back to the volume's own grid."""

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from hlfd.errors import InputError
from hlfd.plugins import Section
from hlfd.volume import Volume

AXCODES = "SPL"
"""Prepared volumes are stacks of axial slices in radiological view: slices to superior, rows to posterior, columns to
the patient's left."""

Pixels = Annotated[int, Field(ge=8)]


class InPlane(Section):
    """What is done in the plane of a slice.

    Attributes:
        spacing_mm: in-plane pixel size to resample to (the nearest that gives whole pixels), mm.
        size: rows and columns to resize a whole slice to, whatever its pixel size; not together with ``spacing_mm``.
        crop: rows and columns of the central crop (or padding with the window's lower end) that a network sees. What
            lies outside is predicted as background.
    """

    spacing_mm: Annotated[float, Field(gt=0)] | None = None
    size: tuple[Pixels, Pixels] | None = None
    crop: tuple[Pixels, Pixels] | None = None

    @model_validator(mode="after")
    def _one_way_to_resample(self) -> Self:
        if self.spacing_mm is not None and self.size is not None:
            raise InputError("preprocess: spacing_mm and size exclude each other")
        return self


def _rising(window: tuple[float, float]) -> tuple[float, float]:
    if window[0] >= window[1]:
        raise InputError(f"window_hu: expected a lower and a higher end, got {list(window)}")
    return window


Window = Annotated[tuple[float, float], AfterValidator(_rising)]


class Preprocess(InPlane):
    """Orient, resample in plane, window, crop. Every step but the window and the crop has an inverse.

    Attributes:
        window_hu: the HU mapped to -1 and to 1; what lies outside is clipped.
    """

    window_hu: Window

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
        inside, before = self._overlap(slices.shape[-2:])
        cropped = np.full((*slices.shape[:-2], *self.crop), pad_value, dtype=slices.dtype)
        cropped[..., before[0], before[1]] = slices[..., inside[0], inside[1]]
        return cropped

    def from_crop(self, scores: Tensor, plane: tuple[int, int]) -> Tensor:
        """Class probabilities of the crop (N, K, rows, columns) on the whole plane; outside it is background."""
        if self.crop is None:
            return scores
        inside, before = self._overlap(plane)
        whole = scores.new_zeros((*scores.shape[:2], *plane))
        whole[:, 0] = 1
        whole[..., inside[0], inside[1]] = scores[..., before[0], before[1]]
        return whole

    def _overlap(self, plane: Sequence[int]) -> tuple[list[slice], list[slice]]:
        """Where crop and plane overlap, for each axis: in the plane, and in the crop."""
        assert self.crop is not None
        inside: list[slice] = []
        within_crop: list[slice] = []
        for have, wanted in zip(plane, self.crop, strict=True):
            common = min(have, wanted)
            inside.append(slice((have - common) // 2, (have - common) // 2 + common))
            within_crop.append(slice((wanted - common) // 2, (wanted - common) // 2 + common))
        return inside, within_crop

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
    shrinks = plane[0] < images.shape[2] or plane[1] < images.shape[3]  # where it doesn't, the filter only costs time
    return F.interpolate(images, plane, mode="bilinear", align_corners=False, antialias=shrinks)

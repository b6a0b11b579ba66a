"""Geometry: where a prepared stack lies on its volume's own grid, and the way there and back, slab by slab."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Shape = tuple[int, int, int]

SLAB = 32
"""Slices worked on at a time: enough to keep a processor busy, little memory."""

COARSE_MM, MARGIN_MM, SOFT_HU = 4.0, 8.0, -300.0


@dataclass(frozen=True, eq=False)
class Geometry:
    """A case's three grids, all with axes `hlfd.data.preprocess.AXCODES` (slices, rows, columns).

    *upright*: the volume's own voxels, turned. *resampled*: voxels of another size, the same outer edges. *prepared*:
    a box of the resampled grid; what the store holds and a network is shown. Outside the box is background.

    Attributes:
        upright, resampled, shape: slices, rows, columns of the three.
        start: place of the first prepared voxel in the resampled grid; negative in a plane that is padded.
        affine: of the prepared stack, 4 x 4, mm, RAS+.
    """

    upright: Shape
    resampled: Shape
    start: Shape
    shape: Shape
    affine: np.ndarray

    def upright_span(self, prepared: slice) -> slice:
        """The upright slices that decide these prepared slices."""
        first, end = prepared.start + self.start[0], prepared.stop + self.start[0]
        if self.upright[0] == self.resampled[0]:
            return slice(first, end)
        used = np.flatnonzero(axis_weights(self.upright[0], self.resampled[0])[first:end].any(0))
        return slice(int(used[0]), int(used[-1]) + 1)

    def prepared_span(self, upright: slice) -> slice:
        """The prepared slices that decide these upright slices; of length 0 where all of them lie outside."""
        used = np.arange(upright.start, upright.stop)
        if self.upright[0] != self.resampled[0]:
            used = np.flatnonzero(axis_weights(self.resampled[0], self.upright[0])[upright].any(0))
        ends = np.clip([used[0] - self.start[0], used[-1] + 1 - self.start[0]], 0, self.shape[0])
        return slice(int(ends[0]), int(ends[1]))

    def image(self, upright: np.ndarray, prepared: slice, fill: float) -> Tensor:
        """Prepared slices of an image: linear along each axis, with an antialiasing filter where it shrinks.

        Args:
            upright: the whole upright volume, any type; only the slices needed are touched.
            prepared: which slices, within the prepared stack.
            fill: value of padding.

        Returns:
            float32, (slices, rows, columns) of the prepared grid, in the units of ``upright``.
        """
        span = self.upright_span(prepared)
        inside, within = self.overlap()
        same = self.upright[1:] == self.resampled[1:]
        part = upright[span.start : span.stop]
        part = part[:, inside[0], inside[1]] if same else part
        voxels = torch.from_numpy(np.array(part, dtype=np.float32, order="C"))
        if not same:
            voxels = resize(voxels[:, None], self.resampled[1:])[:, 0, inside[0], inside[1]]
        if self.upright[0] != self.resampled[0]:
            first = prepared.start + self.start[0]
            rows = axis_weights(self.upright[0], self.resampled[0])[first : first + prepared.stop - prepared.start]
            voxels = torch.tensordot(torch.from_numpy(rows[:, span].astype(np.float32)), voxels, 1)
        if tuple(voxels.shape[1:]) == self.shape[1:]:
            return voxels.contiguous()
        padded = voxels.new_full((len(voxels), *self.shape[1:]), fill)
        padded[:, within[0], within[1]] = voxels
        return padded

    def label(self, upright: np.ndarray, prepared: slice) -> np.ndarray:
        """Prepared slices of class indices (uint8), each voxel the nearest of the upright volume; padding is 0."""
        first = prepared.start + self.start[0]
        slices = nearest(self.upright[0], self.resampled[0])[first : first + prepared.stop - prepared.start]
        inside, within = self.overlap()
        part = upright[slices[0] : slices[-1] + 1]
        if self.upright[0] != self.resampled[0]:
            part = part[slices - slices[0]]
        if self.upright[1:] == self.resampled[1:]:
            part = part[:, inside[0], inside[1]]
        else:
            rows, columns = (
                nearest(have, wanted)[kept]
                for have, wanted, kept in zip(self.upright[1:], self.resampled[1:], inside, strict=True)
            )
            part = part[:, rows[:, None], columns]
        labels = np.zeros((len(slices), *self.shape[1:]), np.uint8)
        labels[:, within[0], within[1]] = part
        return labels

    def scores(self, scores: Tensor, prepared: slice, upright: slice) -> Tensor:
        """Class probabilities of prepared slices on upright slices; outside the box is background.

        Args:
            scores: (n, K, rows, columns) of the slices ``prepared``, which hold `prepared_span` of ``upright``.
            upright: which slices are wanted.

        Returns:
            (m, K, rows, columns) of the upright grid, each voxel's sum 1 if the scores' are.
        """
        first = prepared.start + self.start[0]
        if self.upright[0] == self.resampled[0]:
            weights = np.eye(self.upright[0], dtype=np.float32)[upright, first : first + len(scores)]
        else:
            weights = axis_weights(self.resampled[0], self.upright[0])[upright, first : first + len(scores)]
        along = torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float32)).to(scores)
        plane = torch.tensordot(along, scores, 1)
        plane[:, 0] += (1 - along.sum(1))[:, None, None]
        inside, within = self.overlap()
        if self.resampled[1:] != self.shape[1:] or self.start[1:] != (0, 0):
            whole = plane.new_zeros((*plane.shape[:2], *self.resampled[1:]))
            whole[:, 0] = 1
            whole[..., inside[0], inside[1]] = plane[..., within[0], within[1]]
            plane = whole
        return resize(plane, self.upright[1:])

    def labels_back(self, labels: np.ndarray) -> np.ndarray:
        """Class indices of the whole prepared stack on the upright grid, nearest voxel; outside the box 0.

        Gives back what `label` was given, inside the box, where no axis was made coarser.
        """
        index = [
            nearest(wanted, have) - start
            for wanted, have, start in zip(self.resampled, self.upright, self.start, strict=True)
        ]
        known = [(i >= 0) & (i < n) for i, n in zip(index, self.shape, strict=True)]
        back = np.zeros(self.upright, labels.dtype)
        back[np.ix_(*known)] = labels[np.ix_(*(i[k] for i, k in zip(index, known, strict=True)))]
        return back

    def overlap(self) -> tuple[list[slice], list[slice]]:
        """Where the box and the resampled plane overlap, for rows and columns: in the plane, and in the box."""
        inside: list[slice] = []
        within: list[slice] = []
        for have, start, wanted in zip(self.resampled[1:], self.start[1:], self.shape[1:], strict=True):
            first, end = max(start, 0), min(start + wanted, have)
            inside.append(slice(first, end))
            within.append(slice(first - start, end - start))
        return inside, within

    def dump(self) -> dict[str, Any]:
        """As JSON; `load` reads it."""
        return {
            "upright": self.upright,
            "resampled": self.resampled,
            "start": self.start,
            "shape": self.shape,
            "affine": self.affine.tolist(),
        }

    @classmethod
    def load(cls, known: Mapping[str, Any]) -> "Geometry":
        """What `dump` gave."""
        upright, resampled, start, shape = (_three(known[k]) for k in ("upright", "resampled", "start", "shape"))
        return cls(upright, resampled, start, shape, np.array(known["affine"]))


def _three(numbers: Sequence[int]) -> Shape:
    slices, rows, columns = numbers
    return int(slices), int(rows), int(columns)


def resampled_affine(affine: np.ndarray, before: Sequence[int], after: Sequence[int]) -> np.ndarray:
    """The affine once the axes have ``after`` voxels for ``before``: outer edges stay, voxel centres move."""
    scale = np.eye(4)
    for axis, (have, wanted) in enumerate(zip(before, after, strict=True)):
        scale[axis, axis] = have / wanted
        scale[axis, 3] = (scale[axis, axis] - 1) / 2
    return affine @ scale


def shifted_affine(affine: np.ndarray, start: Sequence[int]) -> np.ndarray:
    """The affine of a box that starts at voxel ``start``."""
    shifted = affine.copy()
    shifted[:3, 3] += affine[:3, :3] @ np.asarray(start, dtype=np.float64)
    return shifted


@lru_cache(maxsize=16)
def axis_weights(have: int, wanted: int) -> np.ndarray:
    """Weights, wanted x have, of linear interpolation along an axis; a triangle as wide as a voxel where it shrinks."""
    scale = have / wanted
    centres = (np.arange(wanted) + 0.5) * scale - 0.5
    apart = np.abs(centres[:, None] - np.arange(have)) / max(scale, 1.0)
    weights = np.clip(1 - apart, 0, None)
    weights /= weights.sum(1, keepdims=True)
    weights.setflags(write=False)
    return weights


def nearest(have: int, wanted: int) -> np.ndarray:
    """For each of ``wanted`` voxels the one of ``have`` that holds its centre."""
    return np.floor((np.arange(wanted) + 0.5) * (have / wanted)).astype(np.intp).clip(0, have - 1)


def resize(images: Tensor, plane: tuple[int, int]) -> Tensor:
    """(N, C, rows, columns) to another size of the plane: bilinear, with an antialiasing filter when it shrinks."""
    if tuple(images.shape[2:]) == plane:
        return images
    shrinks = plane[0] < images.shape[2] or plane[1] < images.shape[3]  # where it doesn't, the filter only costs time
    return F.interpolate(images, plane, mode="bilinear", align_corners=False, antialias=shrinks)


def body_box(upright: np.ndarray, spacing_mm: Sequence[float], air_hu: float) -> tuple[Shape, Shape]:
    """First and end voxel, along each axis, of the box around the body: the largest thing that is not air.

    Looked for every `COARSE_MM`, where what is thinner than three steps (a table, tubes) is dropped, with
    `MARGIN_MM` around it. The whole volume where there is nothing else than air.

    Args:
        upright: HU.
        air_hu: air is below this, or below `SOFT_HU` where that is higher.
    """
    from scipy import ndimage

    steps = [max(1, round(COARSE_MM / mm)) for mm in spacing_mm]
    coarse = upright[:: steps[0], :: steps[1], :: steps[2]] > max(air_hu, SOFT_HU)
    found: Any = ndimage.label(ndimage.binary_opening(coarse, np.ones((1, 3, 3), bool)))
    parts, count = found
    if count == 0:
        i, j, k = upright.shape
        return (0, 0, 0), (i, j, k)
    largest = int(np.bincount(parts.ravel())[1:].argmax()) + 1
    body: tuple[slice, slice, slice] = ndimage.find_objects((parts == largest).astype(np.int8))[0]
    first: list[int] = []
    end: list[int] = []
    for part, step, mm, size in zip(body, steps, spacing_mm, upright.shape, strict=True):
        margin = step + round(MARGIN_MM / mm)
        first.append(max(part.start * step - margin, 0))
        end.append(min((part.stop - 1) * step + 1 + margin, size))
    return (first[0], first[1], first[2]), (end[0], end[1], end[2])

"""How a prepared stack is cut for a network: whole slices, slices with their neighbours (2.5D), patches (2D, 3D).

The same functions cut for training and for prediction. All pure; a stack is (slices, rows, columns).
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlfd.data.geometry import Shape

AIR = -1.0
"""What an image is padded with: the window's lower end."""

OVERLAP = 0.5
"""Share of a patch that the next one has in common with it, where patches overlap (nnU-Net's)."""


def reach(slices: slice, count: int, neighbours: int) -> slice:
    """The slices of a stack of ``count`` that are needed to show these with their neighbours."""
    return slice(max(slices.start - neighbours, 0), min(slices.stop + neighbours, count))


def with_neighbours(part: Tensor, first: int, slices: slice, count: int, neighbours: int) -> Tensor:
    """Slices with their neighbours as channels; beyond the stack's ends, its first or last slice again.

    Args:
        part: (n, rows, columns), slices ``first`` to ``first + n`` of the stack; holds `reach` of ``slices``.
        slices: which are wanted.
        count: slices of the whole stack.
        neighbours: on either side.

    Returns:
        (slices, 2 * neighbours + 1, rows, columns); the slice itself is the middle channel.
    """
    offsets = torch.arange(-neighbours, neighbours + 1)
    index = (torch.arange(slices.start, slices.stop)[:, None] + offsets).clamp(0, count - 1) - first
    return part[index]


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin so that they cover an axis; the last one is moved back to its end. [0] if it is shorter."""
    if length <= window:
        return [0]
    return [*range(0, length - window, stride), length - window]


def overlapping(shape: Sequence[int], window: Shape, overlap: float = OVERLAP) -> list[Shape]:
    """First voxels of windows that cover a stack and overlap by this share; slice by slice, in rising order."""
    strides = [max(1, int(size * (1 - overlap))) for size in window]
    axes = [starts(n, size, step) for n, size, step in zip(shape, window, strides, strict=True)]
    return [(i, j, k) for i, j, k in product(*axes)]


def tiles(shape: Sequence[int], window: Shape) -> list[Shape]:
    """First voxels of windows side by side that cover a stack, each voxel once; the last ones reach beyond its end."""
    return [(i, j, k) for i, j, k in product(*(range(0, n, size) for n, size in zip(shape, window, strict=True)))]


def cut(stack: np.ndarray, start: Shape, window: Shape, fill: float) -> np.ndarray:
    """The window of a stack that begins at ``start``, padded with ``fill`` where it reaches beyond the stack's end."""
    part = np.asarray(stack[tuple(slice(i, i + size) for i, size in zip(start, window, strict=True))])
    if part.shape == window:
        return part
    padded = np.full(window, fill, part.dtype)
    padded[tuple(slice(0, n) for n in part.shape)] = part
    return padded


def shown(stack: Any, start: Shape, window: Shape, *, neighbours: int, dims: int) -> Tensor:
    """What a network is shown of a stack at ``start``: float32 C x spatial, air beyond the stack.

    Args:
        stack: (slices, rows, columns) in [-1, 1]; only what is needed is read.
        window: one slice of a 2D network, which its ``neighbours`` on either side are further channels of.
        dims: spatial axes of the network.
    """
    if dims == 3:
        return torch.from_numpy(cut(stack, start, window, AIR))[None]
    own, count = slice(start[0], start[0] + 1), stack.shape[0]
    needed = reach(own, count, neighbours)
    around = (needed.stop - needed.start, window[1], window[2])
    part = torch.from_numpy(cut(stack, (needed.start, start[1], start[2]), around, AIR))
    return with_neighbours(part, needed.start, own, count, neighbours)[0]


def importance(window: Sequence[int]) -> Tensor:
    """How much a network's answer counts at each voxel of a patch: a Gaussian of sigma an eighth of it (nnU-Net).

    Float32, at most 1, positive everywhere, so that every voxel has a weight to be divided by.
    """
    from monai.data.utils import compute_importance_map

    weights = compute_importance_map(tuple(window), mode="gaussian", sigma_scale=0.125)
    return weights.float().clamp_min(1e-3)

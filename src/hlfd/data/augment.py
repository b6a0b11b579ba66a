"""Augmentation of a batch: flips and quarter turns, the eight symmetries of a square (HLFD paper)."""

import torch
from torch import Tensor

ORIENTATIONS = 8
"""Symmetries by number: quarter turns counter-clockwise, then, from 4 on, a flip of the columns."""


def draw_orientations(count: int, plane: tuple[int, int]) -> Tensor:
    """A random orientation for each of ``count`` samples; without quarter turns unless rows = columns."""
    turns, flips = torch.randint(4, (count,)), torch.randint(2, (count,))
    return (turns if plane[0] == plane[1] else turns // 2 * 2) + 4 * flips


def oriented(a: Tensor, orientations: Tensor) -> Tensor:
    """Each sample of ``a`` (N x ... x H x W) in its orientation. Exact: no pixel is interpolated."""
    result = torch.empty_like(a)
    for orientation in orientations.unique().tolist():
        rows = orientations == orientation
        turned = torch.rot90(a[rows], orientation % 4, (-2, -1))
        result[rows] = turned.flip(-1) if orientation >= 4 else turned
    return result

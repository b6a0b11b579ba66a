"""Test-time augmentation: the mean of what a network says of an image in several orientations."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Tta = Literal["none", "flips", "all"]

Turn = tuple[tuple[int, ...], bool]
"""Axes of N x C x spatial to flip, and whether rows and columns, the last two, are exchanged after that."""


def turns(tta: Tta, dims: int) -> tuple[Turn, ...]:
    """The orientations to average over, the image as it is first.

    ``flips``: of every spatial axis and their combinations (four in 2D, eight in 3D). ``all``: the eight of the plane
    of a slice, flips and quarter turns.
    """
    if tta == "none":
        return (((), False),)
    axes = range(2, 2 + dims) if tta == "flips" else range(dims, dims + 2)
    flips = [
        tuple(axis for axis, flipped in zip(axes, chosen, strict=True) if flipped)
        for chosen in product((False, True), repeat=len(axes))
    ]
    return tuple((flip, exchanged) for exchanged in (False, True)[: 1 + (tta == "all")] for flip in flips)


def averaged(ask: "Callable[[Tensor], Tensor]", image: "Tensor", orientations: Sequence[Turn]) -> "Tensor":
    """The mean over orientations of what ``ask`` says of an image (N x C x spatial), each turned back."""
    total: Tensor | None = None
    for flips, exchanged in orientations:
        turned = image.flip(flips) if flips else image
        answer = ask(turned.transpose(-1, -2) if exchanged else turned)
        answer = answer.transpose(-1, -2) if exchanged else answer
        answer = answer.flip(flips) if flips else answer
        total = answer if total is None else total + answer
    assert total is not None
    return total / len(orientations) if len(orientations) > 1 else total

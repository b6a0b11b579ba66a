"""A prepared stack through the network, slab by slab: whole slices, or windows that overlap."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from hlfd.data import views
from hlfd.data.geometry import Geometry
from hlfd.data.preprocess import Preprocess

Ask = Callable[[Tensor], Tensor]
"""Images (N x C x spatial) -> class probabilities (N x K x spatial)."""

Prepare = Callable[[slice], Tensor]
"""Places in the prepared stack -> those slices: float32 in [-1, 1], (slices, rows, columns)."""


def answers(
    ask: Ask, prepare: Prepare, preprocess: Preprocess, geometry: Geometry, *, batch_size: int, overlap: float
) -> Iterator[Tensor]:
    """Class probabilities of a prepared stack from its first slice to its last, some at a time: N x K x rows x columns.

    Args:
        ask: the network.
        prepare: gives the slices.
        preprocess: says what the network is shown.
        geometry: of the stack.
        batch_size: slices or windows at a time.
        overlap: share of a window that the next has in common with it. Where windows overlap, the mean counts, weighted
            by a Gaussian around each window's centre.
    """
    window = preprocess.window(geometry.shape)
    if window == (1, *geometry.shape[1:]):
        for start in range(0, geometry.shape[0], batch_size):
            wanted = slice(start, min(start + batch_size, geometry.shape[0]))
            yield ask(_with_channels(prepare, preprocess, geometry, wanted))
        return
    yield from _Windows(ask, prepare, preprocess, geometry, batch_size, overlap).answers()


def _with_channels(prepare: Prepare, preprocess: Preprocess, geometry: Geometry, wanted: slice) -> Tensor:
    """Slices with their neighbours as channels: N x C x rows x columns."""
    count, neighbours = geometry.shape[0], preprocess.neighbours
    needed = views.reach(wanted, count, neighbours)
    return views.with_neighbours(prepare(needed), needed.start, wanted, count, neighbours)


class _Windows:
    """Windows in the order of their first slice: what no later one reaches is done, and leaves the memory."""

    def __init__(
        self, ask: Ask, prepare: Prepare, preprocess: Preprocess, geometry: Geometry, batch_size: int, overlap: float
    ):
        self.ask, self.prepare, self.preprocess, self.geometry = ask, prepare, preprocess, geometry
        self.batch_size, self.window = batch_size, preprocess.window(geometry.shape)
        self.padded = tuple(max(n, size) for n, size in zip(geometry.shape, self.window, strict=True))
        found = views.overlapping(geometry.shape, self.window, overlap)
        self.first = sorted({i for i, _, _ in found})
        self.corners = sorted({(j, k) for _, j, k in found})
        self.weights = views.importance(self.window)

    def answers(self) -> Iterator[Tensor]:
        depth, end = self.window[0], self.geometry.shape[0]
        sums: Tensor | None = None
        for i, following in zip(self.first, [*self.first[1:], end], strict=True):
            for (j, k), probabilities in self._asked(i):
                if sums is None:  # the last channel sums the weights
                    sums = probabilities.new_zeros((len(probabilities) + 1, depth, *self.padded[1:]))
                part = sums[:, :, j : j + self.window[1], k : k + self.window[2]]
                weights = self.weights.to(probabilities)
                part[:-1] += probabilities * weights
                part[-1] += weights
            assert sums is not None
            done = sums[:, : following - i, : self.geometry.shape[1], : self.geometry.shape[2]]
            yield (done[:-1] / done[-1]).transpose(0, 1)
            sums = torch.cat([sums[:, following - i :], torch.zeros_like(sums[:, : following - i])], 1)

    def _asked(self, i: int) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """Every window that begins at slice ``i``: its corner in the plane, and class probabilities K x window."""
        stack = self._stack(i)
        for start in range(0, len(self.corners), self.batch_size):
            corners = self.corners[start : start + self.batch_size]
            cut = [stack[..., j : j + self.window[1], k : k + self.window[2]] for j, k in corners]
            batch = torch.stack(cut)
            found = self.ask(batch[:, :, 0] if self.preprocess.dims == 2 else batch)
            found = found[:, :, None] if self.preprocess.dims == 2 else found
            yield from zip(corners, found, strict=True)

    def _stack(self, i: int) -> Tensor:
        """The slices of the windows that begin at ``i``, C x slices x rows x columns, padded to hold a window."""
        if self.preprocess.dims == 2:
            slices = _with_channels(self.prepare, self.preprocess, self.geometry, slice(i, i + 1)).transpose(0, 1)
        else:
            slices = self.prepare(slice(i, min(i + self.window[0], self.geometry.shape[0])))[None]
        missing = [n - have for n, have in zip((self.window[0], *self.padded[1:]), slices.shape[1:], strict=True)]
        return F.pad(slices, [pad for n in reversed(missing) for pad in (0, n)], value=views.AIR)

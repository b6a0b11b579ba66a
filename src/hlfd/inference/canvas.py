"""The label map that grows from a network's answers, slab by slab."""

import numpy as np
import torch
from torch import Tensor

from hlfd.data.geometry import SLAB, Geometry
from hlfd.volume import AXCODES, Volume

STEPS = 65535


class Canvas:
    """A label map on an image's own grid, painted as the class probabilities of prepared slices come, in their order.

    Where the grid was resampled, probabilities are resized to the native one before argmax, so borders are as fine as
    the image. What lies outside the prepared box is background. Of what is not a label no more than a slab is held.

    Args:
        image: on whose grid.
        geometry: how it was prepared.
        classes: of the network.
        probabilities: whether to keep them too, in 2 bytes a voxel and class.
    """

    def __init__(self, image: Volume, geometry: Geometry, classes: int, *, probabilities: bool = False):
        self.image, self.geometry = image, geometry
        self.upright = np.zeros(geometry.upright, dtype=np.uint8)
        self.shares = np.zeros((classes, *geometry.upright), dtype=np.uint16) if probabilities else None
        if self.shares is not None:
            self.shares[0] = STEPS
        self.same = geometry.resampled == geometry.upright
        self._first = 0  # prepared slice that `_waiting` begins with
        self._waiting: Tensor | None = None  # probabilities that further upright slices need
        self._painted = 0  # upright slices

    def paint(self, probabilities: Tensor) -> None:
        """Take the next prepared slices: N x classes x rows x columns."""
        if self.same and self.shares is None:
            inside, within = self.geometry.overlap()
            start = self._first + self.geometry.start[0]
            labels = most_probable(probabilities[(..., *within)]).cpu().numpy()
            self.upright[(slice(start, start + len(labels)), *inside)] = labels
            self._first += len(labels)
            return
        before = self._waiting
        waiting = probabilities if before is None else torch.cat([before, probabilities])
        known = self._first + len(waiting)
        while self._painted < self.geometry.upright[0]:
            part = slice(self._painted, min(self._painted + SLAB, self.geometry.upright[0]))
            needed = self.geometry.prepared_span(part)
            if needed.stop > known:
                break
            self._resize(waiting, part, needed)
            self._painted = part.stop
        rest = slice(self._painted, self.geometry.upright[0])
        keep = self.geometry.prepared_span(rest).start if rest.start < rest.stop else known
        self._waiting, self._first = waiting[keep - self._first :].clone(), keep

    def _resize(self, waiting: Tensor, part: slice, needed: slice) -> None:
        probabilities = waiting[needed.start - self._first : needed.stop - self._first]
        if not len(probabilities):
            return
        native = self.geometry.scores(probabilities, needed, part)
        self.upright[part] = most_probable(native).cpu().numpy()
        if self.shares is not None:
            steps = (native * STEPS).round_().clamp_(0, STEPS).to(torch.int32).transpose(0, 1)
            self.shares[:, part] = steps.cpu().numpy()

    @property
    def labels(self) -> Volume:
        """Class indices on the image's grid."""
        return self.image.restored(self.upright, AXCODES)

    @property
    def probabilities(self) -> np.ndarray | None:
        """I x J x K x classes on the image's grid, uint16 in steps of 1 / `STEPS`."""
        return None if self.shares is None else self.image.own_axes(np.moveaxis(self.shares, 0, -1), AXCODES)


def most_probable(scores: Tensor) -> Tensor:
    """Class of the highest score (N, K, rows, columns) as uint8, the first of equals; `argmax`, many times faster."""
    best, labels = scores[:, 0], torch.zeros_like(scores[:, 0], dtype=torch.uint8)
    for index in range(1, scores.shape[1]):
        above = (scores[:, index] > best).view(torch.uint8)
        labels = torch.maximum(labels, above.mul_(index))
        best = torch.maximum(best, scores[:, index])
    return labels

"""Augmentation of a batch: flips and quarter turns, the eight symmetries of a square (HLFD paper)."""

import torch
from torch import Tensor


def flips_and_quarter_turns(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """One of the eight symmetries for each sample, the same for its image (N x C x H x W) and target (N x H x W).

    Exact: no pixel is interpolated. Quarter turns need H = W; other shapes get the four symmetries that keep them.
    """
    square = image.shape[-2] == image.shape[-1]
    images, targets = torch.empty_like(image), torch.empty_like(target)
    for n in range(image.shape[0]):
        turns, flip = int(torch.randint(4, ())), bool(torch.randint(2, ()))
        turns = turns if square else turns // 2 * 2
        pair = [torch.rot90(t, turns, (-2, -1)) for t in (image[n], target[n])]
        images[n], targets[n] = [t.flip(-1) if flip else t for t in pair]
    return images, targets

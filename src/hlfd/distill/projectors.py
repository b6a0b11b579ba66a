"""Several taps as one tensor, and the learned heads that turn features into class scores."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlfd.distill.features import Features
from hlfd.distill.losses import resize


def fuse(features: Features, taps: Sequence[str]) -> Tensor:
    """cat(a, b, ...): all taps resized to the smallest of them, concatenated over channels."""
    tensors = [features[tap] for tap in taps]
    if len(tensors) == 1:
        return tensors[0]
    size = smallest([tuple(t.shape[2:]) for t in tensors])
    return torch.cat([resize(t, size) for t in tensors], dim=1)


def smallest(sizes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The size of the fewest pixels, the first of several."""
    found = sizes[0]
    for size in sizes[1:]:  # not min(): torch.compile can't trace its key
        if math.prod(size) < math.prod(found):
            found = size
    return found


class Head(nn.Module):
    """g(a): a learned 1x1 convolution, to class scores in most terms, for images of any number of axes.

    Built once from the tap's channels, so it is a parameter before the optimiser exists. It computes in its own
    precision, float32, whatever the features' is: a sum over many channels leaves the range of float16.
    """

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, channels))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.reset()

    def reset(self) -> None:
        """Draw the weights anew, from the global random numbers."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """N x C x spatial -> N x outputs x spatial."""
        spatial = features.ndim - 2
        convolve = F.conv2d if spatial == 2 else F.conv3d
        with torch.autocast(features.device.type, enabled=False):
            return convolve(features.to(self.weight.dtype), self.weight[(..., *[None] * spatial)], self.bias)

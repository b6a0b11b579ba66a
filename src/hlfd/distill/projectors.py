"""Several taps as one tensor, and the learned heads that turn features into class scores."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlfd.distill.features import Features
from hlfd.distill.losses import resize


def fuse(features: Features, taps: Sequence[str]) -> Tensor:
    """cat(a, b, ...): all taps resized to the smallest of them, concatenated over channels."""
    tensors = [features[tap] for tap in taps]
    smallest = tensors[0].shape[2:]
    for tensor in tensors:  # not min(): torch.compile can't trace its key
        if tensor.shape[2:].numel() < smallest.numel():
            smallest = tensor.shape[2:]
    return tensors[0] if len(tensors) == 1 else torch.cat([resize(t, smallest) for t in tensors], dim=1)


class Head(nn.Module):
    """g(a): a learned 1x1 convolution, to class scores in most terms, for images of any number of axes.

    Built once from the tap's channels, so it is a parameter before the optimiser exists. It computes in its own
    precision, float32, whatever the features' is: a sum over many channels leaves the range of float16.
    """

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, channels))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, features: Tensor) -> Tensor:
        """N x C x spatial -> N x outputs x spatial."""
        spatial = features.ndim - 2
        convolve = F.conv2d if spatial == 2 else F.conv3d
        with torch.autocast(features.device.type, enabled=False):
            return convolve(features.to(self.weight.dtype), self.weight[(..., *[None] * spatial)], self.bias)

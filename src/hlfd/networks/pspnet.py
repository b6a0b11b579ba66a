"""PSPNet: means over regions of four sizes beside the features of a dilated ResNet."""

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from hlfd.distill.features import ENCODER, Tapped
from hlfd.networks import _resnet
from hlfd.networks._blocks import Chain, Dims, Layers, Norm, kaiming, require_2d

_BINS = (1, 2, 3, 6)


class _PyramidPooling(nn.Module):
    """The input beside its means over 1, 2, 3 and 6 regions an axis, each narrowed and brought back to its size."""

    def __init__(self, layers: Layers, channels: int):
        super().__init__()
        out = channels // len(_BINS)

        def branch(bins: int) -> nn.Module:
            if bins == 1:  # one value a channel and image is nothing to normalise by
                body = (layers.conv(channels, out, 1, bias=True), layers.act(out))
            else:
                body = layers.conv_norm_act(channels, out, 1)
            return nn.Sequential(nn.AdaptiveAvgPool2d(bins), *body)

        self.branches = nn.ModuleList(branch(bins) for bins in _BINS)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [F.interpolate(branch(x), size=x.shape[2:], mode="bilinear") for branch in self.branches]
        return torch.cat((x, *pooled), 1)


def build(
    *,
    in_channels: PositiveInt,
    classes: PositiveInt,
    dims: Dims = 2,
    width: PositiveInt = 64,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    norm: Norm = "batch",
) -> Tapped:
    """PSPNet (Zhao 2017, arXiv 1612.01105) over a ResNet-50 (He 2016, arXiv 1512.03385), 2D only.

    Strides: e1 (stem) = 2, e2..e5 (the four residual stages, the last two dilated) = 4, 8, 8, 8; d5 (pyramid pooling,
    concatenated to e5) = 8, d4 (the 3x3 convolution that merges it) = 8. There is no more decoder: no taps d3 and d2.
    For a method that needs them, as hlfd does, d4 can stand in, in a teacher and in a student, with the option
    ``taps: {d3: d4, d2: d4}``: the same feature then has three roles, always at stride 8.
    Every axis of the image must be a multiple of 8.
    Size: 46,576,066 parameters in 2D (1 channel, 2 classes).
    With a stem of three 3x3 convolutions, as is common, it would have 46.7 M.

    Departures: no pretrained weights; a stem of one 7x7 convolution, not of three 3x3; no norm on the pyramid's
    branch of one region, which would have one value to normalise in a batch of one; no auxiliary loss on e4, since a
    network here has one set of logits; a bottleneck that strides does so in its 3x3 convolution.

    Args:
        in_channels: channels of the image.
        classes: number of classes with background.
        dims: spatial axes of the image: 2.
        width: channels of e1; e2 to e5 have 4, 8, 16, 32 times as many, d5 64 and d4 8 times; 64 is the paper's.
        dropout: probability of dropping a channel of d4 on its way to the logits.
        norm: ``batch`` (folds into the convolutions on export) or ``instance`` (for batches of one or two).

    Raises:
        InputError: for ``dims`` 3.
    """
    require_2d("pspnet", dims)
    layers = Layers(dims, norm)
    stages, widths = _resnet.encoder(layers, in_channels, width, depth=50, output_stride=8)
    deep, merged = widths[-1], widths[-1] // 4
    network = Chain(
        8,
        **dict(zip(ENCODER, stages, strict=True)),
        d5=_PyramidPooling(layers, deep),
        d4=layers.conv_norm_act(2 * deep, merged),
        head=nn.Sequential(layers.dropout(dropout), layers.head(merged, classes), layers.enlarge(8)),
    )
    taps = {role: role for role in (*ENCODER, "d5", "d4")}
    return Tapped(kaiming(network), taps, classes=classes, in_channels=in_channels, dims=dims)

"""DeepLabv3+: dilated convolutions side by side over a ResNet, and a decoder with one skip."""

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from hlfd.distill.features import Tapped
from hlfd.networks import _resnet
from hlfd.networks._blocks import TAPS, Dims, Layers, Norm, kaiming, require_2d, require_multiple

_DILATIONS = (6, 12, 18)


class _Pooled(nn.Module):
    """The mean over the image, through a 1x1 convolution, at every pixel."""

    def __init__(self, layers: Layers, inputs: int, outputs: int):
        super().__init__()
        # One value a channel and image is nothing to normalise by.
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), layers.conv(inputs, outputs, 1, bias=True), layers.act(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).expand(-1, -1, *x.shape[2:])


class _ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1, dilated 3x3 convolutions and the pooled image, merged by a 1x1."""

    def __init__(self, layers: Layers, inputs: int, outputs: int):
        super().__init__()
        self.branches = nn.ModuleList(
            [
                layers.conv_norm_act(inputs, outputs, 1),
                *(layers.conv_norm_act(inputs, outputs, dilation=dilation) for dilation in _DILATIONS),
                _Pooled(layers, inputs, outputs),
            ]
        )
        self.merge = layers.conv_norm_act(len(self.branches) * outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(torch.cat([branch(x) for branch in self.branches], 1))


class _Skip(nn.Module):
    """What comes from below enlarged, beside a narrowed skip."""

    def __init__(self, up: nn.Module, narrow: nn.Module):
        super().__init__()
        self.up, self.narrow = up, narrow

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        return torch.cat((self.up(below), self.narrow(skip)), 1)


class _DeepLab(nn.Module):
    def __init__(self, layers: Layers, in_channels: int, classes: int, width: int):
        super().__init__()
        stages, widths = _resnet.encoder(layers, in_channels, width, depth=50, output_stride=16)
        self.e1, self.e2, self.e3, self.e4, self.e5 = stages
        middle, narrow = 4 * width, 3 * width // 4
        self.d5 = _ASPP(layers, widths[-1], middle)
        self.d4 = _Skip(layers.enlarge(4), layers.conv_norm_act(widths[1], narrow, 1))
        self.d3 = layers.conv_norm_act(middle + narrow, middle)
        self.d2 = layers.conv_norm_act(middle, middle)
        self.head = nn.Sequential(layers.head(middle, classes), layers.enlarge(4))

    def forward(self, image: Tensor) -> Tensor:
        require_multiple(image, 16)
        e2 = self.e2(self.e1(image))
        d5 = self.d5(self.e5(self.e4(self.e3(e2))))
        return self.head(self.d2(self.d3(self.d4(d5, e2))))


def build(
    *,
    in_channels: PositiveInt,
    classes: PositiveInt,
    dims: Dims = 2,
    width: Annotated[int, Field(ge=2)] = 64,
    norm: Norm = "batch",
) -> Tapped:
    """DeepLabv3+ (Chen 2018, arXiv 1802.02611) over a ResNet-50 (He 2016, arXiv 1512.03385), 2D only.

    Strides: e1 (stem) = 2, e2..e5 (the four residual stages, the last dilated) = 4, 8, 16, 16; d5 (ASPP) = 16,
    d4 (enlarged, beside 48 channels of e2) = 4, d3 and d2 (the two 3x3 convolutions) = 4. The paper counts ASPP
    to the encoder; here e1..e5 are those of every other ResNet. Every axis of the image must be a multiple of 16.
    Size: 40,340,770 parameters in 2D (1 channel, 2 classes). The paper has none of this encoder: its own are Xception
    and ResNet-101.

    Departures: no pretrained weights; no norm on the pooled branch of ASPP, which would have one value to normalise
    in a batch of one; plain convolutions, not depthwise-separable ones, in ASPP and decoder; one dilation in e5, no
    multi-grid; no dropout; a bottleneck that strides does so in its 3x3 convolution.

    Args:
        in_channels: channels of the image.
        classes: number of classes with background.
        dims: spatial axes of the image: 2.
        width: channels of e1; e2 to e5 have 4, 8, 16, 32 times as many, d5, d3 and d2 4 times; 64 is the paper's.
        norm: ``batch`` (folds into the convolutions on export) or ``instance`` (for batches of one or two).

    Raises:
        InputError: for ``dims`` 3.
    """
    require_2d("deeplabv3plus", dims)
    network = _DeepLab(Layers(dims, norm), in_channels, classes, width)
    return Tapped(kaiming(network), TAPS, classes=classes, in_channels=in_channels, dims=dims)

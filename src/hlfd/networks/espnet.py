"""ESPNet: pyramids of dilated convolutions that share one narrow input."""

from itertools import accumulate
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from hlfd.distill.features import Tapped
from hlfd.networks._blocks import TAPS, Dims, Layers, Norm, kaiming, require_multiple

_DILATIONS = (1, 2, 4, 8, 16)


class _Pyramid(nn.Module):
    """ESP block: narrow to a fifth, filter at five dilations, add each up with those before, concatenate.

    Args:
        layers: the network's layers.
        inputs, outputs: channels.
        stride: 2 halves the size as the block narrows.
        residual: add the input, of as many channels as the output.
    """

    def __init__(self, layers: Layers, inputs: int, outputs: int, *, stride: int = 1, residual: bool = False):
        super().__init__()
        part = outputs // len(_DILATIONS)
        parts = (outputs - part * (len(_DILATIONS) - 1), *[part] * (len(_DILATIONS) - 1))
        self.narrow = layers.conv(inputs, part, 3 if stride > 1 else 1, stride=stride)
        self.branches = nn.ModuleList(
            layers.conv(part, width, dilation=dilation) for width, dilation in zip(parts, _DILATIONS, strict=True)
        )
        self.finish = nn.Sequential(layers.norm(outputs), layers.act(outputs))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.narrow(x)
        first, *others = [branch(narrow) for branch in self.branches]
        # The sums hide the grid that a wide dilation alone would leave. The first has its own number of channels.
        merged = torch.cat((first, *accumulate(others)), 1)
        return self.finish(merged + x if self.residual else merged)


class _Join(nn.Module):
    """What ``body`` makes of its input, concatenated to others, finished."""

    def __init__(self, body: nn.Module, finish: nn.Module):
        super().__init__()
        self.body, self.finish = body, finish

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return self.finish(torch.cat((self.body(x), *others), 1))


class _ESPNet(nn.Module):
    def __init__(self, layers: Layers, in_channels: int, classes: int, width: int, decoder_width: int):
        super().__init__()
        middle, deep, thin = 4 * width, 8 * width, decoder_width

        def finish(channels: int) -> nn.Sequential:
            return nn.Sequential(layers.norm(channels), layers.act(channels))

        def pyramids(channels: int, depth: int) -> nn.Sequential:
            return nn.Sequential(*(_Pyramid(layers, channels, channels, residual=True) for _ in range(depth)))

        first, second = width + in_channels, 2 * middle + in_channels
        self.shrink = layers.shrink()
        self.e1 = _Join(layers.conv_norm_act(in_channels, width, stride=2), finish(first))
        self.e2 = _Pyramid(layers, first, middle, stride=2)
        self.e3 = _Join(pyramids(middle, 2), finish(second))
        self.e4 = _Pyramid(layers, second, deep, stride=2)
        self.e5 = _Join(pyramids(deep, 8), finish(2 * deep))
        self.d5 = nn.Sequential(layers.conv(2 * deep, thin, 1), layers.norm(thin), layers.up(thin, thin))
        self.d4 = _Join(layers.conv(second, thin, 1), nn.Sequential(finish(2 * thin), _Pyramid(layers, 2 * thin, thin)))
        self.d3 = nn.Sequential(layers.up(thin, thin), finish(thin))
        self.d2 = _Join(nn.Identity(), layers.conv_norm_act(thin + first, thin))
        self.head = layers.up(thin, classes, bias=True)

    def forward(self, image: Tensor) -> Tensor:
        require_multiple(image, 8)
        half = self.shrink(image)
        e1 = self.e1(image, half)
        e2 = self.e2(e1)
        e3 = self.e3(e2, e2, self.shrink(half))
        e4 = self.e4(e3)
        d5 = self.d5(self.e5(e4, e4))
        return self.head(self.d2(self.d3(self.d4(e3, d5)), e1))


def build(
    *,
    in_channels: PositiveInt,
    classes: PositiveInt,
    dims: Dims = 2,
    width: Annotated[int, Field(ge=2)] = 16,
    decoder_width: Annotated[int, Field(ge=5)] = 20,
    norm: Norm = "batch",
) -> Tapped:
    """ESPNet (Mehta 2018, arXiv 1803.06815), with 2 and 8 ESP blocks (the paper's alpha) at strides 4 and 8.

    Strides: e1 (first convolution beside the shrunken image) = 2, e2 (strided ESP block) = 4, e3 (ESP blocks, e2 and
    the shrunken image, concatenated) = 4, e4 (strided ESP block) = 8, e5 (ESP blocks and e4) = 8; d5 (projected,
    doubled in size) = 4, d4 (merged with e3) = 4, d3 (doubled) = 2, d2 (merged with e1) = 2.
    Every axis of the image must be a multiple of 8.
    Size: 362,305 parameters in 2D, 1,002,307 in 3D (1 channel, 2 classes).
    Published: 0.36 m in 2d (3 channels, 20 classes).

    Departures: the decoder has ``decoder_width`` channels, not one a class: an ESP block has five branches, and with
    few classes some would be empty. The last transposed convolution maps them to classes, with a bias. It is trained
    at once, not the encoder first.

    Args:
        in_channels: channels of the image.
        classes: number of classes with background.
        dims: spatial axes of the image.
        width: channels of the first convolution; the deeper ESP blocks have 4 and 8 times as many.
        decoder_width: channels of d5 to d2; 20 is the paper's, the classes of Cityscapes.
        norm: ``batch`` (folds into the convolutions on export) or ``instance`` (for batches of one or two).
    """
    network = _ESPNet(Layers(dims, norm, act=nn.PReLU), in_channels, classes, width, decoder_width)
    return Tapped(kaiming(network), TAPS, classes=classes, in_channels=in_channels, dims=dims)

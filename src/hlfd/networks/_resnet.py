"""Residual blocks, ResNet encoders of 18 and 50 layers, and the U-Net over either."""

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from hlfd.distill.features import Tapped
from hlfd.networks._blocks import TAPS, Dims, Layers, Norm, UShape, decoder, kaiming

Depth = Literal[18, 50]

_BLOCKS: dict[Depth, tuple[int, ...]] = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}  # of e2..e5
_EXPANSION: dict[Depth, int] = {18: 1, 50: 4}


class _Residual(nn.Module):
    """``body`` beside an identity, or beside a 1x1 convolution where the shape changes."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, body: nn.Module, *, stride: int):
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(layers.conv(inputs, outputs, 1, stride=stride), layers.norm(outputs))
        self.act = layers.act(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


def _basic(layers: Layers, inputs: int, outputs: int, *, stride: int, dilation: int) -> nn.Module:
    """Two 3x3 convolutions."""
    body = nn.Sequential(
        layers.conv_norm_act(inputs, outputs, stride=stride, dilation=dilation),
        layers.conv(outputs, outputs, dilation=dilation),
        layers.norm(outputs),
    )
    return _Residual(layers, inputs, outputs, body, stride=stride)


def _bottleneck(layers: Layers, inputs: int, outputs: int, *, stride: int, dilation: int) -> nn.Module:
    """A 1x1 convolution that narrows, a 3x3, a 1x1 that widens by 4."""
    mid = outputs // _EXPANSION[50]
    body = nn.Sequential(
        layers.conv_norm_act(inputs, mid, 1),
        layers.conv_norm_act(mid, mid, stride=stride, dilation=dilation),
        layers.conv(mid, outputs, 1),
        layers.norm(outputs),
    )
    return _Residual(layers, inputs, outputs, body, stride=stride)


def encoder(
    layers: Layers, in_channels: int, width: int, depth: Depth, *, output_stride: Literal[8, 16, 32] = 32
) -> tuple[list[nn.Module], list[int]]:
    """ResNet (He 2016, arXiv 1512.03385) without its classifier: the stages e1 (stem) to e5, and their channels.

    Args:
        layers: the network's layers.
        in_channels: channels of the image.
        width: channels of the stem; 64 is the paper's.
        depth: 18 has blocks of two 3x3 convolutions, 50 bottlenecks, with the stride on their 3x3 convolution.
        output_stride: of e5. Stages that would go deeper keep their size and dilate instead.
    """
    block = _basic if depth == 18 else _bottleneck
    widths = [width, *(_EXPANSION[depth] * width * 2**level for level in range(4))]
    stages: list[nn.Module] = [layers.conv_norm_act(in_channels, width, 7, stride=2)]
    reached, dilation = 4, 1
    for level, (inputs, outputs) in enumerate(pairwise(widths)):
        step = 2 if level else 1  # the pooling before e2 has its stride
        stride = step if reached * step <= output_stride else 1
        # Where a stride is left out, the first block still works at the spacing of the stage before.
        first = block(layers, inputs, outputs, stride=stride, dilation=dilation)
        reached, dilation = reached * stride, dilation * step // stride
        rest = (block(layers, outputs, outputs, stride=1, dilation=dilation) for _ in range(_BLOCKS[depth][level] - 1))
        stages.append(nn.Sequential(first, *rest))
    stages[1] = nn.Sequential(layers.pool(3), stages[1])
    return stages, widths


def unet(in_channels: int, classes: int, dims: Dims, width: int, norm: Norm, depth: Depth) -> Tapped:
    """U-Net over a ResNet encoder, strides e1..e5 = 2, 4, 8, 16, 32; d5..d2 = 16, 8, 4, 2.

    The decoder has 4, 2, 1, 1/2 ``width`` channels, and a last stage of 1/4 without a skip for full resolution.
    """
    layers = Layers(dims, norm)
    stages, skips = encoder(layers, in_channels, width, depth)
    widths = [4 * width, 2 * width, width, width // 2]
    thin = width // 4
    head = nn.Sequential(layers.up(widths[-1], thin), layers.double_conv(thin, thin), layers.head(thin, classes))
    network = UShape(stages, decoder(layers, skips, widths, layers.double_conv), head, multiple=32)
    return Tapped(kaiming(network), TAPS, classes=classes, in_channels=in_channels, dims=dims)

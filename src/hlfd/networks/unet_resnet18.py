"""U-Net with a ResNet-18 encoder."""

from itertools import pairwise
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from hlfd.distill.features import Tapped
from hlfd.networks._blocks import TAPS, Dims, Layers, Norm, UShape, decoder, kaiming


class _Residual(nn.Module):
    """Two 3x3 convolutions beside an identity, or beside a 1x1 convolution where the shape changes."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.body = nn.Sequential(
            layers.conv_norm_act(inputs, outputs, stride=stride), layers.conv(outputs, outputs), layers.norm(outputs)
        )
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(layers.conv(inputs, outputs, 1, stride=stride), layers.norm(outputs))
        self.act = layers.act(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


def build(
    *,
    in_channels: PositiveInt,
    classes: PositiveInt,
    dims: Dims = 2,
    width: Annotated[int, Field(ge=4)] = 64,
    norm: Norm = "batch",
) -> Tapped:
    """U-Net with a ResNet-18 encoder (He 2016, arXiv 1512.03385; Ronneberger 2015, arXiv 1505.04597).

    Strides: e1 (stem) = 2, e2..e5 (the four residual stages) = 4, 8, 16, 32; d5..d2 = 16, 8, 4, 2, then one stage
    without a skip to full resolution. Every axis of the image must be a multiple of 32.
    Size: 14,234,530 parameters in 2D, 41,650,466 in 3D (1 channel, 2 classes).

    Departures: no pretrained weights; the classifier gives way to a decoder of 4, 2, 1, 1/2 and 1/4 ``width``
    channels, two convolutions a stage.

    Args:
        in_channels: channels of the image.
        classes: number of classes with background.
        dims: spatial axes of the image.
        width: channels of e1 and e2, doubled at e3, e4, e5; 64 is ResNet-18.
        norm: ``batch`` (folds into the convolutions on export) or ``instance`` (for batches of one or two).
    """
    layers = Layers(dims, norm)

    def stage(inputs: int, outputs: int) -> nn.Module:
        first = _Residual(layers, inputs, outputs, stride=1 if inputs == outputs else 2)
        return nn.Sequential(first, _Residual(layers, outputs, outputs))

    skips = [width, width, 2 * width, 4 * width, 8 * width]
    widths = [4 * width, 2 * width, width, width // 2]
    encoder = [
        layers.conv_norm_act(in_channels, width, 7, stride=2),
        nn.Sequential(layers.pool(3), stage(width, width)),
        *(stage(inputs, outputs) for inputs, outputs in pairwise(skips[1:])),
    ]
    thin = width // 4
    head = nn.Sequential(layers.up(widths[-1], thin), layers.double_conv(thin, thin), layers.head(thin, classes))
    network = UShape(encoder, decoder(layers, skips, widths, layers.double_conv), head, multiple=32)
    return Tapped(kaiming(network), TAPS, classes=classes, in_channels=in_channels, dims=dims)

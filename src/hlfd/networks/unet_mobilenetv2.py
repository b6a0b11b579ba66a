"""U-Net with a MobileNetV2 encoder."""

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import nn

from hlfd.distill.features import Tapped
from hlfd.networks import _mobilenetv2
from hlfd.networks._blocks import TAPS, Dims, Norm, UShape, decoder, kaiming


def build(
    *,
    in_channels: PositiveInt,
    classes: PositiveInt,
    dims: Dims = 2,
    width_multiplier: Annotated[float, Field(gt=0)] = 1.0,
    norm: Norm = "batch",
) -> Tapped:
    """U-Net with a MobileNetV2 encoder (Sandler 2018, arXiv 1801.04381) and a light decoder.

    Strides: e1..e5 = 2, 4, 8, 16, 32; d5..d2 = 16, 8, 4, 2, then one stage without a skip to full resolution.
    Every axis of the image must be a multiple of 32.
    Size: 1,978,610 parameters in 2D, 2,254,770 in 3D (1 channel, 2 classes).

    Departures: no pretrained weights; the 1280-channel convolution before the classifier is left out, as the decoder
    would only narrow it again; the decoder's convolutions are depthwise-separable, 96, 32, 24, 16 and 16 channels.

    Args:
        in_channels: channels of the image.
        classes: number of classes with background.
        dims: spatial axes of the image.
        width_multiplier: factor on every width, rounded to multiples of 8 as in the paper's code; 1 is the paper's.
        norm: ``batch`` (folds into the convolutions on export) or ``instance`` (for batches of one or two).
    """
    layers = _mobilenetv2.relu6_layers(dims, norm)

    def separable(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            layers.conv_norm_act(inputs, inputs, groups=inputs), layers.conv_norm_act(inputs, outputs, 1)
        )

    stages, skips = _mobilenetv2.encoder(layers, in_channels, width_multiplier)
    widths = [_mobilenetv2.scaled(channels, width_multiplier) for channels in (96, 32, 24, 16)]
    thin = widths[-1]
    head = nn.Sequential(layers.up(thin, thin), separable(thin, thin), layers.head(thin, classes))
    network = UShape(stages, decoder(layers, skips, widths, separable), head, multiple=32)
    return Tapped(kaiming(network), TAPS, classes=classes, in_channels=in_channels, dims=dims)

"""MobileNetV2 as a segmentation network without a decoder."""

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import nn

from hlfd.distill.features import ENCODER, Tapped
from hlfd.networks import _mobilenetv2
from hlfd.networks._blocks import Chain, Dims, Norm, kaiming


def build(
    *,
    in_channels: PositiveInt,
    classes: PositiveInt,
    dims: Dims = 2,
    width_multiplier: Annotated[float, Field(gt=0)] = 1.0,
    norm: Norm = "batch",
) -> Tapped:
    """MobileNetV2 (Sandler 2018, arXiv 1801.04381), classified pixel by pixel and enlarged to the image.

    Strides: e1..e5 (e5 before the 1280-channel convolution) = 2, 4, 8, 16, 32. There is no decoder: no taps d5..d2.
    Every axis of the image must be a multiple of 32.
    Size: 2,225,858 parameters in 2D, 2,354,882 in 3D (1 channel, 2 classes).
    Published: 2.2 m in 2d without the classifier of 1000.

    Departures: no pretrained weights; the pooling and the classifier give way to a 1x1 convolution to class scores,
    which bilinear (in 3D trilinear) interpolation enlarges 32 times.

    Args:
        in_channels: channels of the image.
        classes: number of classes with background.
        dims: spatial axes of the image.
        width_multiplier: factor on every width, rounded to multiples of 8 as in the paper's code; 1 is the paper's.
            Below 1 the last convolution keeps its 1280 channels, as in the paper.
        norm: ``batch`` (folds into the convolutions on export) or ``instance`` (for batches of one or two).
    """
    layers = _mobilenetv2.relu6_layers(dims, norm)
    stages, widths = _mobilenetv2.encoder(layers, in_channels, width_multiplier)
    last = _mobilenetv2.scaled(1280, max(1.0, width_multiplier))
    head = nn.Sequential(layers.conv_norm_act(widths[-1], last, 1), layers.head(last, classes), layers.enlarge(32))
    network = Chain(32, **dict(zip(ENCODER, stages, strict=True)), head=head)
    taps = {role: role for role in ENCODER}
    return Tapped(kaiming(network), taps, classes=classes, in_channels=in_channels, dims=dims)

"""U-Net with a ResNet-50 encoder."""

from typing import Annotated

from pydantic import Field, PositiveInt

from hlfd.distill.features import Tapped
from hlfd.networks import _resnet
from hlfd.networks._blocks import Dims, Norm


def build(
    *,
    in_channels: PositiveInt,
    classes: PositiveInt,
    dims: Dims = 2,
    width: Annotated[int, Field(ge=4)] = 64,
    norm: Norm = "batch",
) -> Tapped:
    """U-Net with a ResNet-50 encoder (He 2016, arXiv 1512.03385; Ronneberger 2015, arXiv 1505.04597).

    Strides: e1 (stem) = 2, e2..e5 (the four residual stages) = 4, 8, 16, 32; d5..d2 = 16, 8, 4, 2, then one stage
    without a skip to full resolution. Every axis of the image must be a multiple of 32.
    Size: 30,461,346 parameters in 2D, 64,758,562 in 3D (1 channel, 2 classes).
    Published: 23.5 M in the encoder in 2D, without the classifier of 1000; the same here.

    Departures: no pretrained weights; a bottleneck that strides does so in its 3x3 convolution, not in the 1x1 before
    it; the classifier gives way to a decoder of 4, 2, 1, 1/2 and 1/4 ``width`` channels, two convolutions a stage.

    Args:
        in_channels: channels of the image.
        classes: number of classes with background.
        dims: spatial axes of the image.
        width: channels of e1; e2 to e5 have 4, 8, 16, 32 times as many; 64 is ResNet-50.
        norm: ``batch`` (folds into the convolutions on export) or ``instance`` (for batches of one or two).
    """
    return _resnet.unet(in_channels, classes, dims, width, norm, depth=50)

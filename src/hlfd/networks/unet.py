"""U-Net."""

from itertools import pairwise

from pydantic import PositiveInt
from torch import nn

from hlfd.distill.features import Tapped
from hlfd.networks._blocks import TAPS, Dims, Layers, Norm, UShape, decoder, kaiming


def build(
    *, in_channels: PositiveInt, classes: PositiveInt, dims: Dims = 2, width: PositiveInt = 32, norm: Norm = "batch"
) -> Tapped:
    """U-Net (Ronneberger 2015, arXiv 1505.04597); in 3D as Cicek 2016 (arXiv 1606.06650).

    Strides: e1..e5 = 1, 2, 4, 8, 16; d5..d2 = 8, 4, 2, 1. Every axis of the image must be a multiple of 16.
    Size: 7,762,018 parameters in 2D, 22,577,826 in 3D (1 channel, 2 classes; grows with the square of ``width``).

    Departures: padded convolutions, so that the logits have the image's size; a norm after each convolution, for
    stable training without tuned initialisation; ``width`` 32, not 64; no dropout.

    Args:
        in_channels: channels of the image.
        classes: number of classes with background.
        dims: spatial axes of the image.
        width: channels of e1, doubled at every level.
        norm: ``batch`` (folds into the convolutions on export) or ``instance`` (for batches of one or two).
    """
    layers = Layers(dims, norm)
    widths = [width * 2**level for level in range(5)]
    encoder = [layers.double_conv(in_channels, width)]
    for above, out in pairwise(widths):
        encoder.append(nn.Sequential(layers.pool(), layers.double_conv(above, out)))
    stages = decoder(layers, widths, widths[-2::-1], layers.double_conv)
    network = UShape(encoder, stages, layers.head(width, classes), multiple=16)
    return Tapped(kaiming(network), TAPS, classes=classes, in_channels=in_channels, dims=dims)

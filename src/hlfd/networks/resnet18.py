"""ResNet-18 as a segmentation network without a decoder."""

from pydantic import PositiveInt
from torch import nn

from hlfd.distill.features import ENCODER, Tapped
from hlfd.networks import _resnet
from hlfd.networks._blocks import Chain, Dims, Layers, Norm, kaiming


def build(
    *, in_channels: PositiveInt, classes: PositiveInt, dims: Dims = 2, width: PositiveInt = 64, norm: Norm = "batch"
) -> Tapped:
    """ResNet-18 (He 2016, arXiv 1512.03385), its last stage classified pixel by pixel and enlarged to the image.

    Strides: e1 (stem) = 2, e2..e5 (the four residual stages) = 4, 8, 16, 32. There is no decoder: no taps d5..d2.
    Every axis of the image must be a multiple of 32.
    Size: 11,171,266 parameters in 2D, 33,161,026 in 3D (1 channel, 2 classes).
    Published: 11.2 m in 2d without the classifier of 1000.

    Departures: no pretrained weights; the pooling and the classifier give way to a 1x1 convolution to class scores,
    which bilinear (in 3D trilinear) interpolation enlarges 32 times.

    Args:
        in_channels: channels of the image.
        classes: number of classes with background.
        dims: spatial axes of the image.
        width: channels of e1 and e2, doubled at e3, e4, e5; 64 is ResNet-18.
        norm: ``batch`` (folds into the convolutions on export) or ``instance`` (for batches of one or two).
    """
    layers = Layers(dims, norm)
    stages, widths = _resnet.encoder(layers, in_channels, width, depth=18)
    head = nn.Sequential(layers.head(widths[-1], classes), layers.enlarge(32))
    network = Chain(32, **dict(zip(ENCODER, stages, strict=True)), head=head)
    taps = {role: role for role in ENCODER}
    return Tapped(kaiming(network), taps, classes=classes, in_channels=in_channels, dims=dims)

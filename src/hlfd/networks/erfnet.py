"""ERFNet: residual blocks whose filters are split by axis."""

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from hlfd.distill.features import Tapped
from hlfd.networks._blocks import TAPS, Chain, Dims, DownConcat, Layers, Norm, kaiming, require_fewer_channels


class _NonBottleneck(nn.Module):
    """Two filters of 3 pixels an axis, each split into one convolution an axis, the second dilated; plus the input."""

    def __init__(self, layers: Layers, channels: int, *, dropout: float, dilation: int = 1):
        super().__init__()
        self.body = nn.Sequential(
            self._split(layers, channels), layers.act(channels), self._split(layers, channels, dilation)
        )
        self.dropout = layers.dropout(dropout)
        self.act = layers.act(channels)

    @staticmethod
    def _split(layers: Layers, channels: int, dilation: int = 1) -> nn.Sequential:
        *first, last = layers.axis_kernels(3)
        split = nn.Sequential()
        for kernel in first:  # no norm follows these, so they have a bias
            split.append(layers.conv(channels, channels, kernel, dilation=dilation, bias=True))
            split.append(layers.act(channels))
        split.append(layers.conv(channels, channels, last, dilation=dilation))
        split.append(layers.norm(channels))
        return split

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.dropout(self.body(x)) + x)


def build(
    *,
    in_channels: PositiveInt,
    classes: PositiveInt,
    dims: Dims = 2,
    width: Annotated[int, Field(ge=2)] = 16,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3,
    norm: Norm = "batch",
) -> Tapped:
    """ERFNet (Romera 2018, IEEE T-ITS 19(1), doi 10.1109/TITS.2017.2750080).

    Strides: e1 (layer 1 of the paper's table) = 2, e2 (2 to 7) = 4, e3 (8) = 8, e4 and e5 (9 to 12, 13 to 16) = 8;
    d5 (17) = 4, d4 (18 and 19) = 4, d3 (20) = 2, d2 (21 and 22) = 2. The decoder has no skips.
    Every axis of the image must be a multiple of 8.
    Size: 2,059,657 parameters in 2D, 3,278,039 in 3D (1 channel, 2 classes).
    Published: 2.1 m in 2d (3 channels, 20 classes).

    Departures: convolutions that a norm follows have no bias, which it would remove. In 3D a filter is split into
    three.

    Args:
        in_channels: channels of the image, fewer than ``width``.
        classes: number of classes with background.
        dims: spatial axes of the image.
        width: channels of e1; the deeper stages have 4 and 8 times as many.
        dropout: probability of dropping a channel of a branch in e4 and e5; a tenth of it in e2, none in the decoder,
            as in the paper.
        norm: ``batch`` (folds into the convolutions on export) or ``instance`` (for batches of one or two).

    Raises:
        InputError: if the image has as many channels as the first layer, or more.
    """
    require_fewer_channels("erfnet", in_channels, width)
    layers = Layers(dims, norm)
    middle, deep = 4 * width, 8 * width

    def half() -> nn.Sequential:
        blocks = (_NonBottleneck(layers, deep, dropout=dropout, dilation=dilation) for dilation in (2, 4, 8, 16))
        return nn.Sequential(*blocks)

    def up(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(layers.up(inputs, outputs, 3), layers.norm(outputs), layers.act(outputs))

    def refine(channels: int) -> nn.Sequential:
        return nn.Sequential(*(_NonBottleneck(layers, channels, dropout=0) for _ in range(2)))

    network = Chain(
        8,
        e1=DownConcat(layers, in_channels, width),
        e2=nn.Sequential(
            DownConcat(layers, width, middle), *(_NonBottleneck(layers, middle, dropout=dropout / 10) for _ in range(5))
        ),
        e3=DownConcat(layers, middle, deep),
        e4=half(),
        e5=half(),
        d5=up(deep, middle),
        d4=refine(middle),
        d3=up(middle, width),
        d2=refine(width),
        head=layers.up(width, classes, bias=True),
    )
    return Tapped(kaiming(network), TAPS, classes=classes, in_channels=in_channels, dims=dims)

"""U-Net with a MobileNetV2 encoder."""

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from hlfd.distill.features import Tapped
from hlfd.networks._blocks import TAPS, Dims, Layers, Norm, UShape, decoder, kaiming

# Of table 2 of the paper, by stage e1..e5: (expansion, channels, blocks, stride of the first block).
_STAGES = (
    ((1, 16, 1, 1),),
    ((6, 24, 2, 2),),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)


class _InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow without an activation; plus the input where the shape is kept."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, *, expansion: int, stride: int):
        super().__init__()
        wide = inputs * expansion
        self.keeps_shape = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            layers.conv_norm_act(inputs, wide, 1) if expansion > 1 else nn.Identity(),
            layers.conv_norm_act(wide, wide, stride=stride, groups=wide),
            layers.conv(wide, outputs, 1),
            layers.norm(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.keeps_shape else self.body(x)


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
    layers = Layers(dims, norm, act=lambda _channels: nn.ReLU6(inplace=True))

    def scaled(channels: int) -> int:
        rounded = max(8, int(channels * width_multiplier + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * channels * width_multiplier else rounded + 8

    def separable(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            layers.conv_norm_act(inputs, inputs, groups=inputs), layers.conv_norm_act(inputs, outputs, 1)
        )

    width = scaled(32)
    encoder = [
        nn.Sequential(layers.conv_norm_act(in_channels, width, stride=2)),
        *(nn.Sequential() for _ in _STAGES[1:]),
    ]
    for stage, rows in zip(encoder, _STAGES, strict=True):
        for expansion, channels, blocks, first_stride in rows:
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                out = scaled(channels)
                stage.append(_InvertedResidual(layers, width, out, expansion=expansion, stride=stride))
                width = out
    skips = [scaled(rows[-1][1]) for rows in _STAGES]
    widths = [scaled(channels) for channels in (96, 32, 24, 16)]
    thin = widths[-1]
    head = nn.Sequential(layers.up(thin, thin), separable(thin, thin), layers.head(thin, classes))
    network = UShape(encoder, decoder(layers, skips, widths, separable), head, multiple=32)
    return Tapped(kaiming(network), TAPS, classes=classes, in_channels=in_channels, dims=dims)

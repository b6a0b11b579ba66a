"""The MobileNetV2 encoder."""

from torch import Tensor, nn

from hlfd.networks._blocks import Dims, Layers, Norm

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


def relu6_layers(dims: Dims, norm: Norm) -> Layers:
    """Layers with MobileNetV2's activation."""
    return Layers(dims, norm, act=lambda _channels: nn.ReLU6(inplace=True))


def scaled(channels: int, width_multiplier: float) -> int:
    """``channels`` times ``width_multiplier``, rounded to a multiple of 8 at least 0.9 times as large."""
    wanted = channels * width_multiplier
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def encoder(layers: Layers, in_channels: int, width_multiplier: float) -> tuple[list[nn.Module], list[int]]:
    """MobileNetV2 (Sandler 2018, arXiv 1801.04381) up to its last block: the stages e1 to e5, and their channels.

    Strides: e1..e5 = 2, 4, 8, 16, 32.
    """
    width = scaled(32, width_multiplier)
    stages = [
        nn.Sequential(layers.conv_norm_act(in_channels, width, stride=2)),
        *(nn.Sequential() for _ in _STAGES[1:]),
    ]
    for stage, rows in zip(stages, _STAGES, strict=True):
        for expansion, channels, blocks, first_stride in rows:
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                out = scaled(channels, width_multiplier)
                stage.append(_InvertedResidual(layers, width, out, expansion=expansion, stride=stride))
                width = out
    return list(stages), [scaled(rows[-1][1], width_multiplier) for rows in _STAGES]

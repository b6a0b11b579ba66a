"""RA-UNet: a residual U-Net whose skips pass through attention modules."""

from itertools import pairwise
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from hlfd.distill.features import Tapped
from hlfd.networks._blocks import TAPS, Dims, Layers, Norm, UpConcat, kaiming, require_multiple


def _double() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="nearest")


class _Residual(nn.Module):
    """Bottleneck of norm, activation, convolution; plus the input, or a 1x1 of it where the channels change."""

    def __init__(self, layers: Layers, inputs: int, outputs: int):
        super().__init__()
        mid = outputs // 4
        rows = ((inputs, mid, 1), (mid, mid, 3), (mid, outputs, 1))
        self.body = nn.Sequential(
            *(nn.Sequential(layers.norm(i), layers.act(i), layers.conv(i, o, kernel)) for i, o, kernel in rows)
        )
        self.shortcut = nn.Identity() if inputs == outputs else layers.conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class _Mask(nn.Module):
    """Soft mask between 0 and 1 from a small U of ``depth`` levels, each skip a residual block whose output is added.

    A level shrinks, filters, hands on to the level below it, filters and grows.
    """

    def __init__(self, layers: Layers, channels: int, depth: int):
        super().__init__()

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(_Residual(layers, channels, channels) for _ in range(count))

        self.pool, self.up = layers.pool(), _double()
        self.down, self.skips, self.back = blocks(depth), blocks(depth - 1), blocks(depth)
        # The blocks' outputs are sums, too large for a sigmoid without a norm.
        self.finish = nn.Sequential(
            nn.Sequential(layers.norm(channels), layers.act(channels)),
            layers.conv_norm_act(channels, channels, 1),
            layers.head(channels, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(self.pool(x))
            if level < len(self.skips):
                skips.append(self.skips[level](x))
        for block in self.back:
            x = self.up(block(x))
            if skips:
                x = x + skips.pop()
        return self.finish(x)


class _Attention(nn.Module):
    """Attention residual module: a trunk T of two residual blocks and a mask M make (1 + M) T."""

    def __init__(self, layers: Layers, channels: int, depth: int):
        super().__init__()
        before, *trunk, after = (_Residual(layers, channels, channels) for _ in range(4))
        self.before, self.trunk, self.after = before, nn.Sequential(*trunk), after
        self.mask = _Mask(layers, channels, depth)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        return self.after((1 + self.mask(x)) * self.trunk(x))


class _RAUNet(nn.Module):
    def __init__(self, layers: Layers, in_channels: int, classes: int, width: int):
        super().__init__()

        def merge(inputs: int, outputs: int) -> UpConcat:
            return UpConcat(_double(), _Residual(layers, inputs, outputs))

        widths = [width, *(width * 2**level for level in range(5))]
        self.stem = layers.conv_norm_act(in_channels, width)
        stages = [nn.Sequential(layers.pool(), _Residual(layers, above, out)) for above, out in pairwise(widths)]
        stages[-1].append(_Residual(layers, widths[-1], widths[-1]))
        self.e1, self.e2, self.e3, self.e4, self.e5 = stages
        # Each mask reaches down to stride 32, the deepest of the network.
        depths = zip(widths[1:-1], (4, 3, 2, 1), strict=True)
        self.a1, self.a2, self.a3, self.a4 = (_Attention(layers, channels, depth) for channels, depth in depths)
        steps = pairwise(reversed(widths[1:]))
        self.d5, self.d4, self.d3, self.d2 = (merge(deep + out, out) for deep, out in steps)
        self.last = UpConcat(_double(), layers.conv_norm_act(2 * width, width))
        self.head = layers.head(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        require_multiple(image, 32)
        stem = self.stem(image)
        e1 = self.e1(stem)
        e2 = self.e2(e1)
        e3 = self.e3(e2)
        e4 = self.e4(e3)
        d5 = self.d5(self.e5(e4), self.a4(e4))
        d3 = self.d3(self.d4(d5, self.a3(e3)), self.a2(e2))
        return self.head(self.last(self.d2(d3, self.a1(e1)), stem))


def build(
    *,
    in_channels: PositiveInt,
    classes: PositiveInt,
    dims: Dims = 2,
    width: Annotated[int, Field(ge=4)] = 32,
    norm: Norm = "batch",
) -> Tapped:
    """RA-UNet (Jin 2018, arXiv 1811.01328; Frontiers 2020, doi 10.3389/fbioe.2020.605132).

    Strides: e1..e5 (the residual stages, after a stem of stride 1) = 2, 4, 8, 16, 32; d5..d2 = 16, 8, 4, 2, then one
    stage with a skip from the stem at full resolution. Every axis of the image must be a multiple of 32.
    Size: 2,034,338 parameters in 2D, 3,538,274 in 3D (1 channel, 2 classes), or 8,094,146 in 2D at ``width`` 64. The
    authors' code has 4.4 M in 3D (``width`` 32) and 0.7 M in 2D (``width`` 16).

    Departures: residual blocks add their input itself where the channels stay, as the paper says; the authors' code
    passes it through a 1x1 convolution, which is most of the difference in size. A norm and an activation precede
    both last convolutions of a mask, as in Wang 2017 (arXiv 1704.06904), where the module comes from: without them the
    masks start saturated. No biases but the masks' last and the head's. The head is a 1x1 convolution, not 3x3, to
    any number of classes. ``width`` is 32 in 2D too.

    Another network of this name is the RAUNet of Ni 2019 (arXiv 1909.10360): a ResNet-34 encoder with channel
    attention on the skips, 22 M parameters. It is the one in the published code of EMKD (Qin 2021, arXiv 2108.09987).

    Args:
        in_channels: channels of the image.
        classes: number of classes with background.
        dims: spatial axes of the image.
        width: channels of the stem and e1, doubled at e2 to e5.
        norm: ``batch`` or ``instance`` (for batches of one or two).
    """
    network = _RAUNet(Layers(dims, norm), in_channels, classes, width)
    return Tapped(kaiming(network), TAPS, classes=classes, in_channels=in_channels, dims=dims)

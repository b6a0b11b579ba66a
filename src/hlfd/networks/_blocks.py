"""What the networks share: layers for 2D and 3D, chains and U-shapes of stages, checks, the initialisation."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hlfd.distill.features import DECODER, ENCODER
from hlfd.errors import InputError

Dims = Literal[2, 3]
Norm = Literal["batch", "instance"]

TAPS = {role: role for role in (*ENCODER, *DECODER)}  # a network whose stages are named by their role

_CONV: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_UP: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_MEAN: dict[int, Callable[..., nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_DROP: dict[int, Callable[..., nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}
_LINEAR: dict[int, str] = {2: "bilinear", 3: "trilinear"}
_NORM: dict[tuple[Norm, int], Callable[..., nn.Module]] = {
    ("batch", 2): nn.BatchNorm2d,
    ("batch", 3): nn.BatchNorm3d,
    ("instance", 2): nn.InstanceNorm2d,
    ("instance", 3): nn.InstanceNorm3d,
}


def relu(_channels: int) -> nn.Module:
    # In place is safe for taps: it always follows a norm inside a stage, and a tap is a whole stage's output.
    return nn.ReLU(inplace=True)


@dataclass(frozen=True)
class Layers:
    """Makes the layers of one network: 2D or 3D, with one kind of norm and one activation.

    Convolutions have no bias unless asked: a norm follows, which would remove it. ``batch`` norm folds into the
    convolution on export and needs more than one value per channel to train on; ``instance`` norm suits batches of
    one or two, and needs more than one cell at the deepest stride.
    """

    dims: Dims
    norm_kind: Norm = "batch"
    act: Callable[[int], nn.Module] = relu  # channels -> module

    def conv(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, ...] = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> nn.Module:
        """Convolution that keeps the size (odd kernels, stride 1) or divides it by ``stride``."""
        kernel = (kernel,) * self.dims if isinstance(kernel, int) else kernel
        padding = tuple(dilation * (k - 1) // 2 for k in kernel)
        options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return _CONV[self.dims](inputs, outputs, kernel, bias=bias, **options)

    def axis_kernels(self, length: int) -> list[tuple[int, ...]]:
        """Kernels of an asymmetric filter: ``length`` along one axis, 1 along the others, for each axis in turn."""
        return [tuple(length if axis == at else 1 for axis in range(self.dims)) for at in range(self.dims)]

    def up(self, inputs: int, outputs: int, kernel: Literal[2, 3] = 2, *, bias: bool = False) -> nn.Module:
        """Transposed convolution that doubles the size."""
        odd = kernel % 2
        return _UP[self.dims](inputs, outputs, kernel, stride=2, padding=odd, output_padding=odd, bias=bias)

    def pool(self, kernel: int = 2) -> nn.Module:
        """Maximum over ``kernel`` pixels an axis, stride 2."""
        return _POOL[self.dims](kernel, stride=2, padding=(kernel - 1) // 2)

    def shrink(self) -> nn.Module:
        """Mean over 3 pixels an axis, stride 2."""
        return _MEAN[self.dims](3, stride=2, padding=1)

    def enlarge(self, factor: int) -> nn.Module:
        """Linear interpolation to ``factor`` times the size."""
        return nn.Upsample(scale_factor=factor, mode=_LINEAR[self.dims])

    def dropout(self, p: float) -> nn.Module:
        """Drops whole channels with probability ``p``."""
        return _DROP[self.dims](p)

    def norm(self, channels: int) -> nn.Module:
        return _NORM[self.norm_kind, self.dims](channels, affine=True)

    def head(self, inputs: int, classes: int) -> nn.Module:
        """1x1 convolution to class scores, with a bias."""
        return _CONV[self.dims](inputs, classes, 1)

    def conv_norm_act(
        self, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> nn.Sequential:
        conv = self.conv(inputs, outputs, kernel, stride=stride, dilation=dilation, groups=groups)
        return nn.Sequential(conv, self.norm(outputs), self.act(outputs))

    def double_conv(self, inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(self.conv_norm_act(inputs, outputs), self.conv_norm_act(outputs, outputs))


class DownConcat(nn.Module):
    """Halves the size: a strided convolution beside a maximum of the input itself (``inputs`` < ``outputs``)."""

    def __init__(self, layers: Layers, inputs: int, outputs: int):
        super().__init__()
        self.conv, self.pool = layers.conv(inputs, outputs - inputs, stride=2), layers.pool()
        self.finish = nn.Sequential(layers.norm(outputs), layers.act(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(torch.cat((self.conv(x), self.pool(x)), 1))


class Chain(nn.Sequential):
    """Stages by name, each taking the output of the one before, for an image that ``multiple`` divides."""

    def __init__(self, multiple: int, **stages: nn.Module):
        super().__init__(OrderedDict(stages))
        self.multiple = multiple

    def forward(self, input: Tensor) -> Tensor:
        require_multiple(input, self.multiple)
        for stage in self:
            input = stage(input)
        return input


class UpConcat(nn.Module):
    """A decoder stage: what comes from below doubled in size, concatenated to the skips, merged."""

    def __init__(self, up: nn.Module, merge: nn.Module):
        super().__init__()
        self.up, self.merge = up, merge

    def forward(self, below: Tensor, *skips: Tensor) -> Tensor:
        return self.merge(torch.cat((*skips, self.up(below)), 1))


class UShape(nn.Module):
    """Five encoder stages ``e1..e5``, four decoder stages ``d5..d2`` with a skip from ``e4..e1``, and a ``head``.

    Args:
        encoder: the stages e1 to e5, each taking the output of the one before.
        decoder: the stages d5 to d2.
        head: the output of d2 -> logits at full resolution.
        multiple: the stride of e5, which every spatial axis of the image must divide by.
    """

    def __init__(self, encoder: Sequence[nn.Module], decoder: Sequence[UpConcat], head: nn.Module, *, multiple: int):
        super().__init__()
        self.e1, self.e2, self.e3, self.e4, self.e5 = encoder
        self.d5, self.d4, self.d3, self.d2 = decoder
        self.head = head
        self.multiple = multiple

    def forward(self, image: Tensor) -> Tensor:
        require_multiple(image, self.multiple)
        e1 = self.e1(image)
        e2 = self.e2(e1)
        e3 = self.e3(e2)
        e4 = self.e4(e3)
        d5 = self.d5(self.e5(e4), e4)
        return self.head(self.d2(self.d3(self.d4(d5, e3), e2), e1))


def decoder(
    layers: Layers, skips: Sequence[int], widths: Sequence[int], block: Callable[[int, int], nn.Module]
) -> list[UpConcat]:
    """The stages d5 to d2 of ``widths`` channels over an encoder whose stages e1 to e5 have ``skips`` channels.

    ``block(inputs, outputs)`` makes the module that merges; up-sampling is a 2x2 transposed convolution.
    """
    below = (skips[-1], *widths[:-1])
    steps = zip(below, reversed(skips[:-1]), widths, strict=True)
    return [UpConcat(layers.up(deep, out), block(skip + out, out)) for deep, skip, out in steps]


def require_multiple(image: Tensor, multiple: int) -> None:
    """Raise InputError unless every spatial axis of ``image`` (N x C x spatial) is a multiple of ``multiple``."""
    if any(size % multiple for size in image.shape[2:]):
        shape = " x ".join(map(str, image.shape[2:]))
        raise InputError(f"image of {shape}: this network needs every axis to be a multiple of {multiple}; pad it")


def require_2d(network: str, dims: Dims) -> None:
    """Raise InputError for a network that exists in 2D alone."""
    if dims != 2:
        raise InputError(f"{network}: dims {dims}: this network is 2D only; for volumes take unet, unetpp or raunet")


def require_fewer_channels(network: str, in_channels: int, width: int) -> None:
    """Raise InputError unless the image has fewer channels than the first block, which adds to them."""
    if in_channels >= width:
        raise InputError(
            f"{network}: in_channels {in_channels} must be below width {width}: the first block adds to the image"
        )


def kaiming(network: nn.Module) -> nn.Module:
    """``network`` with each convolution's weight drawn with variance 2 / fan-in (He 2015), biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            fan_in = module.in_channels // module.groups * math.prod(module.kernel_size)
            if module.transposed:  # each output pixel sees only every stride-th tap of the kernel
                fan_in /= math.prod(module.stride)
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network

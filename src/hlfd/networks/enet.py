"""ENet: a small, fast segmentation network that down-samples early."""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from hlfd.distill.features import Tapped
from hlfd.networks._blocks import TAPS, Chain, Dims, DownConcat, Layers, Norm, kaiming, relu, require_fewer_channels


class _Bottleneck(nn.Module):
    """Narrow, filter, widen; added to the input, which is down- or up-sampled with it.

    Args:
        layers: the network's layers.
        inputs, outputs: channels.
        dropout: probability that a channel of the branch is dropped.
        dilation: of the filtering 3x3 convolution (transposed for ``up``).
        asymmetric: filter with 5x1 then 1x5 (in 3D 5x1x1, 1x5x1, 1x1x5): the reach of 5x5 for 10 weights, not 25.
        resample: ``down`` halves the size, ``up`` doubles it.
    """

    def __init__(
        self,
        layers: Layers,
        inputs: int,
        outputs: int,
        *,
        dropout: float,
        resample: Literal["down", "up"] | None = None,
        dilation: int = 1,
        asymmetric: bool = False,
    ):
        super().__init__()
        mid = outputs // 4
        if asymmetric:
            filters = nn.Sequential(*(layers.conv(mid, mid, kernel) for kernel in layers.axis_kernels(5)))
        else:
            filters = layers.up(mid, mid, 3) if resample == "up" else layers.conv(mid, mid, dilation=dilation)
        step = 2 if resample == "down" else 1
        self.branch = nn.Sequential(
            layers.conv_norm_act(inputs, mid, step, stride=step),
            nn.Sequential(filters, layers.norm(mid), layers.act(mid)),
            nn.Sequential(layers.conv(mid, outputs, 1), layers.norm(outputs)),
            layers.dropout(dropout),
        )
        self.main = nn.Identity()
        if resample == "down":
            self.main = layers.pool()
        elif resample == "up":
            grow = nn.Upsample(scale_factor=2, mode="nearest")
            self.main = nn.Sequential(layers.conv(inputs, outputs, 1), layers.norm(outputs), grow)
        # Channels that the main path lacks are zeros; F.pad counts from the last axis.
        self.pad = (0, 0) * layers.dims + (0, outputs - inputs) if resample == "down" else ()
        self.act = layers.act(outputs)

    def forward(self, x: Tensor) -> Tensor:
        main = self.main(x)
        return self.act(self.branch(x) + (F.pad(main, self.pad) if self.pad else main))


def build(
    *,
    in_channels: PositiveInt,
    classes: PositiveInt,
    dims: Dims = 2,
    width: Annotated[int, Field(ge=4, multiple_of=4)] = 16,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    norm: Norm = "batch",
) -> Tapped:
    """ENet (Paszke 2016, arXiv 1606.02147).

    Strides: e1 (initial block) = 2, e2 (stage 1) = 4, e3 and e4 (the halves of stage 2) = 8, e5 (stage 3) = 8;
    d5 (bottleneck 4.0) = 4, d4 (4.1 and 4.2) = 4, d3 (5.0) = 2, d2 (5.1) = 2. The decoder has no skips.
    Every axis of the image must be a multiple of 8.
    Size: 362,297 parameters in 2D, 669,447 in 3D (1 channel, 2 classes).

    Departures: the decoder up-samples its main path by nearest neighbour, not by the indices of the encoder's maxima,
    because max-unpooling is slow or missing in ONNX runtimes. The decoder has ReLU, as in the authors' code. In 3D,
    asymmetric filters have one part an axis.

    Args:
        in_channels: channels of the image, fewer than ``width``.
        classes: number of classes with background.
        dims: spatial axes of the image.
        width: channels of e1; the deeper stages have 4 and 8 times as many.
        dropout: probability of dropping a channel of a branch; a tenth of it in stage 1, as in the paper.
        norm: ``batch`` (folds into the convolutions on export) or ``instance`` (for batches of one or two).

    Raises:
        InputError: if the image has as many channels as the initial block, or more.
    """
    require_fewer_channels("enet", in_channels, width)
    encoding = Layers(dims, norm, act=nn.PReLU)
    decoding = replace(encoding, act=relu)
    middle, deep = 4 * width, 8 * width

    def half(dilations: tuple[int, int]) -> list[nn.Module]:
        first, second = dilations
        return [
            _Bottleneck(encoding, deep, deep, dropout=dropout),
            _Bottleneck(encoding, deep, deep, dropout=dropout, dilation=first),
            _Bottleneck(encoding, deep, deep, dropout=dropout, asymmetric=True),
            _Bottleneck(encoding, deep, deep, dropout=dropout, dilation=second),
        ]

    network = Chain(
        8,
        e1=DownConcat(encoding, in_channels, width),
        e2=nn.Sequential(
            _Bottleneck(encoding, width, middle, dropout=dropout / 10, resample="down"),
            *(_Bottleneck(encoding, middle, middle, dropout=dropout / 10) for _ in range(4)),
        ),
        e3=nn.Sequential(_Bottleneck(encoding, middle, deep, dropout=dropout, resample="down"), *half((2, 4))),
        e4=nn.Sequential(*half((8, 16))),
        e5=nn.Sequential(*half((2, 4)), *half((8, 16))),
        d5=_Bottleneck(decoding, deep, middle, dropout=dropout, resample="up"),
        d4=nn.Sequential(*(_Bottleneck(decoding, middle, middle, dropout=dropout) for _ in range(2))),
        d3=_Bottleneck(decoding, middle, width, dropout=dropout, resample="up"),
        d2=_Bottleneck(decoding, width, width, dropout=dropout),
        head=decoding.up(width, classes, bias=True),
    )
    return Tapped(kaiming(network), TAPS, classes=classes, in_channels=in_channels, dims=dims)

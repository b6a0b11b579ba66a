"""UNet++: a U-Net whose skips are nested and dense."""

from itertools import pairwise

from pydantic import PositiveInt
from torch import Tensor, nn

from hlfd.distill.features import Tapped
from hlfd.networks._blocks import Dims, Layers, Norm, UpConcat, kaiming, require_multiple

_DEPTH = 5
_ENCODER = {f"e{level + 1}": f"nodes.x{level}_0" for level in range(_DEPTH)}
_DECODER = {f"d{level + 2}": f"nodes.x{level}_{_DEPTH - 1 - level}" for level in range(_DEPTH - 1)}


class _UNetPlusPlus(nn.Module):
    """Nodes ``x{level}_{step}``: step 0 is the encoder, later steps merge the node below with all before in the row."""

    def __init__(self, layers: Layers, in_channels: int, classes: int, width: int):
        super().__init__()
        widths = [width * 2**level for level in range(_DEPTH)]
        self.nodes = nn.ModuleDict({"x0_0": layers.double_conv(in_channels, width)})
        for level, (above, out) in enumerate(pairwise(widths), 1):
            self.nodes[f"x{level}_0"] = nn.Sequential(layers.pool(), layers.double_conv(above, out))
        for step in range(1, _DEPTH):
            for level, (out, below) in enumerate(pairwise(widths[: _DEPTH - step + 1])):
                merge = layers.double_conv((step + 1) * out, out)
                self.nodes[f"x{level}_{step}"] = UpConcat(layers.up(below, out), merge)
        self.head = layers.head(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        require_multiple(image, 2 ** (_DEPTH - 1))
        rows: list[list[Tensor]] = []  # rows[level][step]
        for level in range(_DEPTH):
            rows.append([self.nodes[f"x{level}_0"](rows[-1][0] if rows else image)])
        for step in range(1, _DEPTH):
            for level in range(_DEPTH - step):
                rows[level].append(self.nodes[f"x{level}_{step}"](rows[level + 1][step - 1], *rows[level]))
        return self.head(rows[0][-1])


def build(
    *, in_channels: PositiveInt, classes: PositiveInt, dims: Dims = 2, width: PositiveInt = 32, norm: Norm = "batch"
) -> Tapped:
    """UNet++ (Zhou 2018, arXiv 1807.10165): nodes X^{i,j} at level i, step j.

    Strides: e1..e5 = X^{0,0}..X^{4,0} = 1, 2, 4, 8, 16; d5..d2 = X^{3,1}, X^{2,2}, X^{1,3}, X^{0,4} = 8, 4, 2, 1.
    Every axis of the image must be a multiple of 16.
    Size: 9,044,450 parameters in 2D, 26,201,122 in 3D (1 channel, 2 classes), or 36,162,498 in 2D at
    ``width`` 64, a common teacher.

    Departures: a batch norm after each convolution, for stable training; no deep supervision, since a network here
    has one set of logits (X^{0,4}).

    Args:
        in_channels: channels of the image.
        classes: number of classes with background.
        dims: spatial axes of the image.
        width: channels of e1, doubled at every level.
        norm: ``batch`` (folds into the convolutions on export) or ``instance`` (for batches of one or two).
    """
    network = _UNetPlusPlus(Layers(dims, norm), in_channels, classes, width)
    return Tapped(kaiming(network), _ENCODER | _DECODER, classes=classes, in_channels=in_channels, dims=dims)

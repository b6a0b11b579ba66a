"""Foreign: a network that was trained on images whose axes point elsewhere than ours."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hlfd.data.preprocess import AXCODES
from hlfd.distill.features import Features, TapInfo, Tapped
from hlfd.errors import InputError

LINES = {code: line for line in ("SI", "PA", "LR") for code in line}
"""Direction -> the line it lies on, named by its two directions."""


class Foreign(Tapped):
    """A network from elsewhere, shown our images turned to the axes it knows; its features are turned back.

    It was trained on patches from anywhere in the body, so any part of a slice may be shown to it.

    Args:
        axcodes: where the axes of its images point, one letter each: "RAS" as MONAI's `Orientationd` writes it; "PL"
            for an axial slice with rows to posterior and columns to the patient's left, as ours are.
        multiples: what the sizes of its images must be multiples of, along our axes; None: not known.
        proposed: as for `Tapped`.

    Raises:
        InputError: as `Tapped`, and for axes that are none or can't be had.
    """

    def __init__(
        self,
        network: nn.Module,
        taps: Mapping[str, str],
        *,
        classes: int,
        in_channels: int,
        dims: int,
        axcodes: str,
        multiples: tuple[int, ...] | None = None,
        proposed: frozenset[str] = frozenset(),
    ):
        super().__init__(network, taps, classes=classes, in_channels=in_channels, dims=dims, proposed=proposed)
        ours = own_axcodes(dims)
        self.multiples = multiples or (1,) * dims
        self.order = tuple(2 + axis_of(code, ours) for code in checked_axcodes(axcodes, dims))
        self.flips = tuple(2 + i for i, code in enumerate(axcodes) if code not in ours)
        self._back = tuple(2 + self.order.index(2 + axis) for axis in range(dims))

    def forward(self, image: Tensor, roles: frozenset[str] | None = None) -> Features:
        """Image (N x C x spatial, axes as ours) -> features by role, axes as ours; ``roles`` as in `Tapped`."""
        return {role: self._turned_back(f) for role, f in super().forward(self._turned(image), roles).items()}

    def info(self, size: int = 64, *, computed: bool = False) -> dict[str, TapInfo]:
        """As `Tapped.info`, on an image that is large enough for the network."""
        multiple = max(self.multiples)  # twice as much: norms over a single pixel refuse
        return super().info(-(-size // (2 * multiple)) * 2 * multiple, computed=computed)

    def _turned(self, image: Tensor) -> Tensor:
        image = image.permute(0, 1, *self.order)
        return torch.flip(image, self.flips) if self.flips else image

    def _turned_back(self, features: Tensor) -> Tensor:
        features = torch.flip(features, self.flips) if self.flips else features
        return features.permute(0, 1, *self._back)


def own_axcodes(dims: int) -> str:
    """Where the axes of our images point; those of a slice have lost the first."""
    return AXCODES[-dims:]


def axis_of(code: str, axcodes: str) -> int:
    """The axis of ``axcodes`` that lies on the line of direction ``code``."""
    return next(axis for axis, other in enumerate(axcodes) if LINES[other] == LINES[code])


def checked_axcodes(axcodes: str, dims: int) -> str:
    """``axcodes``, if there is a letter for every axis and, of a slice, its plane is axial."""
    ours = own_axcodes(dims)
    if sorted(LINES.get(code, code) for code in axcodes) != sorted(LINES[code] for code in ours):
        what = "a letter for each axis (S or I, P or A, L or R)" if dims == 3 else "P or A and L or R, an axial slice"
        raise InputError(f"axcodes: expected {what}, for example {ours}, got '{axcodes}'")
    return axcodes


def in_plane(spacings_mm: list[float], axcodes: str, where: str) -> float:
    """The pixel size in the axial plane, of the spacing along every axis.

    Raises:
        InputError: it differs by more than 5 % between rows and columns; below, the geometric mean is taken.
    """
    rows, columns = (spacings_mm[axis_of(code, axcodes)] for code in own_axcodes(2))
    if max(rows, columns) > 1.05 * min(rows, columns):
        raise InputError(f"{where}: expected square pixels in the axial plane, got {rows:g} x {columns:g} mm")
    return rows if rows == columns else (rows * columns) ** 0.5


def deepest(tapped: Tapped) -> tuple[int, ...]:
    """The largest stride of a tap along each axis."""
    return tuple(max(strides) for strides in zip(*(t.along(tapped.dims) for t in tapped.info().values()), strict=True))

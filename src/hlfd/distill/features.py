"""Tapped: any network, with its intermediate features read out by role."""

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hlfd.distill.dry_run import SIZES, Size, dry_run, times
from hlfd.errors import InputError, nearest

Features = Mapping[str, Tensor]

ENCODER = ("e1", "e2", "e3", "e4", "e5")
DECODER = ("d5", "d4", "d3", "d2")
ROLES = (*ENCODER, *DECODER, "logits")


@dataclass(frozen=True)
class TapInfo:
    """What a dry run says of a tap: its channels, and input size / feature size.

    Attributes:
        channels: of the feature.
        stride: along every spatial axis; the largest where they differ.
        strides: per spatial axis where they differ, else empty.
    """

    channels: int
    stride: int
    strides: tuple[int, ...] = ()

    @classmethod
    def of(cls, feature: Tensor, size: Sequence[int]) -> "TapInfo":
        """Of a feature (N x C x spatial) for an image of ``size``."""
        strides = strides_of(size, feature.shape[2:])
        return cls(feature.shape[1], max(strides), strides if len(set(strides)) > 1 else ())

    def along(self, dims: int) -> tuple[int, ...]:
        """The stride of each axis."""
        return self.strides or (self.stride,) * dims

    def __str__(self) -> str:
        return times(self.strides or (self.stride,))


def channels_last(dims: int) -> torch.memory_format:
    """The memory format in which images of so many spatial axes are convolved faster."""
    return torch.channels_last if dims == 2 else torch.channels_last_3d


def strides_of(size: Sequence[int], feature_size: Sequence[int]) -> tuple[int, ...]:
    """Image size / feature size of each axis, rounded, at least 1."""
    return tuple(max(1, round(n / max(m, 1))) for n, m in zip(size, feature_size, strict=True))


def first_tensor(output: Any) -> Tensor | None:
    """A module's output, or the first of several: the finest where there is deep supervision. None: there is none."""
    while not isinstance(output, Tensor):
        if isinstance(output, str) or not isinstance(output, (Mapping, Sequence)) or not len(output):
            return None
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output


def logits_of(output: Any, dims: int) -> Tensor:
    """What a network gives as class scores, N x classes x spatial.

    Raises:
        InputError: there is no such tensor in its output.
    """
    logits = first_tensor(output)
    if logits is not None and logits.ndim == dims + 3:  # N x heads x classes x spatial: MONAI's DynUNet as it trains
        logits = logits[:, 0]
    if logits is None or logits.ndim != dims + 2:
        got = type(output).__name__ if logits is None else f"a tensor of {times(logits.shape)}"
        raise InputError(f"expected class scores (N x classes and {dims} spatial axes) from the network, got {got}")
    return logits


def require_logits(logits: Tensor, classes: int, size: Sequence[int]) -> None:
    """Raise `InputError` unless the logits have ``classes`` channels at the image's ``size``."""
    info = TapInfo.of(logits, size)
    if info.channels != classes or tuple(logits.shape[2:]) != tuple(size):
        raise InputError(
            f"expected logits of {classes} channels at stride 1, got {info.channels} channels at stride {info} "
            f"({times(logits.shape[2:])} pixels for an image of {times(size)})"
        )


class _Enough(Exception):  # noqa: N818 - it is no error
    """All features that are wanted have been read."""


class Tapped(nn.Module):
    """A network whose features are read by role.

    Args:
        network: any module that maps an image (N x C x spatial) to logits (N x classes x spatial).
        taps: role -> name of the submodule whose output it is. Roles are ``e1..e5`` (encoder, shallow to deep) and
            ``d5..d2`` (decoder, deep to shallow); ``logits`` is always the network's own output.
        classes: number of classes with background.
        in_channels: channels of the image.
        dims: 2 or 3, the spatial axes of the image.
        size: of the image, for a network that accepts no other.
        proposed: roles whose taps nobody declared; a dry run found them.

    Raises:
        InputError: for an unknown role, or a tap that names no submodule (the message lists those there are).
    """

    def __init__(
        self,
        network: nn.Module,
        taps: Mapping[str, str],
        *,
        classes: int,
        in_channels: int,
        dims: int,
        size: Size | None = None,
        proposed: frozenset[str] = frozenset(),
    ):
        super().__init__()
        self.network = network
        self.taps = _checked(network, taps)
        self.classes, self.in_channels, self.dims = classes, in_channels, dims
        self.size, self.proposed = size, proposed

    cpu_only = False
    """Whether it can't be moved to another device."""

    def with_taps(self, taps: Mapping[str, str | None]) -> "Tapped":
        """The same network (not a copy), with these taps over its own; None takes one away. Errors as `Tapped`."""
        for role in taps:
            _require_role(role)
        merged: dict[str, str | None] = {**self.taps, **taps}
        other = copy.copy(self)
        other.taps = _checked(self.network, {role: name for role, name in merged.items() if name is not None})
        other.proposed = self.proposed - taps.keys()
        return other

    def forward(self, image: Tensor, roles: frozenset[str] | None = None) -> Features:
        """Image (N x C x spatial) -> features by role, with ``logits`` (N x classes x spatial).

        Args:
            roles: those wanted; None: all. The network is run as far as the last of them.
        """
        features: dict[str, Tensor] = {}
        wanted = self.taps if roles is None else {role: name for role, name in self.taps.items() if role in roles}

        def keep(role: str):
            def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
                feature = output if isinstance(output, Tensor) else first_tensor(output)
                if feature is None:
                    raise InputError(
                        f"tap {role}: module '{self.taps[role]}' gives no tensor but {type(output).__name__}"
                    )
                features[role] = feature
                if roles is not None and features.keys() >= roles:
                    raise _Enough

            return hook

        # Hooks live only as long as the call: a copied or exported network carries none.
        handles = [self.network.get_submodule(name).register_forward_hook(keep(role)) for role, name in wanted.items()]
        try:
            output = self.network(image)
            plain = isinstance(output, Tensor) and output.ndim == image.ndim  # no call that a compiler would split off
            features["logits"] = output if plain else logits_of(output, self.dims)
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return features

    def info(self, size: int = 64, *, computed: bool = False) -> dict[str, TapInfo]:
        """Channels and stride of every tap, from a dry run of shapes alone.

        Args:
            size: pixels an axis of the image; another is taken if the network doesn't accept it.
            computed: as `dry_run` has it.

        Raises:
            InputError: if encoder strides decrease with depth or decoder strides increase, or the logits are not at
                full resolution: then a tap does not have the role it is given. Or a tap's module isn't run exactly
                once, or gives no feature with spatial axes.
        """
        sizes = (self.size,) if self.size else (size, *(s for s in SIZES if s != size))

        def run(probe: nn.Module, image: Tensor) -> tuple[Features, dict[str, int]]:
            assert isinstance(probe, Tapped)
            calls = dict.fromkeys(self.taps, 0)

            def counter(role: str):
                def hook(*_: object) -> None:
                    calls[role] += 1

                return hook

            handles = [
                probe.network.get_submodule(name).register_forward_hook(counter(role))
                for role, name in self.taps.items()
            ]
            try:
                return probe(image), calls
            finally:
                for handle in handles:
                    handle.remove()

        (features, calls), shape = dry_run(
            self, run, in_channels=self.in_channels, dims=self.dims, sizes=sizes, computed=computed
        )
        for role, name in self.taps.items():
            if calls[role] != 1:
                often = "never run (a list of modules?)" if calls[role] == 0 else f"run {calls[role]} times"
                raise InputError(f"tap {role}: module '{name}' is {often}; expected one that is run once")
            if features[role].ndim != self.dims + 2:
                raise InputError(
                    f"tap {role}: module '{name}' gives a tensor of {times(features[role].shape)}; expected "
                    f"N x channels and {self.dims} spatial axes"
                )
        info = {role: TapInfo.of(feature, shape) for role, feature in features.items()}
        for path, direction in ((ENCODER, "decrease"), (DECODER, "increase")):
            for a, b in pairwise(role for role in path if role in info):
                steps = zip(info[a].along(self.dims), info[b].along(self.dims), strict=True)
                if any(after < before if direction == "decrease" else after > before for before, after in steps):
                    raise InputError(
                        f"tap {b} has stride {info[b]} after {a} with stride {info[a]}: strides of "
                        f"{path[0]}..{path[-1]} must not {direction}"
                    )
        require_logits(features["logits"], self.classes, shape)
        return info

    def multiple(self) -> tuple[int, ...]:
        """What each spatial axis of the image must be a multiple of: the deepest tap's stride. Errors as `info`."""
        strides = [tap.along(self.dims) for tap in self.info(computed=True).values()]
        return tuple(max(axis) for axis in zip(*strides, strict=True))


def _require_role(role: str) -> None:
    if role not in ROLES or role == "logits":
        raise InputError(f"'{role}' is not a tap's role{nearest(role, ROLES[:-1])}")


def _checked(network: nn.Module, taps: Mapping[str, str]) -> dict[str, str]:
    modules = {name for name, _ in network.named_modules(remove_duplicate=False) if name}
    for role, name in taps.items():
        _require_role(role)
        if name not in modules:
            shown = modules  # of hundreds only the outermost, and the nearest
            if len(modules) > 40:
                shown = {m for m in modules if "." not in m} | set(difflib.get_close_matches(name, modules, n=1))
            raise InputError(f"tap {role}: the network has no module '{name}'{nearest(name, shown)}")
    return dict(taps)

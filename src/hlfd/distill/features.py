"""Tapped: any network, with its intermediate features read out by role."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlfd.errors import InputError, nearest

Features = Mapping[str, Tensor]

ENCODER = ("e1", "e2", "e3", "e4", "e5")
DECODER = ("d5", "d4", "d3", "d2")
ROLES = (*ENCODER, *DECODER, "logits")


@dataclass(frozen=True)
class TapInfo:
    """What a dry run says of a tap: its channels, and input size / feature size per spatial axis."""

    channels: int
    stride: int


def _first_tensor(output: Any) -> Tensor:
    """A module's output, or the first of several: the finest where there is deep supervision."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output


class Tapped(nn.Module):
    """A network whose features are read by role.

    Args:
        network: any module that maps an image (N x C x spatial) to logits (N x classes x spatial).
        taps: role -> name of the submodule whose output it is. Roles are ``e1..e5`` (encoder, shallow to deep) and
            ``d5..d2`` (decoder, deep to shallow); ``logits`` is always the network's own output.
        classes: number of classes with background.
        in_channels: channels of the image.
        dims: 2 or 3, the spatial axes of the image.

    Raises:
        InputError: for an unknown role, or a tap that names no submodule (the message lists those there are).
    """

    def __init__(self, network: nn.Module, taps: Mapping[str, str], *, classes: int, in_channels: int, dims: int):
        super().__init__()
        modules = {name: module for name, module in network.named_modules() if name}
        for role, name in taps.items():
            if role not in ROLES or role == "logits":
                raise InputError(f"'{role}' is not a tap's role{nearest(role, ROLES[:-1])}")
            if name not in modules:
                raise InputError(f"tap {role}: the network has no module '{name}'{nearest(name, modules)}")
        self.network = network
        self.taps = dict(taps)
        self.classes, self.in_channels, self.dims = classes, in_channels, dims

    def forward(self, image: Tensor) -> Features:
        """Image (N x C x spatial) -> features by role, with ``logits`` (N x classes x spatial)."""
        features: dict[str, Tensor] = {}

        def keep(role: str):
            def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
                features[role] = _first_tensor(output)

            return hook

        # Hooks live only as long as the call: a copied or exported network carries none.
        handles = [
            self.network.get_submodule(name).register_forward_hook(keep(role)) for role, name in self.taps.items()
        ]
        try:
            features["logits"] = _first_tensor(self.network(image))
        finally:
            for handle in handles:
                handle.remove()
        return features

    def info(self, size: int = 64) -> dict[str, TapInfo]:
        """Channels and stride of every tap, from a dry run of shapes alone on an image of ``size`` pixels an axis.

        Raises:
            InputError: if encoder strides decrease with depth or decoder strides increase, or the logits are not at
                full resolution: then a tap does not have the role it is given.
        """
        # On the meta device nothing is computed, and the copy leaves the network's own state alone.
        probe = copy.deepcopy(self).to("meta").eval()
        with torch.no_grad():
            features = probe(torch.zeros(1, self.in_channels, *[size] * self.dims, device="meta"))
        info = {role: TapInfo(f.shape[1], round(size / f.shape[-1])) for role, f in features.items()}
        for path, direction in ((ENCODER, 1), (DECODER, -1)):
            strides = [(role, info[role].stride) for role in path if role in info]
            for (a, stride_a), (b, stride_b) in pairwise(strides):
                if direction * (stride_b - stride_a) < 0:
                    word = "decrease" if direction > 0 else "increase"
                    raise InputError(
                        f"tap {b} has stride {stride_b} after {a} with stride {stride_a}: strides of "
                        f"{path[0]}..{path[-1]} must not {word}"
                    )
        if info["logits"].stride != 1 or info["logits"].channels != self.classes:
            raise InputError(
                f"expected logits of {self.classes} channels at stride 1, got "
                f"{info['logits'].channels} channels at stride {info['logits'].stride}"
            )
        return info


@dataclass(frozen=True)
class View:
    """How a teacher sees the student's image, and how its answer reads in the student's classes.

    Attributes:
        low, high: bounds in the student's units that the image is clipped to; what the teacher has never seen.
        scale, shift: then ``image * scale + shift``.
        size: then resized to this spatial size (bilinear or trilinear).
        classes: for each of the student's classes the teacher's classes it is made of; None: the same. Their
            probabilities are added: the logit is the log-sum-exp of theirs.
        slices: the teacher is 2D and the student's image 3D: it is shown each slice along the first spatial axis, and
            its features are stacked again.
    """

    low: float = -float("inf")
    high: float = float("inf")
    scale: float = 1.0
    shift: float = 0.0
    size: tuple[int, ...] | None = None
    classes: tuple[tuple[int, ...], ...] | None = None
    slices: bool = False

    def image(self, image: Tensor) -> Tensor:
        """The student's image (N x C x spatial) as the teacher's; N x depth images if ``slices``."""
        if self.slices:
            image = image.transpose(1, 2).flatten(0, 1)
        if (self.low, self.high) != (-float("inf"), float("inf")):
            image = image.clamp(self.low, self.high)
        if (self.scale, self.shift) != (1.0, 0.0):
            image = image * self.scale + self.shift
        if self.size is not None and tuple(image.shape[2:]) != self.size:
            mode = "bilinear" if image.ndim == 4 else "trilinear"
            image = F.interpolate(image, self.size, mode=mode, align_corners=False)
        return image

    def features(self, features: Features, image: Tensor) -> Features:
        """The teacher's features in the student's classes; N x C x depth x ... if ``slices``."""
        if self.classes is not None:
            logits = features["logits"].float()
            merged = [logits[:, list(members)].logsumexp(1) for members in self.classes]
            features = {**features, "logits": torch.stack(merged, 1)}
        if self.slices:
            features = {k: f.unflatten(0, (len(image), image.shape[2])).transpose(1, 2) for k, f in features.items()}
        return features


class FrozenTeacher(nn.Module):
    """A teacher as `Tapped`: no gradients, always in eval mode (``train()`` does nothing), features detached.

    Args:
        tapped: the teacher's network.
        view: how it sees the student's images and how its answer reads in the student's classes; None: as it is.
    """

    def __init__(self, tapped: Tapped, view: View | None = None):
        super().__init__()
        self.tapped = tapped.eval().requires_grad_(False)
        self.view = view or View()

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Nothing changes: a teacher stays in eval mode."""
        return self

    def info(self) -> dict[str, TapInfo]:
        """`Tapped.info` as the student's side sees it: the logits in the student's classes."""
        info = self.tapped.info()
        if self.view.classes is not None:
            info["logits"] = TapInfo(len(self.view.classes), 1)
        return info

    @torch.no_grad()
    def forward(self, image: Tensor) -> Features:
        """The student's image (N x C x spatial) -> detached features by role.

        Raises:
            InputError: part of the teacher was put into train mode, where batch norm would change with every batch.
        """
        if not torch.compiler.is_compiling() and any(module.training for module in self.tapped.modules()):
            raise InputError("the teacher was put into train mode: call tapped.eval(), a teacher must not change")
        features = self.tapped(self.view.image(image))
        return self.view.features(features, image)

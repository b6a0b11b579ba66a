"""Tapped: any network, with its intermediate features read out by role."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

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
            def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
                features[role] = output

            return hook

        # Hooks live only as long as the call: a copied or exported network carries none.
        handles = [
            self.network.get_submodule(name).register_forward_hook(keep(role)) for role, name in self.taps.items()
        ]
        try:
            features["logits"] = self.network(image)
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


class FrozenTeacher(nn.Module):
    """A teacher as `Tapped`: no gradients, always in eval mode (``train()`` does nothing), features detached."""

    def __init__(self, tapped: Tapped):
        super().__init__()
        self.tapped = tapped.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Nothing changes: a teacher stays in eval mode."""
        return self

    @torch.no_grad()
    def forward(self, image: Tensor) -> Features:
        """Image (N x C x spatial) -> detached features by role."""
        return self.tapped(image)

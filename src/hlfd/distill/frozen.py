"""FrozenTeacher: a teacher that nothing changes, and how it sees the student's images."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlfd.distill.features import Features, TapInfo, Tapped
from hlfd.errors import InputError


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
        channels: first and end of the student's channels that the teacher is shown: of a slice with its neighbours
            those in the middle; None: all.
    """

    low: float = -float("inf")
    high: float = float("inf")
    scale: float = 1.0
    shift: float = 0.0
    size: tuple[int, ...] | None = None
    classes: tuple[tuple[int, ...], ...] | None = None
    slices: bool = False
    channels: tuple[int, int] | None = None

    def image(self, image: Tensor) -> Tensor:
        """The student's image (N x C x spatial) as the teacher's; N x depth images if ``slices``."""
        if self.channels is not None:
            image = image[:, self.channels[0] : self.channels[1]]
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
        if self.classes is not None and "logits" in features:
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
        bf16: it computes in bfloat16, whatever the student does. Not exact: 8 bits of a number are kept.

    Attributes:
        compiled: it runs through `torch.compile`.
    """

    def __init__(self, tapped: Tapped, view: View | None = None, *, bf16: bool = False):
        super().__init__()
        self.tapped = tapped.eval().requires_grad_(False)
        self.view, self.bf16, self.compiled = view or View(), bf16, False

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Nothing changes: a teacher stays in eval mode."""
        return self

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As `torch.nn.Module.compile`."""
        self.compiled = True
        super().compile(*args, **kwargs)

    def info(self) -> dict[str, TapInfo]:
        """`Tapped.info` as the student's side sees it: the logits in the student's classes."""
        info = self.tapped.info()
        if self.view.classes is not None:
            info["logits"] = TapInfo(len(self.view.classes), 1)
        return info

    @torch.no_grad()
    def forward(self, image: Tensor, roles: frozenset[str] | None = None) -> Features:
        """The student's image (N x C x spatial) -> detached features by role.

        Args:
            roles: those wanted; None: all. The network is run as far as the last of them.

        Raises:
            InputError: part of the teacher was put into train mode, where batch norm would change with every batch.
        """
        if not torch.compiler.is_compiling() and any(module.training for module in self.tapped.modules()):
            raise InputError("the teacher was put into train mode: call tapped.eval(), a teacher must not change")
        if self.bf16:
            with torch.autocast(image.device.type, torch.bfloat16):
                features = self.tapped(self.view.image(image), roles)
        else:
            features = self.tapped(self.view.image(image), roles)
        return self.view.features(features, image)

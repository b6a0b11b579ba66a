"""The losses: each the same code in 2D and 3D, computed in float32 whatever the features' precision.

Shapes: features N x C x spatial, logits N x K x spatial (K classes with background), target N x spatial.
"""

from typing import Protocol

import torch
from monai.losses.dice import DiceLoss
from monai.losses.focal_loss import FocalLoss
from torch import Tensor, nn
from torch.nn import functional as F


def resize(a: Tensor, to: Tensor) -> Tensor:
    """R(a -> b): ``a`` at the spatial size of ``to``; bilinear or trilinear, pixel edges aligned."""
    if a.shape[2:] == to.shape[2:]:
        return a
    mode = "bilinear" if a.ndim == 4 else "trilinear"
    return F.interpolate(a, tuple(to.shape[2:]), mode=mode, align_corners=False)


class DistillationLoss(Protocol):
    """What a term computes. ``on_logits``: it compares class scores, so other taps go through a head first."""

    on_logits: bool

    def __call__(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Features or logits of both, target N x spatial -> scalar."""
        ...


def importance_map(features: Tensor, power: float = 4) -> Tensor:
    """A(F): the mean over channels of |F|^p as a vector of length 1 for each sample.

    Args:
        features: N x C x spatial.
        power: p; 4 in HLFD and EMKD, 2 in attention transfer (Zagoruyko 2017, arXiv 1612.03928, eq. 2).

    Returns:
        N x pixels, float32, in [0, 1]; zeros where all features are zero.
    """
    magnitude = features.float().abs().flatten(2)
    # A(F) doesn't depend on the scale of F: dividing by the largest value keeps F^p from overflow and underflow.
    largest = magnitude.detach().amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return F.normalize((magnitude / largest).pow(power).mean(1), dim=1)


class ImportanceMapLoss(nn.Module):
    """I(s, t) = mean over samples of || A(R(s -> t)) - A(t) ||^2, in [0, 2].

    The finer of the two is resized to the other's size. Zero when s = t; independent of channels, scale and N.
    Source: Zagoruyko 2017 (arXiv 1612.03928), with p = 4 as in HLFD (arXiv 2311.16700).
    """

    on_logits = False

    def __init__(self, power: float = 4):
        super().__init__()
        self.power = power

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Features of both (channels may differ) -> scalar; the target is not used."""
        if teacher.shape[2:].numel() > student.shape[2:].numel():
            teacher = resize(teacher, student)
        difference = importance_map(resize(student, teacher), self.power) - importance_map(teacher, self.power)
        return difference.square().sum(1).mean()


class PixelLoss(nn.Module):
    """P(s, t) = T^2 * mean over samples and pixels of KL(softmax(t / T) || softmax(s / T)), in nats.

    The student is resized to the teacher. Zero when s = t; independent of N and of the number of pixels.
    Source: Hinton 2015 (arXiv 1503.02531), pixel-wise as in Liu 2019 (arXiv 1903.04197).
    """

    on_logits = True

    def __init__(self, temperature: float = 4):
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Logits of both, of equally many classes -> scalar; the target is not used."""
        log_s = F.log_softmax(resize(student.float(), teacher) / self.temperature, dim=1)
        log_t = F.log_softmax(teacher.float() / self.temperature, dim=1)
        return self.temperature**2 * (log_t.exp() * (log_t - log_s)).sum(1).mean()


class SegmentationLoss(nn.Module):
    """Lseg = 1/2 Focal(gamma = 2) + 1/2 (1 - Dice).

    Focal: mean over pixels of -(1 - p)^2 log p of the true class. Dice: over foreground classes, smooth 1, each
    class's pixels pooled over the batch, so that a slice without the class doesn't count as a failure of its own.
    """

    def __init__(self):
        super().__init__()
        self.focal = FocalLoss(gamma=2, use_softmax=True, to_onehot_y=True, reduction="none")
        self.dice = DiceLoss(
            include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1, smooth_dr=1
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits N x K x spatial, target N x spatial -> scalar in [0, inf)."""
        logits, target = logits.float(), target[:, None]
        return 0.5 * self.focal(logits, target).sum(1).mean() + 0.5 * self.dice(logits, target)

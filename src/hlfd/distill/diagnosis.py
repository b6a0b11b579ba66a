"""Diagnosis: how hard each term pulls at the student, and whether it pulls the way of the segmentation loss."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hlfd.distill.features import Features

DROWNS, IDLE = 5.0, 1e-3
"""A term whose gradient is over five times that of the segmentation loss, or under a thousandth, is worth a warning."""


@dataclass(frozen=True)
class Pull:
    """A term's gradient at one of the student's taps against that of the segmentation loss.

    Attributes:
        ratio: norm of the (weighted) term's gradient / norm of the segmentation loss's gradient.
        cosine: of the angle between both, in [-1, 1]; below 0 the term pulls against the task.
    """

    ratio: float
    cosine: float


def pulls(student: Features, task: Tensor, losses: Mapping[str, Tensor]) -> dict[tuple[str, str], Pull]:
    """Each term's pull at each tap that its gradient reaches, through later layers too.

    The graph stays, so that the step's own backward can follow.

    Args:
        student: the student's features, part of the graph of all losses.
        task: the segmentation loss.
        losses: name -> weighted term.

    Returns:
        (term, tap) -> pull; nothing where either gradient is zero.
    """
    taps = {role: feature for role, feature in student.items() if feature.requires_grad}
    own = _gradients(task, taps)
    found: dict[tuple[str, str], Pull] = {}
    for name, loss in losses.items():
        for role, gradient in _gradients(loss, taps).items():
            if role in own:
                norms = (float(gradient.norm()), float(own[role].norm()))
                if min(norms) > 0:
                    cosine = float((gradient * own[role]).sum()) / norms[0] / norms[1]
                    found[name, role] = Pull(norms[0] / norms[1], cosine)
    return found


def _gradients(loss: Tensor, taps: Features) -> dict[str, Tensor]:
    if not loss.requires_grad:
        return {}
    gradients: Any = torch.autograd.grad(loss, list(taps.values()), retain_graph=True, allow_unused=True)
    return {role: g.float() for role, g in zip(taps, gradients, strict=True) if g is not None}


def at_own_taps(
    found: Mapping[tuple[str, str], Pull], taught: Mapping[str, Sequence[str]], active: Collection[str]
) -> dict[str, float]:
    """Term -> its ratio at the taps it compares: the largest, if several; 0 where its gradient is zero.

    Args:
        found: from `pulls`; empty where the segmentation loss has no gradient, and then nothing is said.
        taught: term -> the student's taps that it compares.
        active: the terms that have a weight now.
    """
    if not found:
        return {}
    ratios = {name: [found[name, tap].ratio for tap in taught[name] if (name, tap) in found] for name in active}
    return {name: max(values, default=0.0) for name, values in ratios.items()}


def verdict(name: str, ratio: float, taps: Sequence[str]) -> str | None:
    """A warning where a term drowns the task or does nothing, else None.

    Args:
        ratio: of the term at its own taps, the median of several readings.
        taps: these taps.
    """
    where = f"term {name}: its gradient at the student's {', '.join(taps)} is {ratio:.2g} times the segmentation loss's"
    if ratio > DROWNS:
        return f"{where}; it drowns the task: lower its weight, or set balance: gradnorm"
    if ratio < IDLE:
        return f"{where}; it does nothing: raise its weight, or set balance: gradnorm"
    return None


def balanced(
    factors: Mapping[str, float], ratios: Mapping[str, float], weights: Mapping[str, float]
) -> dict[str, float]:
    """New balance factors that bring each term's ratio towards its weight.

    So a weight says how hard a term pulls at the taps it teaches, as a multiple of the segmentation loss, whatever
    the term's own unit. In the spirit of GradNorm (Chen 2018, arXiv 1711.02257), without its learned training rates:
    the ratios are measured and corrected, nothing is learned. A term's first reading corrects it fully, later ones by
    a fifth of the logarithm, as one batch is noisy.

    Args:
        factors: term -> present factor; 1 before its first reading.
        ratios: term -> measured ratio at its own taps, with the present factor.
        weights: term -> the ratio it should have.
    """
    new = dict(factors)
    for name, factor in factors.items():
        if ratios.get(name) and weights.get(name):
            correction = (weights[name] / ratios[name]) ** (1.0 if factor == 1 else 0.2)
            new[name] = min(max(factor * correction, 1e-4), 1e4)
    return new

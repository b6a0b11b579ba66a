"""Hierarchical Layer-selective Feedback Distillation, ISBI 2024 (arXiv 2311.16700)."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hlfd.distill.losses import (
    Average,
    DistillationLoss,
    ImportanceMapLoss,
    PixelLoss,
    Resolution,
    Size,
    product,
    resize,
)
from hlfd.distill.terms import Row, Taps, Term, terms
from hlfd.errors import InputError
from hlfd.methods._options import Power, Temperature, Weight


class ReleasedPixelLoss(DistillationLoss):
    """The pixel term as the authors' script computes it, to study what that does.

    The teacher goes through a 1x1 convolution to as many channels as the student has, drawn anew at every call, from
    the global random numbers, and never trained, even where logits meet logits. The softmax is over those channels;
    the sum of the divergence is divided by half the number of values, as by `view(-1, 2)` and the mean over its rows,
    so for C channels the result is C / 2 times too small. Not zero when s = t, and different at every call.

    Args:
        temperature: T.
    """

    kind = "class scores, random projection"

    def __init__(self, temperature: float = 4):
        super().__init__()
        self.temperature = temperature

    def knowledge_key(self, size: Size) -> str:
        """Nothing else decides it."""
        return "whole"

    def knowledge(self, teacher: Tensor, size: Size, target: Tensor) -> Tensor:
        """The logits as they are."""
        return teacher

    def compare(self, student: Tensor, knowledge: Tensor, target: Tensor) -> Tensor:
        """Features of the student, logits of the teacher -> scalar; the target is not used."""
        student = resize(student.float(), knowledge.shape[2:]).flatten(2)
        bound = 1 / math.sqrt(knowledge.shape[1])  # PyTorch's default for a new convolution
        weight, bias = (
            torch.empty(student.shape[1], n, device=student.device).uniform_(-bound, bound)
            for n in (knowledge.shape[1], 1)
        )
        projected = product(weight, knowledge.flatten(2)) + bias
        log_s = F.log_softmax(student / self.temperature, dim=1)
        log_t = F.log_softmax(projected / self.temperature, dim=1)
        return self.temperature**2 * (log_t.exp() * (log_t - log_s)).sum() / (student.numel() / 2)


class ReleasedDeepLoss(DistillationLoss):
    """The script's comparison of the student's d5 with itself: 0, with a gradient of 0."""

    kind = "the student with itself"

    def knowledge(self, teacher: Tensor, size: Size, target: Tensor) -> Tensor:
        """Nothing."""
        return teacher.new_zeros(len(teacher), 1)

    def compare(self, student: Tensor, knowledge: Tensor, target: Tensor) -> Tensor:
        """Features of the student, anything -> 0."""
        return 0 * student.float().sum()


def build(
    student: Taps,
    teacher: Taps,
    *,
    classes: int,
    alpha: Weight = 0.1,
    beta: Weight = 0.9,
    temperature: Temperature = 4.0,
    power: Power = 4.0,
    average: Average = "pixels",
    resolution: Resolution = "full",
    feature: bool = True,
    pixel: bool = True,
    unified: bool = True,
    individual: bool = True,
    variant: Literal["corrected", "released"] = "corrected",
) -> list[Term]:
    """HLFD: the teacher's middle layers together teach the earliest, its final layer each of the intermediate ones.

    FLFD = 1/2 I(s.e1, cat(t.e2, t.e3, t.e4)) + 1/2 [I(s.e2, t.e5) + I(s.e3, t.e5) + I(s.e4, t.e5)]
    PLFD = 1/2 P(g(s.d5), g(cat(t.d5, t.d4, t.d3)))
         + 1/2 [P(g(s.d4), t.logits) + P(g(s.d3), t.logits) + P(g(s.d2), t.logits)]
    Added to the segmentation loss: alpha PLFD + beta FLFD.

    Args:
        alpha: weight of the pixel level, PLFD.
        beta: weight of the feature level, FLFD.
        temperature: T of the softmax on both sides.
        power: p of the importance map.
        average: ``pixels``, the paper's mean over pixels, or ``classes``: every class counts alike, see `PixelLoss`.
        resolution: of the pixel terms, ``full``, the source's, or ``student``, the tap's own; see `PixelLoss`.
        feature: with the feature level, FLFD.
        pixel: with the pixel level, PLFD.
        unified: with the first half of each line, the middle layers together to the earliest.
        individual: with the second half of each line, the final layer to each intermediate one.
        variant: ``released`` is for study only: the pixel terms as the authors' script computes them, see
            `ReleasedPixelLoss`, with the student's d5 compared with itself. It has no heads, no ``average`` and no
            ``resolution``.

    Raises:
        InputError: the switches leave no term.
    """
    maps = ImportanceMapLoss(power)
    if variant == "corrected":
        deep = pixels = PixelLoss(temperature, average, resolution)
    else:
        deep, pixels = ReleasedDeepLoss(), ReleasedPixelLoss(temperature)
    table: list[Row] = []
    if feature and unified:
        table += [("flfd.e1", maps, beta / 2, ("e1",), ("e2", "e3", "e4"))]
    if feature and individual:
        table += [(f"flfd.{tap}", maps, beta / 2, (tap,), ("e5",)) for tap in ("e2", "e3", "e4")]
    if pixel and unified:
        table += [("plfd.d5", deep, alpha / 2, ("d5",), ("d5", "d4", "d3"))]
    if pixel and individual:
        table += [(f"plfd.{tap}", pixels, alpha / 2, (tap,), ("logits",)) for tap in ("d4", "d3", "d2")]
    if not table:
        raise InputError(
            "method 'hlfd' is left without a term: switch on feature or pixel, and unified or individual; "
            "the student alone is the method seg"
        )
    return terms(table, student, teacher, classes)

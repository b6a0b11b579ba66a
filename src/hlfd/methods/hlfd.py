"""Hierarchical Layer-selective Feedback Distillation, ISBI 2024 (arXiv 2311.16700)."""

from typing import Annotated

from pydantic import Field

from hlfd.distill.distiller import Taps, Term, terms
from hlfd.distill.losses import ImportanceMapLoss, PixelLoss


def build(
    student: Taps,
    teacher: Taps,
    *,
    classes: int,
    alpha: Annotated[float, Field(ge=0)] = 0.1,
    beta: Annotated[float, Field(ge=0)] = 0.9,
    temperature: Annotated[float, Field(gt=0)] = 4.0,
    power: Annotated[float, Field(gt=0)] = 4.0,
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
    """
    maps, pixels = ImportanceMapLoss(power), PixelLoss(temperature)
    table = [
        ("flfd.e1", maps, beta / 2, ("e1",), ("e2", "e3", "e4")),
        *[(f"flfd.{tap}", maps, beta / 2, (tap,), ("e5",)) for tap in ("e2", "e3", "e4")],
        ("plfd.d5", pixels, alpha / 2, ("d5",), ("d5", "d4", "d3")),
        *[(f"plfd.{tap}", pixels, alpha / 2, (tap,), ("logits",)) for tap in ("d4", "d3", "d2")],
    ]
    return terms(table, student, teacher, classes)

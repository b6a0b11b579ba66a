"""Distillation without feedback: the HLFD paper's ablation (arXiv 2311.16700)."""

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
    """Same layer to same layer, no feedback: alpha P(s.logits, t.logits) + beta I(s.e5, t.e5).

    Args:
        alpha: weight of the pixel term.
        beta: weight of the importance-map term.
        temperature: T of the softmax on both sides.
        power: p of the importance map.
    """
    table = [
        ("pixel.logits", PixelLoss(temperature), alpha, ("logits",), ("logits",)),
        ("map.e5", ImportanceMapLoss(power), beta, ("e5",), ("e5",)),
    ]
    return terms(table, student, teacher, classes)

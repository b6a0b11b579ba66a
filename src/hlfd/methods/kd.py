"""Hinton 2015 (arXiv 1503.02531), pixel-wise as in Liu 2019 (arXiv 1903.04197)."""

from typing import Annotated

from pydantic import Field

from hlfd.distill.distiller import Taps, Term, terms
from hlfd.distill.losses import PixelLoss


def build(
    student: Taps,
    teacher: Taps,
    *,
    classes: int,
    weight: Annotated[float, Field(ge=0)] = 1.0,
    temperature: Annotated[float, Field(gt=0)] = 4.0,
) -> list[Term]:
    """Pixel-wise knowledge distillation: P(s.logits, t.logits).

    Args:
        weight: factor beside the segmentation loss.
        temperature: T of the softmax on both sides.
    """
    return terms([("kd.logits", PixelLoss(temperature), weight, ("logits",), ("logits",))], student, teacher, classes)

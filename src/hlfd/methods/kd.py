"""Hinton 2015 (arXiv 1503.02531), pixel-wise as in Liu 2019 (arXiv 1903.04197)."""

from hlfd.distill.losses import Average, PixelLoss
from hlfd.distill.terms import Taps, Term, terms
from hlfd.methods._options import Temperature, Weight


def build(
    student: Taps,
    teacher: Taps,
    *,
    classes: int,
    weight: Weight = 1.0,
    temperature: Temperature = 4.0,
    average: Average = "pixels",
) -> list[Term]:
    """Pixel-wise knowledge distillation: P(s.logits, t.logits).

    Args:
        weight: factor beside the segmentation loss.
        temperature: T of the softmax on both sides.
        average: ``pixels``, the source's mean over pixels, or ``classes``: every class counts alike, see `PixelLoss`.
    """
    table = [("kd.logits", PixelLoss(temperature, average), weight, ("logits",), ("logits",))]
    return terms(table, student, teacher, classes)

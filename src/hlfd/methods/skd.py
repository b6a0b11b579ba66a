"""Distillation without feedback: the HLFD paper's ablation (arXiv 2311.16700)."""

from hlfd.distill.losses import Average, ImportanceMapLoss, PixelLoss
from hlfd.distill.terms import Taps, Term, terms
from hlfd.methods._options import Power, Temperature, Weight


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
) -> list[Term]:
    """Same layer to same layer, no feedback: alpha P(s.logits, t.logits) + beta I(s.e5, t.e5).

    Args:
        alpha: weight of the pixel term.
        beta: weight of the importance-map term.
        temperature: T of the softmax on both sides.
        power: p of the importance map.
        average: ``pixels``, the paper's mean over pixels, or ``classes``: every class counts alike, see `PixelLoss`.
    """
    table = [
        ("pixel.logits", PixelLoss(temperature, average), alpha, ("logits",), ("logits",)),
        ("map.e5", ImportanceMapLoss(power), beta, ("e5",), ("e5",)),
    ]
    return terms(table, student, teacher, classes)

"""Integrated feedback: the HLFD paper's ablation (arXiv 2311.16700)."""

from hlfd.distill.features import DECODER, ENCODER
from hlfd.distill.losses import Average, ImportanceMapLoss, PixelLoss, Resolution
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
    resolution: Resolution = "full",
) -> list[Term]:
    """Integrated feedback: the teacher's final layer to all layers of the student together.

    alpha [P(s.logits, t.logits) + P(g(cat(s.d5..s.d2)), t.logits)] + beta [I(s.e5, t.e5) + I(cat(s.e1..s.e4), t.e5)]

    Args:
        alpha: weight of each pixel term.
        beta: weight of each importance-map term.
        temperature: T of the softmax on both sides.
        power: p of the importance map.
        average: ``pixels``, the paper's mean over pixels, or ``classes``: every class counts alike, see `PixelLoss`.
        resolution: of the pixel terms, ``full``, the source's, or ``student``, the tap's own; see `PixelLoss`.
    """
    maps, pixels = ImportanceMapLoss(power), PixelLoss(temperature, average, resolution)
    table = [
        ("pixel.logits", pixels, alpha, ("logits",), ("logits",)),
        ("pixel.decoder", pixels, alpha, DECODER, ("logits",)),
        ("map.e5", maps, beta, ("e5",), ("e5",)),
        ("map.encoder", maps, beta, ENCODER[:-1], ("e5",)),
    ]
    return terms(table, student, teacher, classes)

"""Every layer to the same layer: the HLFD paper's ablation (arXiv 2311.16700)."""

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
    """Deep, no feedback: each layer of the teacher teaches the same layer of the student.

    alpha [P(s.logits, t.logits) + sum of P(g(s.x), g(t.x)) for x = d5, d4, d3, d2] + beta sum of I(s.x, t.x), e1..e5.
    The teacher's heads g(t.x) are trained like HLFD's.

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
        *[(f"pixel.{tap}", pixels, alpha, (tap,), (tap,)) for tap in ("logits", *DECODER)],
        *[(f"map.{tap}", maps, beta, (tap,), (tap,)) for tap in ENCODER],
    ]
    return terms(table, student, teacher, classes)

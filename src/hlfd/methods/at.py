"""Attention transfer, Zagoruyko 2017 (arXiv 1612.03928), as the attention baseline of the HLFD paper."""

from typing import Annotated

from pydantic import Field

from hlfd.distill.losses import ImportanceMapLoss
from hlfd.distill.terms import Taps, Term, terms
from hlfd.methods._options import Power, Tap, Weight


def build(
    student: Taps,
    teacher: Taps,
    *,
    classes: int,
    weight: Weight = 1.0,
    power: Power = 4.0,
    taps: Annotated[tuple[Tap, ...], Field(min_length=1)] = ("e5",),
) -> list[Term]:
    """Attention transfer, at the bottleneck by default: I(s.e5, t.e5).

    Args:
        weight: factor of each tap's term beside the segmentation loss.
        power: p of the importance map; the attention-transfer paper uses 2.
        taps: where; each student tap learns from the teacher's of the same role.
    """
    loss = ImportanceMapLoss(power)
    table = [(f"at.{tap}", loss, weight, (tap,), (tap,)) for tap in dict.fromkeys(taps)]
    return terms(table, student, teacher, classes)

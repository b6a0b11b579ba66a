"""Attention transfer, Zagoruyko 2017 (arXiv 1612.03928), as the attention baseline of the HLFD paper."""

from typing import Annotated

from pydantic import Field

from hlfd.distill.distiller import Taps, Term, terms
from hlfd.distill.losses import ImportanceMapLoss


def build(
    student: Taps,
    teacher: Taps,
    *,
    classes: int,
    weight: Annotated[float, Field(ge=0)] = 1.0,
    power: Annotated[float, Field(gt=0)] = 4.0,
) -> list[Term]:
    """Attention transfer at the bottleneck: I(s.e5, t.e5).

    Args:
        weight: factor beside the segmentation loss.
        power: p of the importance map; the attention-transfer paper uses 2.
    """
    return terms([("at.e5", ImportanceMapLoss(power), weight, ("e5",), ("e5",))], student, teacher, classes)

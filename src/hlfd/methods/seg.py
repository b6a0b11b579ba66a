"""The student alone."""

from hlfd.distill.distiller import Taps, Term


def build(student: Taps, teacher: Taps, *, classes: int) -> list[Term]:
    """No distillation: the segmentation loss alone."""
    return []

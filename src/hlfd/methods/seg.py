"""The student alone."""

from hlfd.distill.terms import Taps, Term


def build(student: Taps, teacher: Taps, *, classes: int) -> list[Term]:
    """No distillation: the segmentation loss alone."""
    return []

"""DIST, knowledge distillation from a stronger teacher, Huang 2022 (NeurIPS, arXiv 2205.10536)."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from hlfd.distill.losses import Code, DistillationLoss, Size, resize, unit
from hlfd.distill.terms import Taps, Term, terms
from hlfd.methods._options import Temperature, Weight


def _standardised(probabilities: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Less the mean along the axes, and of length 1 along them; zeros where the standard deviation is below 1e-6."""
    mean = probabilities.mean(axes, keepdim=True)
    entries = probabilities.numel() / mean.numel()
    return unit(probabilities - mean, axes, shortest=1e-6 * entries**0.5)


class CorrelationLoss(DistillationLoss):
    """T^2 * (1 - Pearson correlation of both networks' class probabilities at temperature T), in [0, 2 T^2].

    The student is resized to the teacher. Zero when s = t; independent of N and of the number of pixels. Where one
    network's probabilities don't vary there is no correlation: its place is taken by 1/2, or by 0 if neither's vary.
    Source: Huang 2022 (arXiv 2205.10536) and its code for segmentation, which pools the pixels of the batch.

    Args:
        between: ``classes``, the inter-class relation: at each pixel, across the classes; mean over pixels. With two
            classes that is 1 or -1 and teaches nothing. ``pixels``, the intra-class relation: for each class, across
            all pixels of the batch; mean over classes.
        temperature: T.
    """

    kind = "correlations of class scores"
    head = "classes"

    def __init__(self, between: Literal["classes", "pixels"], temperature: float = 1):
        super().__init__()
        self.between, self.temperature = between, temperature

    def knowledge_key(self, size: Size) -> str:
        """Of both relations the same."""
        return f"log-probabilities T={self.temperature:g}"

    def code(self, knowledge: Tensor, classes: int) -> Code:
        """As probabilities."""
        return "log_probabilities"

    def knowledge(self, teacher: Tensor, size: Size, target: Tensor) -> Tensor:
        """Log-probabilities at temperature T, N x K x spatial."""
        return F.log_softmax(teacher.float() / self.temperature, dim=1)

    def compare(self, student: Tensor, knowledge: Tensor, target: Tensor) -> Tensor:
        """Logits of the student, what `knowledge` gave -> scalar; the target is not used."""
        axes = (1,) if self.between == "classes" else (0, 2)
        student = resize(student.float(), knowledge.shape[2:])
        own = F.softmax(student.flatten(2) / self.temperature, dim=1)
        theirs = knowledge.flatten(2).exp()
        # 1 - r = |a - b|^2 / 2 of standardised a and b: exact where they are nearly equal.
        apart = (_standardised(own, axes) - _standardised(theirs, axes)).square().sum(axes)
        return self.temperature**2 * apart.mean() / 2


def build(
    student: Taps,
    teacher: Taps,
    *,
    classes: int,
    beta: Weight = 1.0,
    gamma: Weight = 1.0,
    temperature: Temperature = 1.0,
) -> list[Term]:
    """Correlations of the class probabilities: beta (1 - r between classes) + gamma (1 - r within classes).

    Args:
        beta: weight of the inter-class relation.
        gamma: weight of the intra-class relation.
        temperature: T of the softmax on both sides.
    """
    inter, intra = CorrelationLoss("classes", temperature), CorrelationLoss("pixels", temperature)
    table = [
        ("dist.inter", inter, beta, ("logits",), ("logits",)),
        ("dist.intra", intra, gamma, ("logits",), ("logits",)),
    ]
    return terms(table, student, teacher, classes)

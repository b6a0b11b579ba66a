"""Channel-wise distillation, Shu 2021 (ICCV, arXiv 2011.13256)."""

from torch import Tensor
from torch.nn import functional as F

from hlfd.distill.losses import DistillationLoss, Size, resize
from hlfd.distill.terms import Taps, Term, terms
from hlfd.methods._options import Temperature, Weight


class ChannelLoss(DistillationLoss):
    """T^2 * mean over samples and channels of KL(softmax over pixels of t / T || the same of s / T), in nats.

    The student is resized to the teacher. Zero when s = t; independent of N, of the number of channels, of the number
    of pixels, and of a constant added to a channel. Source: Shu 2021 (arXiv 2011.13256).

    Args:
        temperature: T.
    """

    kind = "where each class lies"
    head = "classes"

    def __init__(self, temperature: float = 4):
        super().__init__()
        self.temperature = temperature

    def knowledge_key(self, size: Size) -> str:
        """Nothing else decides it."""
        return "whole"

    def knowledge(self, teacher: Tensor, size: Size, target: Tensor) -> Tensor:
        """The logits as they are."""
        return teacher

    def compare(self, student: Tensor, knowledge: Tensor, target: Tensor) -> Tensor:
        """Logits of both, of equally many classes -> scalar >= 0; the target is not used."""
        student = resize(student.float(), knowledge.shape[2:])
        log_s = F.log_softmax(student.flatten(2) / self.temperature, dim=2)
        log_t = F.log_softmax(knowledge.float().flatten(2) / self.temperature, dim=2)
        return self.temperature**2 * (log_t.exp() * (log_t - log_s)).sum(2).mean()


def build(
    student: Taps, teacher: Taps, *, classes: int, weight: Weight = 3.0, temperature: Temperature = 4.0
) -> list[Term]:
    """Channel-wise distillation of the logits: where each class lies, as the teacher sees it.

    Args:
        weight: factor beside the segmentation loss; 3 is the paper's for logits.
        temperature: T of the softmax over pixels on both sides.
    """
    return terms(
        [("cwd.logits", ChannelLoss(temperature), weight, ("logits",), ("logits",))], student, teacher, classes
    )

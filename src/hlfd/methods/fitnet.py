"""FitNets: hints, Romero 2015 (arXiv 1412.6550)."""

from torch import Tensor
from torch.nn import functional as F

from hlfd.distill.losses import DistillationLoss, Size, coarser, resize
from hlfd.distill.terms import Taps, Term, terms
from hlfd.methods._options import Weight


class HintLoss(DistillationLoss):
    """Mean over samples, channels and pixels of (r(s) - t)^2, r a learned 1x1 convolution to the teacher's channels.

    The finer of the two is resized to the other's size. Not bounded: it follows the scale of the teacher's features.
    Source: Romero 2015 (arXiv 1412.6550), eq. 3.
    Departures: the mean of the squares, not half their sum, so that it doesn't depend on the size of the features.
    """

    head = "teacher"
    compact = False

    def knowledge(self, teacher: Tensor, size: Size, target: Tensor) -> Tensor:
        """The features, N x C x spatial, at the coarser of both sizes."""
        return coarser(teacher, size)

    def compare(self, student: Tensor, knowledge: Tensor, target: Tensor) -> Tensor:
        """Projected features of the student, features of the teacher -> scalar >= 0; the target is not used."""
        return F.mse_loss(resize(student.float(), knowledge.shape[2:]), knowledge.float())


def build(student: Taps, teacher: Taps, *, classes: int, weight: Weight = 1.0) -> list[Term]:
    """A hint from the teacher's middle layer: mean of (r(s.e3) - t.e3)^2, r a learned 1x1 convolution.

    Departure: along with the segmentation loss, not in a stage before it; a schedule can stop it.

    Args:
        weight: factor beside the segmentation loss.
    """
    return terms([("fitnet.e3", HintLoss(), weight, ("e3",), ("e3",))], student, teacher, classes)

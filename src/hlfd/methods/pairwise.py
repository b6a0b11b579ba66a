"""Pair-wise distillation, Liu 2019 (CVPR, arXiv 1903.04197)."""

from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from hlfd.distill.losses import DistillationLoss, Size, product, unit
from hlfd.distill.terms import Taps, Term, terms
from hlfd.methods._options import Weight


def _nodes(features: Tensor, grid: Size) -> Tensor:
    """Features (N x C x spatial), averaged on a grid -> N x C x nodes of length 1."""
    pool = F.adaptive_avg_pool2d if features.ndim == 4 else F.adaptive_avg_pool3d
    return unit(pool(features.float(), tuple(grid)).flatten(2), 1)  # pyright: ignore[reportArgumentType]


class PairwiseLoss(DistillationLoss):
    """Mean over samples and pairs of nodes of (a_s - a_t)^2, a = the cosine between two nodes' features, in [0, 4].

    A node is the mean of the features in a cell of a grid; both networks share the grid, so that sizes and channels
    may differ. Every node is connected with every other. Zero when s = t; independent of the features' scale.
    Source: Liu 2019 (arXiv 1903.04197), pair-wise distillation: average pooling, as in the paper. Its code takes the
    maximum over cells of half the image.

    Args:
        nodes: of the grid along each axis; fewer where the features of either network have fewer pixels.
    """

    kind = "similarities of places"

    def __init__(self, nodes: int = 8):
        super().__init__()
        self.nodes = nodes

    def knowledge(self, teacher: Tensor, size: Size, target: Tensor) -> Tensor:
        """Of the two equivalents the smaller: the nodes, N x C x grid, or their similarities, N x grid x grid."""
        grid = [min(self.nodes, *sizes) for sizes in zip(teacher.shape[2:], size, strict=True)]
        nodes = _nodes(teacher, grid)
        if nodes.shape[1] < nodes.shape[2]:
            return nodes.unflatten(2, grid)
        return product(nodes.mT, nodes).unflatten(2, grid).unflatten(1, grid)

    def compare(self, student: Tensor, knowledge: Tensor, target: Tensor) -> Tensor:
        """Features, what `knowledge` gave -> scalar; the target is not used."""
        axes = student.ndim - 2
        own = _nodes(student, knowledge.shape[-axes:])
        theirs = knowledge.float().flatten(-axes)
        theirs = theirs.flatten(1, -2) if knowledge.ndim > student.ndim else product(theirs.mT, theirs)
        return (product(own.mT, own) - theirs).square().mean()


def build(student: Taps, teacher: Taps, *, classes: int, weight: Weight = 0.1, nodes: PositiveInt = 8) -> list[Term]:
    """Pair-wise similarities of places at the bottleneck, e5, as the teacher sees them.

    Args:
        weight: factor beside the segmentation loss.
        nodes: places along each axis; 8 are cells of 2 x 2 pixels at stride 16 of 256 pixels.
    """
    return terms([("pairwise.e5", PairwiseLoss(nodes), weight, ("e5",), ("e5",))], student, teacher, classes)

"""Intra-class feature variation distillation, Wang 2020 (ECCV)."""

from torch import Tensor

from hlfd.distill.losses import (
    DistillationLoss,
    Size,
    class_shares,
    coarser,
    inverse_length,
    product,
    region_means,
    resize,
    unit,
)
from hlfd.distill.terms import Taps, Term, terms
from hlfd.methods._options import Weight


def variation(features: Tensor, shares: Tensor) -> Tensor:
    """How like its class each pixel is.

    Args:
        features: N x C x spatial.
        shares: N x K x spatial, how much of each class lies in each pixel, from `class_shares`.

    Returns:
        N x 1 x spatial, in [-1, 1]: cosine of a pixel's features to its class's mean, averaged over the classes in it;
        0 for a pixel without label.
    """
    centres = unit(region_means(features, shares), 2)
    features = features.float()
    # Lengths divide the one map, not the C channels: no normalised copy of the features is kept.
    cosines = product(centres, features.flatten(2)).unflatten(2, features.shape[2:])
    return (shares * cosines).sum(1, keepdim=True) * inverse_length(features, 1)


class VariationLoss(DistillationLoss):
    """Mean over labelled pixels of (M(s) - M(t))^2, M = cosine of a pixel's features to its class's mean, in [0, 4].

    The finer of the two is resized to the other's size. Zero when s = t; independent of scale, channels and N. Samples
    without labels don't count; a batch without any gives 0.
    Source: Wang, Zhou, Jiang, Bai, Xu 2020 (ECCV) and their code.
    Departures: a feature pixel belongs to each class by its share of the area (the source: to the nearest label's), so
    that a tumour smaller than a feature pixel still has a centre; a class's centre is its mean without smoothing.

    Args:
        classes: K, with background.
    """

    kind = "variation within classes"
    needs_labels = True

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes

    def knowledge(self, teacher: Tensor, size: Size, target: Tensor) -> Tensor:
        """M(t), N x 1 x spatial, at the coarser of both sizes."""
        teacher = coarser(teacher, size)
        return variation(teacher, class_shares(target, self.classes, teacher.shape[2:]))

    def compare(self, student: Tensor, knowledge: Tensor, target: Tensor) -> Tensor:
        """Features, what `knowledge` gave, target -> scalar."""
        shares = class_shares(target, self.classes, knowledge.shape[2:])
        own = variation(resize(student.float(), knowledge.shape[2:]), shares)
        return (own - knowledge).square().sum() / shares.sum().clamp_min(1e-6)


def build(student: Taps, teacher: Taps, *, classes: int, weight: Weight = 10.0) -> list[Term]:
    """Variation of the features within each class, at the bottleneck, e5; classes from the labels.

    Args:
        weight: factor beside the segmentation loss; the authors' script has 200 by default, beside other losses.
    """
    return terms([("ifvd.e5", VariationLoss(classes), weight, ("e5",), ("e5",))], student, teacher, classes)

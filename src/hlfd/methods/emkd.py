"""Efficient medical image segmentation by knowledge distillation, Qin 2021 (TMI, arXiv 2108.09987)."""

import torch
from torch import Tensor

from hlfd.distill.losses import (
    Average,
    DistillationLoss,
    ImportanceMapLoss,
    PixelLoss,
    Size,
    class_shares,
    product,
    region_means,
    unit,
)
from hlfd.distill.terms import Taps, Term, terms
from hlfd.methods._options import Power, Temperature, Weight


class RegionAffinityLoss(DistillationLoss):
    """RAD = mean over samples' pairs of classes of (c_s - c_t)^2, c = cosine between two regions' means, in [0, 4].

    Each network's regions are on its own grid, so that sizes and channels may differ. A pair counts in samples that
    have both classes; without any pair, or without labels, the term is 0. Zero when s = t; independent of scale and N.
    Source: Qin 2021 (arXiv 2108.09987), region affinity distillation, and the code of its authors.
    Departures: all pairs of any number of classes, not organ and tumour alone; a feature pixel belongs to each class
    by its share of the area (the source: to the nearest label's); no smoothing of the second region's mean.

    Args:
        classes: K, with background.
    """

    kind = "similarities of classes"
    needs_labels = True

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes

    def knowledge(self, teacher: Tensor, size: Size, target: Tensor) -> Tensor:
        """Cosines of the regions' means, N x K x K; rows and columns of an absent class are 0."""
        return self._affinity(teacher, class_shares(target, self.classes, teacher.shape[2:]))

    def _affinity(self, features: Tensor, shares: Tensor) -> Tensor:
        means = unit(region_means(features, shares), 2)
        return product(means, means.mT)

    def compare(self, student: Tensor, knowledge: Tensor, target: Tensor) -> Tensor:
        """Features, what `knowledge` gave, target -> scalar."""
        shares = class_shares(target, self.classes, student.shape[2:])
        present = shares.flatten(2).amax(2) > 0
        pairs = (present[:, :, None] & present[:, None]).triu(1)
        apart = self._affinity(student, shares) - knowledge
        return torch.where(pairs, apart, 0).square().sum() / pairs.sum().clamp_min(1)


def build(
    student: Taps,
    teacher: Taps,
    *,
    classes: int,
    alpha: Weight = 0.1,
    beta1: Weight = 0.9,
    beta2: Weight = 0.9,
    temperature: Temperature = 4.0,
    power: Power = 4.0,
    average: Average = "pixels",
) -> list[Term]:
    """EMKD: alpha P(logits) + beta1 [I(e2) + I(e5)] + beta2 [RAD(e2) + RAD(e5)], each with its own layer.

    Args:
        alpha: weight of the pixel term.
        beta1: weight of each importance-map term.
        beta2: weight of each region-affinity term.
        temperature: T of the softmax on both sides.
        power: p of the importance map.
        average: ``pixels``, the source's mean over pixels, or ``classes``: every class counts alike, see `PixelLoss`.
    """
    maps, regions = ImportanceMapLoss(power), RegionAffinityLoss(classes)
    table = [
        ("pixel.logits", PixelLoss(temperature, average), alpha, ("logits",), ("logits",)),
        *[(f"map.{tap}", maps, beta1, (tap,), (tap,)) for tap in ("e2", "e5")],
        *[(f"region.{tap}", regions, beta2, (tap,), (tap,)) for tap in ("e2", "e5")],
    ]
    return terms(table, student, teacher, classes)

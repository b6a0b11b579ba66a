"""Lesion-wise detection: connected components of both masks, matched as the LiTS evaluator does.

1. A reference lesion belongs to the predicted component that overlaps it most; reference lesions of one component are
   taken together (the prediction merged them).
2. A predicted component belongs to the group of reference lesions that it overlaps most; several of one group are
   taken together (the prediction split it).
3. A group's overlap is the intersection over union of its two sides. It is detected if that is above a threshold.

Bilic et al. 2023, Medical Image Analysis 84:102680, section 4.2; the evaluator is
github.com/PatrickChrist/lits-challenge-scoring.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from hlfd.evaluation.results import Lesion, Side
from hlfd.evaluation.surfaces import bounding_box


@dataclass(frozen=True, eq=False)
class Matched:
    """Components of two masks and the groups that they form.

    Attributes:
        prediction, reference: component numbers from 1, 0 outside, within ``box``.
        prediction_group, reference_group: component number -> group from 0, -1 for none; index 0 is unused.
        overlap: group -> intersection over union, in (0, 1].
        box: where in the masks the component arrays lie; None if both masks are empty.
    """

    prediction: np.ndarray
    reference: np.ndarray
    prediction_group: np.ndarray
    reference_group: np.ndarray
    overlap: np.ndarray
    box: tuple[slice, ...] | None


def match(prediction: np.ndarray, reference: np.ndarray, connectivity: int = 3) -> Matched:
    """Match the connected components of two boolean masks of one shape, 3 axes.

    Args:
        connectivity: voxels touch by faces (1), also edges (2), also corners (3).
    """
    box = bounding_box(prediction, reference)
    structure = ndimage.generate_binary_structure(prediction.ndim, connectivity)
    cut = [mask if box is None else mask[box] for mask in (prediction, reference)]
    p, r = (_components(mask, structure) for mask in cut)
    np_, nr = int(p.max(initial=0)), int(r.max(initial=0))
    prediction_group, reference_group = np.full(np_ + 1, -1), np.full(nr + 1, -1)
    shared = (p > 0) & (r > 0)
    pairs, voxels = np.unique(p[shared].astype(np.int64) * (nr + 1) + r[shared], return_counts=True)
    common = {divmod(int(pair), nr + 1): int(n) for pair, n in zip(pairs, voxels, strict=True)}

    owner: dict[int, int] = {}
    for (i, j), voxels in common.items():  # in the order of i, so that the first of equals wins
        if j not in owner or voxels > common[owner[j], j]:
            owner[j] = i
    groups = {i: g for g, i in enumerate(sorted(set(owner.values())))}
    for j, i in owner.items():
        reference_group[j] = groups[i]
    within: dict[int, dict[int, int]] = {}
    for (i, j), voxels in common.items():
        shares, group = within.setdefault(i, {}), int(reference_group[j])
        shares[group] = shares.get(group, 0) + voxels
    both, either = np.zeros(len(groups)), np.zeros(len(groups))
    for i, shares in within.items():
        prediction_group[i] = best = min(shares, key=lambda g, s=shares: (-s[g], g))
        both[best] += shares[best]
    for components, group in ((p, prediction_group), (r, reference_group)):
        sizes = np.bincount(components.ravel(), minlength=len(group))
        np.add.at(either, group[group >= 0], sizes[group >= 0])
    overlaps = both / (either - both)
    return Matched(p, r, prediction_group, reference_group, overlaps, box)


def _components(mask: np.ndarray, structure: np.ndarray) -> np.ndarray:
    labelled: Any = ndimage.label(mask, structure)
    return labelled[0]


def lesions_of(matched: Matched, voxel_ml: float) -> tuple[Lesion, ...]:
    """The lesions of both sides with their sizes, the reference's first."""
    found: list[Lesion] = []
    sides: tuple[tuple[Side, np.ndarray, np.ndarray], ...] = (
        ("reference", matched.reference, matched.reference_group),
        ("prediction", matched.prediction, matched.prediction_group),
    )
    for side, components, group in sides:
        sizes = np.bincount(components.ravel(), minlength=len(group))
        for number in range(1, len(group)):
            g = int(group[number])
            overlap = float(matched.overlap[g]) if g >= 0 else 0.0
            found.append(Lesion(side, float(sizes[number]) * voxel_ml, overlap, g if overlap else None))
    return tuple(found)


def detection(lesions: Sequence[Lesion], above: float = 0.0) -> dict[str, float]:
    """Lesion-wise precision, recall and F1.

    Recall is the share of reference lesions in a group with an overlap above ``above``, precision that of predicted
    ones. With lesions on one side only all three are 0, but recall is undefined (NaN) without reference lesions, and
    all are undefined without any lesion.
    """
    flags = {side: [x.overlap > above for x in lesions if x.side == side] for side in ("reference", "prediction")}
    real, predicted = flags["reference"], flags["prediction"]
    nan = float("nan")
    recall = sum(real) / len(real) if real else nan
    precision = sum(predicted) / len(predicted) if predicted else (0.0 if real else nan)
    if not real and not predicted:
        f1 = nan
    else:
        f1 = 2 * precision * recall / (precision + recall) if real and precision + recall > 0 else 0.0
    return {"lesion_precision": precision, "lesion_recall": recall, "lesion_f1": f1}

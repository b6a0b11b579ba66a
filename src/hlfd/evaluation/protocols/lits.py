"""LiTS 2017: liver and tumour, per case and over all cases; detected tumours; tumour burden.

As the CodaLab evaluator (github.com/PatrickChrist/lits-challenge-scoring; Bilic et al. 2023, Medical Image Analysis
84:102680). Its choices, and where copies of it differ: docs/evaluation.md. Two slips of it are not repeated: a merged
group's union is taken with its own label, and a group that is not detected counts once.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from statistics import fmean

import numpy as np

from hlfd.evaluation.distances import surface_distances
from hlfd.evaluation.lesions import Matched, lesions_of, match
from hlfd.evaluation.overlap import Counts, count, overlap_of
from hlfd.evaluation.pairs import Pair, Regions
from hlfd.evaluation.protocol import Measured, Protocol, Totals
from hlfd.evaluation.protocols import _shared
from hlfd.evaluation.results import CaseResult, Lesion, Scores
from hlfd.evaluation.surfaces import Spacing, voxel_surface
from hlfd.labels import Labels, organ_and_tumor

PENALTY = 9001.0
"""What the evaluator gives for a distance or a ratio that does not exist."""

METRICS = ("dice", "voe", "rvd", "assd_mm", "mssd_mm", "rmsd_mm")
EMPTY_POLICY = (
    "one empty: dice, jaccard 0, voe 1, rvd and distances 9001; both empty: dice, jaccard 1, the rest 0; a prediction "
    "without a voxel of class liver is an empty liver; no lesion detected: the same over lesions; tumour burden of a "
    "prediction without liver: 9001"
)

_surface = partial(voxel_surface, connectivity=2)


def build() -> Protocol:
    """LiTS 2017: Dice per case and global, VOE, RVD, ASSD, MSSD, RMSD, lesions detected, tumour burden."""
    return Protocol("lits", METRICS, EMPTY_POLICY, regions, measure, totals, organ_and_tumor("both", "liver"))


def regions(labels: Labels) -> Regions:
    """Liver with tumour; tumour."""
    _shared.require_classes("lits", labels, "liver", "tumor")
    return {"liver": (1, 2), "tumor": (2,)}


def measure(pair: Pair) -> Measured:
    """Liver and tumour as wholes, the tumours one by one, and the error of the tumour burden."""
    liver, tumor = pair.masks("liver"), pair.masks("tumor")
    if not (pair.prediction == 1).any():
        liver = (np.zeros_like(liver[0]), liver[1])
    masks = {"liver": liver, "tumor": tumor}
    voxels = {region: count(*both) for region, both in masks.items()}
    scores = {region: Scores(_scores(*both, pair.spacing_mm)) for region, both in masks.items()}
    reference, prediction = (
        voxels["tumor"].reference / voxels["liver"].reference if voxels["liver"].reference else math.nan,
        voxels["tumor"].prediction / voxels["liver"].prediction if voxels["liver"].prediction else PENALTY,
    )
    scores["tumor"]["tumor_burden_error"] = reference - prediction
    matched = match(*tumor, connectivity=1)
    return Measured(scores, voxels, {"tumor": _with_scores(matched, lesions_of(matched, pair.voxel_ml), pair)})


def totals(cases: Sequence[CaseResult]) -> Totals:
    """Global Dice; lesions found at any overlap and above one half; detected ones segmented how well; tumour burden."""
    found = _shared.global_dice(cases)
    tumor = found["tumor"]
    for above, suffix in ((0.0, ""), (0.5, "_50")):
        counts = np.sum([_detected(case.lesions["tumor"], above) for case in cases], axis=0)
        hits, predicted, real = (int(n) for n in counts)
        precision, recall = (hits / n if n else 0.0 for n in (predicted, real))
        tumor |= {
            f"lesion_precision{suffix}": precision,
            f"lesion_recall{suffix}": recall,
            f"lesion_f1{suffix}": 2 * precision * recall / (precision + recall) if hits else 0.0,
        }
    detected = [x.scores for case in cases for x in case.lesions["tumor"] if x.scores]
    for metric in _empty(Counts(0, 1, 0)):
        values = [scores[metric] for scores in detected] or [_empty(Counts(0, 1, 0))[metric]]
        tumor[f"detected_lesion_{metric}"] = fmean(values)
    errors = [e for case in cases if not math.isnan(e := case.regions["tumor"]["tumor_burden_error"])]
    if errors:
        tumor |= {
            "tumor_burden_rmse": math.sqrt(fmean(e**2 for e in errors)),
            "tumor_burden_max_error": max(map(abs, errors)),
            "tumor_burden_max_evaluator": max(errors),
        }
    return found


def _detected(lesions: Sequence[Lesion], above: float) -> tuple[int, int, int]:
    """Groups detected, lesions predicted, lesions in the reference."""
    groups = {x.group for x in lesions if x.overlap > above}
    predicted = sum(x.side == "prediction" for x in lesions)
    return len(groups), predicted, len(lesions) - predicted


def _with_scores(matched: Matched, lesions: Sequence[Lesion], pair: Pair) -> tuple[Lesion, ...]:
    """The lesions, the first of each group detected above one half with the group's scores."""
    done: set[int] = set()
    found: list[Lesion] = []
    for lesion in lesions:
        group = lesion.group
        if group is None or not lesion.detected_50 or group in done or lesion.side != "reference":
            found.append(lesion)
            continue
        done.add(group)
        prediction = (matched.prediction_group == group)[matched.prediction]
        reference = (matched.reference_group == group)[matched.reference]
        found.append(replace(lesion, scores=_scores(prediction, reference, pair.spacing_mm)))
    return tuple(found)


def _scores(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing) -> dict[str, float]:
    counts = count(prediction, reference)
    distances = surface_distances(prediction, reference, spacing_mm, _surface)
    if distances is None:
        return _empty(counts)
    overlap = asdict(overlap_of(counts))
    return {
        **{metric: overlap[metric] for metric in ("dice", "jaccard", "voe", "rvd")},
        "rvd_evaluator": (counts.reference - counts.prediction) / counts.prediction,
        "assd_mm": distances.assd_mm,
        "rmsd_mm": distances.rmsd_mm,
        "mssd_mm": distances.hd_mm,
    }


def _empty(counts: Counts) -> dict[str, float]:
    same = counts.empty == "both"
    worst = dict.fromkeys(("rvd", "rvd_evaluator", "assd_mm", "rmsd_mm", "mssd_mm"), 0.0 if same else PENALTY)
    return {"dice": float(same), "jaccard": float(same), "voe": float(not same), **worst}

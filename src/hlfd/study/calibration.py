"""How far a model's probabilities can be believed, over prepared test slices."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlfd.data.store import Store
from hlfd.data.views import OVERLAP
from hlfd.evaluation.calibration import BINS, calibrate
from hlfd.evaluation.results import Calibration
from hlfd.inference.predictor import Predictor
from hlfd.inference.windows import answers
from hlfd.progress import console
from hlfd.segmenter import Segmenter


@torch.inference_mode()
def calibration_of(found: Iterable[tuple[Segmenter, Store, Iterable[str]]], batch: int = 8) -> Calibration:
    """Calibration of the most probable class over voxels that are foreground in reference or prediction.

    The background, nearly all of a slice and nearly always right, would hide the rest.

    Args:
        found: models, each with the cases of the store that it is judged on (one a fold).

    Returns:
        empty bins, and says so, where a model gives NaN: a training that diverged is no reason to lose the others'.
    """
    sums = np.zeros((3, BINS))
    for model, store, cases in found:
        predictor = Predictor(model, strict=False)
        for case in cases:
            images, targets = store.slices(case)
            geometry, first = store.cases[case].geometry, 0

            def prepare(slices: slice, images: Any = images) -> Tensor:
                return torch.from_numpy(images[slices])

            for scores in answers(
                predictor.probabilities, prepare, store.preprocess, geometry, batch_size=batch, overlap=OVERLAP
            ):
                reference = np.moveaxis(np.asarray(targets[first : first + len(scores)]), 0, -1)
                if predictor.gave_nan:
                    method = (model.facts.get("method") or {"name": "no method"})["name"]
                    of = f"{model.network_name} ({method})"
                    console.print(
                        f"calibration: {of} is left out, its probabilities of {case} hold NaN", highlight=False
                    )
                    return Calibration([0] * BINS, [0.0] * BINS, [0] * BINS)
                bins = calibrate(scores.permute(1, 2, 3, 0).cpu().numpy(), reference, case)["foreground"]
                sums += [bins.voxels, bins.confidence, bins.correct]
                first += len(scores)
    return Calibration([int(n) for n in sums[0]], [float(c) for c in sums[1]], [int(n) for n in sums[2]])

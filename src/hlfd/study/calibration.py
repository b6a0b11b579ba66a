"""How far a model's probabilities can be believed, over prepared test slices."""

from collections.abc import Iterable

import numpy as np
import torch

from hlfd.data.store import Store
from hlfd.evaluation.calibration import BINS, calibrate
from hlfd.evaluation.results import Calibration
from hlfd.segmenter import Segmenter


@torch.inference_mode()
def calibration_of(found: Iterable[tuple[Segmenter, Store, Iterable[str]]], batch: int = 8) -> Calibration:
    """Calibration of the most probable class over pixels that are foreground in reference or prediction.

    The background, nearly all of a slice and nearly always right, would hide the rest.

    Args:
        found: models, each with the cases of the store that it is judged on (one a fold).
    """
    sums = np.zeros((3, BINS))
    for model, store, cases in found:
        network = model.network.network.eval()
        for case in cases:
            images, targets = store.slices(case)
            for start in range(0, len(images), batch):
                pixels = torch.from_numpy(np.asarray(images[start : start + batch])).float()[:, None]
                scores = network(pixels.contiguous(memory_format=torch.channels_last)).float().softmax(1)
                reference = np.moveaxis(np.asarray(targets[start : start + batch]), 0, -1)
                bins = calibrate(scores.permute(1, 2, 3, 0).numpy(), reference, case)["foreground"]
                sums += [bins.voxels, bins.confidence, bins.correct]
    return Calibration([int(n) for n in sums[0]], [float(c) for c in sums[1]], [int(n) for n in sums[2]])

"""How far a model's probabilities can be believed, over prepared test slices."""

from collections.abc import Iterable

import numpy as np
import torch

from hlfd.data.store import Store
from hlfd.evaluation.results import Calibration
from hlfd.segmenter import Segmenter

BINS = 10


@torch.inference_mode()
def calibrate(found: Iterable[tuple[Segmenter, Store, Iterable[str]]], batch: int = 8) -> Calibration:
    """Calibration of the most probable class over pixels that are foreground in reference or prediction.

    The background, nearly all of a slice and nearly always right, would hide the rest.

    Args:
        found: models, each with the cases of the store that it is judged on (one a fold).
    """
    voxels, confidence, correct = np.zeros(BINS), np.zeros(BINS), np.zeros(BINS)
    for model, store, cases in found:
        network = model.network.network.eval()
        for case in cases:
            images, targets = store.slices(case)
            for start in range(0, len(images), batch):
                target = torch.from_numpy(np.asarray(targets[start : start + batch])).long()
                pixels = torch.from_numpy(np.asarray(images[start : start + batch])).float()[:, None]
                top, chosen = network(pixels.contiguous(memory_format=torch.channels_last)).float().softmax(1).max(1)
                counted = (target > 0) | (chosen > 0)
                values, right = top[counted].double().numpy(), (chosen == target)[counted].numpy()
                place = np.minimum((values * BINS).astype(np.int64), BINS - 1)
                voxels += np.bincount(place, minlength=BINS)
                confidence += np.bincount(place, values, minlength=BINS)
                correct += np.bincount(place, right, minlength=BINS)
    whole = [[int(n) for n in counts] for counts in (voxels, correct)]
    return Calibration(whole[0], [float(c) for c in confidence], whole[1])

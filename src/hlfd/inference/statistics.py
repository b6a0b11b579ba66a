"""Figures of a segmented volume: volumes, mean HU, lesions."""

import math
from typing import Any

import numpy as np

from hlfd.data.postprocess import components, lesion_regions, mask_of
from hlfd.labels import Labels
from hlfd.volume import Volume


def statistics(image: Volume, classes: Volume, labels: Labels) -> dict[str, Any]:
    """Figures of every region, as JSON.

    Args:
        image: HU.
        classes: class indices (uint8) on the same grid.
        labels: what they mean.

    Returns:
        ``spacing_mm``, ``shape``, and ``regions``: name -> ``volume_ml``, ``mean_hu`` (None for an empty region) and,
        for a lesion, ``lesion_count`` and ``lesions``: ``volume_ml`` and ``diameter_mm`` (of a sphere of this volume)
        of each connected component (by faces, edges or corners), the largest first.
    """
    voxel_ml = image.voxel_mm3 / 1000
    lesions = lesion_regions(labels)
    regions: dict[str, Any] = {}
    for name, ids in labels.regions.items():
        mask = mask_of(classes.voxels, ids)
        voxels = np.count_nonzero(mask)
        found: dict[str, Any] = {"volume_ml": voxels * voxel_ml, "mean_hu": None}
        if voxels:
            found["mean_hu"] = float(image.voxels[mask].mean(dtype=np.float64))
        if name in lesions:
            sizes = sorted((float(size) * voxel_ml for size in components(mask)[2]), reverse=True)
            found["lesion_count"] = len(sizes)
            found["lesions"] = [
                {"volume_ml": ml, "diameter_mm": 2 * (ml * 1000 * 3 / (4 * math.pi)) ** (1 / 3)} for ml in sizes
            ]
        regions[name] = found
    return {"spacing_mm": image.spacing_mm, "shape": image.shape, "regions": regions}

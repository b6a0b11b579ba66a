"""Figures of a segmented volume against components that are known."""

import math

import numpy as np
import pytest

from hlfd.inference.statistics import statistics
from hlfd.labels import Labels
from hlfd.volume import Volume

LABELS = Labels({}, {"liver": (1, 2), "tumor": (2,)}, ("liver", "tumor"))
AFFINE = np.diag([0.5, -0.8, 5.0, 1.0])
VOXEL_MM3 = 0.5 * 0.8 * 5.0


def figures(classes: np.ndarray, hu: np.ndarray) -> dict:
    return statistics(Volume(hu, AFFINE), Volume(classes, AFFINE), LABELS)["regions"]


def test_lesions_by_number_and_size_as_the_voxels_spacing_says():
    classes, hu = np.zeros((12, 14, 9), np.uint8), np.full((12, 14, 9), -1000.0)
    classes[1:11, 1:13, 1:8], hu[1:11, 1:13, 1:8] = 1, 60
    lesions = {(2, 2, 2): 1, (9, 6, 6): 6}
    for (i, j, k), length in lesions.items():
        classes[i, j : j + length, k], hu[i, j : j + length, k] = 2, 30
    classes[5:7, 5, 3] = classes[7, 6, 4] = 2  # touch by a corner: one of three voxels
    found = figures(classes, hu)
    assert found["liver"]["volume_ml"] == pytest.approx(10 * 12 * 7 * VOXEL_MM3 / 1000)
    assert found["liver"]["mean_hu"] == pytest.approx((833 * 60 + 7 * 30) / 840)
    assert "lesions" not in found["liver"]
    assert found["tumor"]["lesion_count"] == 3
    for lesion, voxels in zip(found["tumor"]["lesions"], (6, 3, 1), strict=True):
        assert lesion["volume_ml"] == pytest.approx(voxels * VOXEL_MM3 / 1000)
        assert math.pi / 6 * lesion["diameter_mm"] ** 3 == pytest.approx(voxels * VOXEL_MM3)
    assert found["tumor"]["mean_hu"] == pytest.approx((3 * 60 + 7 * 30) / 10)


def test_without_a_lesion_there_are_none_and_no_mean():
    found = figures(np.zeros((3, 4, 5), np.uint8), np.zeros((3, 4, 5)))
    assert found == {
        "liver": {"volume_ml": 0, "mean_hu": None},
        "tumor": {"volume_ml": 0, "mean_hu": None, "lesion_count": 0, "lesions": []},
    }

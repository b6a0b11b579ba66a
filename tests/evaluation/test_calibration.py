"""Expected calibration error against pencil and paper and against a loop over voxels."""

import numpy as np
import pytest

from hlfd.errors import InputError
from hlfd.evaluation.calibration import BINS, calibrate, calibration_totals
from hlfd.evaluation.results import CaseResult


def binary(foreground: np.ndarray) -> np.ndarray:
    return np.stack([1 - foreground, foreground])


def test_by_hand():
    foreground = np.array([0.9, 0.9, 0.9, 0.2]).reshape(4, 1, 1)
    reference = np.array([1, 1, 0, 0]).reshape(4, 1, 1)
    got = calibrate(binary(foreground), reference, "x")
    # Three voxels at 0.9, two of them right; one at 0.8, right.
    assert got["all"].ece == pytest.approx((3 * abs(2 / 3 - 0.9) + 1 * abs(1 - 0.8)) / 4, abs=1e-6)
    assert got["foreground"].ece == pytest.approx(abs(2 / 3 - 0.9), abs=1e-6)
    assert sum(got["all"].voxels) == 4


def test_against_a_loop():
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([0.3, 0.2, 0.2], (4, 5, 3)).transpose(3, 0, 1, 2).astype(np.float32)
    reference = random.integers(0, 3, (4, 5, 3))
    bins = [[0, 0.0, 0] for _ in range(BINS)]
    for index in np.ndindex(reference.shape):
        values = [float(p[index]) for p in probabilities]
        best = values.index(max(values))
        place = min(int(np.float32(max(values)) * BINS), BINS - 1)
        bins[place][0] += 1
        bins[place][1] += max(values)
        bins[place][2] += best == reference[index]
    got = calibrate(probabilities, reference, "x")["all"]
    assert list(got.voxels) == [b[0] for b in bins]
    assert list(got.correct) == [b[2] for b in bins]
    assert got.ece == pytest.approx(sum(n / 60 * abs(right / n - sure / n) for n, sure, right in bins if n), abs=1e-6)


def test_perfect_probabilities_are_calibrated():
    random = np.random.default_rng(1)
    sure = random.uniform(size=(60, 60, 60))
    reference = (random.uniform(size=sure.shape) < sure).astype(int)
    assert calibrate(binary(sure), reference, "x")["all"].ece < 0.01
    assert calibrate(binary(sure**3 / (sure**3 + (1 - sure) ** 3)), reference, "x")["all"].ece > 0.1


def test_cases_are_pooled_not_averaged():
    one = calibrate(binary(np.full((1, 1, 1), 0.9)), np.ones((1, 1, 1), int), "a")
    nine = calibrate(binary(np.full((9, 1, 1), 0.9)), np.zeros((9, 1, 1), int), "b")
    cases = [CaseResult(name, name, {}, calibration=c) for name, c in (("a", one), ("b", nine))]
    assert calibration_totals(cases)["calibration"]["ece_all"] == pytest.approx(abs(0.1 - 0.9), abs=1e-6)
    assert calibration_totals([CaseResult("c", "c", {})]) == {}


@pytest.mark.parametrize(
    ("probabilities", "reference", "words"),
    [
        (
            np.full((2, 2, 2, 2), np.nan),
            np.zeros((2, 2, 2), int),
            "case_3: expected probabilities, got 8 NaN in slice 0",
        ),
        (
            np.full((2, 2, 2, 2), 0.9),
            np.zeros((2, 2, 2), int),
            "case_3: expected the probabilities of a voxel to add up",
        ),
        (
            np.stack([np.full((2, 2, 2), 2.0), np.full((2, 2, 2), -1.0)]),
            np.zeros((2, 2, 2), int),
            "in \\[0, 1\\], got -1",
        ),
        (np.full((2, 2, 2, 3), 0.5), np.zeros((2, 2, 2), int), "expected probabilities of shape"),
        (np.full((2, 2, 2, 2), 0.5), np.full((2, 2, 2), 2), "expected the probabilities of 3 classes or more, got 2"),
    ],
)
def test_refuses(probabilities, reference, words):
    with pytest.raises(InputError, match=words):
        calibrate(probabilities, reference, "case_3")

"""The bootstrap interval against closed forms, and what it says of few patients and undefined values."""

import itertools

import numpy as np
import pytest
from scipy import stats

from hlfd.errors import InputError
from hlfd.evaluation.statistics import Summary, mean_interval


def test_two_patients_have_the_exact_interval():
    # Means of two draws: a, (a + b) / 2, b with probability 1/4, 1/2, 1/4; both tails of 2.5 % are at the ends.
    assert mean_interval([0.9, 0.4]) == Summary(mean=0.65, median=0.65, low=0.4, high=0.9, patients=2, undefined=0)


def test_few_patients_match_full_enumeration():
    values = np.array([0.10, 0.55, 0.62, 0.80, 0.93])
    means = [np.mean(draw) for draw in itertools.product(values, repeat=len(values))]
    # Hesterberg 2015, table 4: for n = 5, percentiles of 0.1 % rather than 2.5 %. Five patients give few different
    # means, so sampling moves the ends from one to the next: bounds, not a tolerance.
    lows, highs = np.quantile(means, [0.0004, 0.0016]), np.quantile(means, [0.9984, 0.9996])
    got = mean_interval(values, resamples=50_000)
    assert got.low is not None
    assert lows[0] - 1e-12 <= got.low <= lows[1] + 1e-12
    assert got.high is not None
    assert highs[0] - 1e-12 <= got.high <= highs[1] + 1e-12


def test_many_patients_match_the_normal_interval():
    values = np.random.default_rng(3).normal(0.7, 0.1, size=400)
    half = stats.norm.ppf(0.975) * values.std() / np.sqrt(values.size)
    got = mean_interval(values)
    assert got.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert got.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    quartile = stats.norm.ppf(0.75) * values.std() / np.sqrt(values.size)
    assert mean_interval(values, level=0.5).low == pytest.approx(values.mean() - quartile, abs=0.1 * half)


@pytest.mark.parametrize("patients", [8, 40])
def test_covers_the_true_mean_about_as_often_as_it_says(patients: int):
    draw = np.random.default_rng(0)
    hits = plain = 0
    for _ in range(600):
        values = draw.uniform(size=patients)
        got = mean_interval(values, resamples=400)
        assert got.low is not None
        assert got.high is not None
        hits += got.low <= 0.5 <= got.high
        means = draw.choice(values, (400, patients)).mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        plain += low <= 0.5 <= high
    assert 0.93 <= hits / 600 <= 0.985  # 0.95, and what 600 trials and 400 resamples leave open
    assert hits >= plain
    if patients < 10:
        assert plain / 600 < 0.93  # the plain percentile interval is too narrow for few patients


def test_seed_and_order():
    values = np.random.default_rng(1).uniform(size=12)
    assert mean_interval(values) == mean_interval(values[::-1])
    assert mean_interval(values, seed=1).low != mean_interval(values, seed=2).low


def test_undefined_values_are_counted_and_left_out():
    got = mean_interval([0.5, float("nan"), 0.7, float("nan")])
    assert got == Summary(mean=0.6, median=0.6, low=0.5, high=0.7, patients=2, undefined=2)
    assert mean_interval([float("nan")] * 3) == Summary(None, None, None, None, patients=0, undefined=3)
    assert mean_interval([]) == Summary(None, None, None, None, patients=0, undefined=0)


def test_one_patient_has_no_interval():
    assert mean_interval([0.25]) == Summary(mean=0.25, median=0.25, low=None, high=None, patients=1, undefined=0)


def test_equal_patients_have_an_interval_of_no_width():
    got = mean_interval([0.5] * 7)
    assert (got.low, got.high) == (0.5, 0.5)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_refuses_a_level_that_is_no_probability(level: float):
    with pytest.raises(InputError, match="level"):
        mean_interval([0.1, 0.2], level=level)


def test_refuses_a_table():
    with pytest.raises(InputError, match="shape"):
        mean_interval(np.zeros((2, 2)))

"""Ranks and variance components, on cases where the answer is known."""

import numpy as np
import pytest

from hlfd.errors import InputError
from hlfd.evaluation.stability import rank_stability, variances


def test_a_clear_order_is_stable():
    base = np.random.default_rng(0).uniform(0.5, 0.8, (20, 3))
    got = rank_stability({"c": base, "a": base + 0.2, "b": base + 0.1})
    assert {m: (r.rank, r.low, r.high, r.by_seed) for m, r in got.items()} == {
        "c": (3, 3, 3, (3, 3, 3)),
        "a": (1, 1, 1, (1, 1, 1)),
        "b": (2, 2, 2, (2, 2, 2)),
    }
    assert [got[m].first for m in "abc"] == [1, 0, 0]
    assert rank_stability({"a": base + 2, "b": base + 1}, "hd95_mm")["b"].rank == 1
    assert rank_stability({"a": base - 2, "b": base}, "rvd")["b"].rank == 1


def test_a_tie_in_two_is_decided_by_chance():
    random = np.random.default_rng(1)
    got = rank_stability({"a": random.normal(size=(40, 1)), "b": random.normal(size=(40, 1))}, resamples=4000)
    assert got["a"].first + got["b"].first == pytest.approx(1)
    assert got["a"].low == 1
    assert got["a"].high == 2
    equal = np.ones((5, 2))
    assert rank_stability({"a": equal, "b": equal})["a"].rank == 1.5


def test_the_share_of_firsts_by_enumeration():
    # Two patients: a is better on one by 3, b on the other by 1; of the 4 equally likely draws b wins one.
    got = rank_stability({"a": np.array([[3.0], [0.0]]), "b": np.array([[0.0], [1.0]])}, resamples=20_000)
    assert got["a"].first == pytest.approx(3 / 4, abs=0.02)


def test_undefined_patients_are_left_out_of_all():
    a, b = np.array([[1.0], [0.0], [0.0]]), np.array([[np.nan], [1.0], [1.0]])
    assert rank_stability({"a": a, "b": b})["b"].first == 1
    with pytest.raises(InputError, match="no patient has a value from every model"):
        rank_stability({"a": a[:1], "b": b[:1]})
    with pytest.raises(InputError, match="one shape"):
        rank_stability({"a": a, "b": b[:2]})


def test_variance_components_are_found_again():
    random = np.random.default_rng(2)
    patients, seeds = 400, 60
    values = (
        random.normal(0, 3, (patients, 1)) + random.normal(0, 2, (1, seeds)) + random.normal(0, 1, (patients, seeds))
    )
    got = variances(values)
    assert got.patient == pytest.approx(9, rel=0.2)
    assert got.seed == pytest.approx(4, rel=0.5)
    assert got.rest == pytest.approx(1, rel=0.05)


def test_variance_components_by_hand():
    # Rows 0 and 2, columns +-1, no rest: mean squares 2 * 2 = 4 for patients and for seeds.
    got = variances(np.array([[-1.0, 1.0], [1.0, 3.0]]))
    assert (got.patient, got.seed, got.rest) == (2.0, 2.0, 0.0)
    assert variances(np.array([[0.0, 1.0], [1.0, 0.0], [np.nan, 5.0]])).patient == 0.0
    with pytest.raises(InputError, match="got 3 and 1"):
        variances(np.zeros((3, 1)))

"""Overlap against pencil and paper, against sets of voxels, and its laws on random masks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hlfd.errors import InputError
from hlfd.evaluation.metrics import Overlap, overlap


def mask(shape: tuple[int, ...], *boxes: tuple[slice, ...]) -> np.ndarray:
    out = np.zeros(shape, dtype=bool)
    for box in boxes:
        out[box] = True
    return out


def slow_overlap(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """The definitions in words, over sets of voxel positions."""
    p = {i for i in np.ndindex(prediction.shape) if prediction[i]}
    g = {i for i in np.ndindex(reference.shape) if reference[i]}
    if not p and not g:
        return {"dice": 1, "voe": 0, "rvd": 0, "abs_rvd": 0}
    rvd = len(p) / len(g) - 1 if g else math.nan
    return {
        "dice": len(p & g) / ((len(p) + len(g)) / 2),
        "voe": len(p ^ g) / len(p | g),
        "rvd": rvd,
        "abs_rvd": abs(rvd),
    }


# Two cubes of 4 x 4 x 4 that share 2 x 4 x 4; a box inside another; apart; equal.
CUBE = mask((10, 6, 6), (slice(0, 4), slice(0, 4), slice(0, 4)))
ANALYTIC = {
    "shifted": (mask((10, 6, 6), (slice(2, 6), slice(0, 4), slice(0, 4))), CUBE, Overlap(0.5, 2 / 3, 0.0, 0.0)),
    "half": (mask((10, 6, 6), (slice(0, 2), slice(0, 4), slice(0, 4))), CUBE, Overlap(2 / 3, 0.5, -0.5, 0.5)),
    "twice": (mask((10, 6, 6), (slice(0, 8), slice(0, 4), slice(0, 4))), CUBE, Overlap(2 / 3, 0.5, 1.0, 1.0)),
    "apart": (mask((10, 6, 6), (slice(6, 8), slice(0, 4), slice(0, 4))), CUBE, Overlap(0.0, 1.0, -0.5, 0.5)),
    "equal": (CUBE, CUBE, Overlap(1.0, 0.0, 0.0, 0.0)),
}


@pytest.mark.parametrize("name", ANALYTIC)
def test_boxes(name: str):
    prediction, reference, expected = ANALYTIC[name]
    got = overlap(prediction, reference)
    assert [got.dice, got.voe, got.rvd, got.abs_rvd] == pytest.approx(
        [expected.dice, expected.voe, expected.rvd, expected.abs_rvd], abs=1e-12
    )


def test_empty_policy():
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    assert overlap(empty, empty) == Overlap(dice=1.0, voe=0.0, rvd=0.0, abs_rvd=0.0)
    assert overlap(empty, full) == Overlap(dice=0.0, voe=1.0, rvd=-1.0, abs_rvd=1.0)
    invented = overlap(full, empty)
    assert (invented.dice, invented.voe) == (0.0, 1.0)
    assert math.isnan(invented.rvd)
    assert math.isnan(invented.abs_rvd)


@pytest.mark.parametrize(
    ("prediction", "reference", "words"),
    [
        (np.zeros((2, 2), bool), np.zeros((2, 3), bool), "shape"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), bool), "boolean"),
        (np.zeros((2, 2), bool), np.zeros((2, 2)), "boolean"),
    ],
)
def test_refuses(prediction: np.ndarray, reference: np.ndarray, words: str):
    with pytest.raises(InputError, match=words):
        overlap(prediction, reference)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=5))
    # A sparse one, a dense one and an empty one are all likely.
    one = hnp.arrays(bool, shape, elements=st.booleans(), fill=st.sampled_from([False, True]))
    return draw(one), draw(one)


@given(pairs())
def test_equals_the_slow_reference(pair: tuple[np.ndarray, np.ndarray]):
    got, expected = overlap(*pair), slow_overlap(*pair)
    for name, value in expected.items():
        assert getattr(got, name) == pytest.approx(value, abs=1e-12, nan_ok=True), name


@given(pairs())
def test_laws(pair: tuple[np.ndarray, np.ndarray]):
    got, swapped = overlap(*pair), overlap(*pair[::-1])
    assert 0 <= got.dice <= 1
    assert 0 <= got.voe <= 1
    assert got.dice == swapped.dice
    assert got.voe == swapped.voe
    # Jaccard J = D / (2 - D), and voe = 1 - J.
    assert got.voe == pytest.approx(1 - got.dice / (2 - got.dice), abs=1e-12)
    if not math.isnan(got.rvd):
        assert got.rvd >= -1
        assert got.abs_rvd == abs(got.rvd)
        assert got.dice <= 2 * min(1, 1 + got.rvd) / (2 + got.rvd) + 1e-12  # the best any overlap of these sizes has
    assert math.isnan(got.rvd) == (not pair[1].any() and bool(pair[0].any()))


@given(pairs(), st.integers(0, 2**32 - 1))
def test_order_of_voxels_and_background_do_not_matter(pair: tuple[np.ndarray, np.ndarray], seed: int):
    order = np.random.default_rng(seed).permutation(pair[0].size)
    moved = [np.pad(m.ravel()[order], 7) for m in pair]
    assert repr(overlap(*pair)) == repr(overlap(*moved))

"""Overlap against pencil and paper, against sets of voxels, and its laws on random masks."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hlfd.errors import InputError
from hlfd.evaluation.overlap import Overlap, count, overlap, overlap_of


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
        return {"dice": 1, "jaccard": 1, "voe": 0, "rvd": 0, "abs_rvd": 0, "precision": 1, "recall": 1}
    rvd = len(p) / len(g) - 1 if g else math.nan
    return {
        "dice": len(p & g) / ((len(p) + len(g)) / 2),
        "jaccard": len(p & g) / len(p | g),
        "voe": len(p ^ g) / len(p | g),
        "rvd": rvd,
        "abs_rvd": abs(rvd),
        "precision": len(p & g) / len(p) if p else 0,
        "recall": len(p & g) / len(g) if g else math.nan,
    }


# Two cubes of 4 x 4 x 4 that share 2 x 4 x 4; a box inside another; apart; equal.
def box(start: int, stop: int) -> np.ndarray:
    return mask((10, 6, 6), (slice(start, stop), slice(0, 4), slice(0, 4)))


CUBE = box(0, 4)
ANALYTIC = {  # dice, jaccard, voe, rvd, abs_rvd, precision, recall
    "shifted": (box(2, 6), CUBE, Overlap(1 / 2, 1 / 3, 2 / 3, 0.0, 0.0, 1 / 2, 1 / 2)),
    "half": (box(0, 2), CUBE, Overlap(2 / 3, 1 / 2, 1 / 2, -0.5, 0.5, 1.0, 1 / 2)),
    "twice": (box(0, 8), CUBE, Overlap(2 / 3, 1 / 2, 1 / 2, 1.0, 1.0, 1 / 2, 1.0)),
    "apart": (box(6, 8), CUBE, Overlap(0.0, 0.0, 1.0, -0.5, 0.5, 0.0, 0.0)),
    "equal": (CUBE, CUBE, Overlap(1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0)),
}


@pytest.mark.parametrize("name", ANALYTIC)
def test_boxes(name: str):
    prediction, reference, expected = ANALYTIC[name]
    got = overlap(prediction, reference)
    assert asdict(got) == pytest.approx(asdict(expected), abs=1e-12)


def test_empty_policy():
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    assert overlap(empty, empty) == Overlap(1.0, 1.0, 0.0, 0.0, 0.0, precision=1.0, recall=1.0)
    assert overlap(empty, full) == Overlap(0.0, 0.0, 1.0, -1.0, 1.0, precision=0.0, recall=0.0)
    invented = overlap(full, empty)
    assert (invented.dice, invented.jaccard, invented.voe, invented.precision) == (0.0, 0.0, 1.0, 0.0)
    assert math.isnan(invented.rvd)
    assert math.isnan(invented.abs_rvd)
    assert math.isnan(invented.recall)
    kinds = {"both": (empty, empty), "reference": (full, empty), "prediction": (empty, full), "": (full, full)}
    assert all(count(*pair).empty == kind for kind, pair in kinds.items())
    assert overlap_of(count(full, full)).dice == 1.0


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

"""Lesions matched: by hand, and against a slow matching over sets of voxels."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hlfd.evaluation.lesions import detection, lesions_of, match
from hlfd.evaluation.results import Lesion

VOXEL_ML = 0.01


def line(*runs: tuple[int, int]) -> np.ndarray:
    """A mask on a line of 40 voxels."""
    mask = np.zeros((40, 1, 1), bool)
    for start, stop in runs:
        mask[start:stop] = True
    return mask


def found(prediction: np.ndarray, reference: np.ndarray) -> tuple[list[float], list[float]]:
    """Overlaps of the reference's and of the predicted lesions."""
    lesions = lesions_of(match(prediction, reference), VOXEL_ML)
    return tuple([round(x.overlap, 6) for x in lesions if x.side == side] for side in ("reference", "prediction"))


@pytest.mark.parametrize(
    ("prediction", "reference", "real", "predicted"),
    [
        (line((0, 4)), line((0, 4)), [1.0], [1.0]),
        (line((2, 6)), line((0, 4)), [round(2 / 6, 6)], [round(2 / 6, 6)]),
        (line((10, 14)), line((0, 4)), [0.0], [0.0]),
        (line((0, 10)), line((0, 4), (6, 10)), [0.8, 0.8], [0.8]),  # one prediction takes two lesions together
        (line((0, 4), (6, 10)), line((0, 10)), [0.8], [0.8, 0.8]),  # two predictions share a lesion
        (line((0, 10), (20, 22)), line((0, 10)), [1.0], [1.0, 0.0]),
        (line(), line((0, 3)), [0.0], []),
        (line((0, 3)), line(), [], [0.0]),
        (line(), line(), [], []),
        # The first lesion is the first prediction's (3 of 4); so is the prediction, though it touches the second too.
        (
            line((1, 7), (8, 20)),
            line((0, 5), (6, 20)),
            [round(4 / 7, 6), round(12 / 14, 6)],
            [round(4 / 7, 6), round(12 / 14, 6)],
        ),
    ],
)
def test_by_hand(prediction, reference, real, predicted):
    assert found(prediction, reference) == (real, predicted)


def components(mask: np.ndarray, connectivity: int) -> list[frozenset[tuple[int, ...]]]:
    """Flood fill."""
    left = set(zip(*(map(int, axis) for axis in np.nonzero(mask)), strict=True))
    steps = [s for s in itertools.product((-1, 0, 1), repeat=3) if 0 < sum(map(abs, s)) <= connectivity]
    parts = []
    while left:
        start = min(left)
        left.remove(start)
        part, open_ = {start}, [start]
        while open_:
            at = open_.pop()
            for step in steps:
                beside = tuple(a + s for a, s in zip(at, step, strict=True))
                if beside in left:
                    left.remove(beside)
                    part.add(beside)
                    open_.append(beside)
        parts.append(frozenset(part))
    return sorted(parts, key=min)


def slow_overlaps(prediction: np.ndarray, reference: np.ndarray, connectivity: int):
    """The three rules of the module, over sets."""
    p, r = components(prediction, connectivity), components(reference, connectivity)
    owner = {}
    for j, lesion in enumerate(r):
        best = max(range(len(p)), key=lambda i: len(p[i] & lesion), default=None)
        if best is not None and p[best] & lesion:
            owner[j] = best
    groups = {i: frozenset().union(*(r[j] for j in owner if owner[j] == i)) for i in sorted(set(owner.values()))}
    of = {}
    for i, part in enumerate(p):
        best = max(groups, key=lambda g: len(groups[g] & part), default=None)
        if best is not None and groups[best] & part:
            of[i] = best
    overlap = {}
    for g, merged in groups.items():
        side = frozenset().union(*(p[i] for i in of if of[i] == g))
        overlap[g] = len(side & merged) / len(side | merged)
    return (
        [overlap[owner[j]] if j in owner else 0.0 for j in range(len(r))],
        [overlap[of[i]] if i in of else 0.0 for i in range(len(p))],
    )


masks = hnp.arrays(bool, (6, 5, 4), elements=st.booleans(), fill=st.sampled_from([False, True]))


@given(masks, masks, st.sampled_from([1, 2, 3]))
def test_against_sets(prediction: np.ndarray, reference: np.ndarray, connectivity: int):
    lesions = lesions_of(match(prediction, reference, connectivity), VOXEL_ML)
    real, predicted = slow_overlaps(prediction, reference, connectivity)
    assert [x.overlap for x in lesions if x.side == "reference"] == pytest.approx(real)
    assert [x.overlap for x in lesions if x.side == "prediction"] == pytest.approx(predicted)
    sizes = [len(part) / 100 for part in components(reference, connectivity)]  # a voxel is 10 mm3
    assert [x.volume_ml for x in lesions if x.side == "reference"] == pytest.approx(sizes)
    assert all((x.group is None) == (x.overlap == 0) for x in lesions)


@given(masks, masks, st.integers(0, 3))
def test_what_lies_around_does_not_matter(prediction: np.ndarray, reference: np.ndarray, around: int):
    moved = [np.pad(m, around) for m in (prediction, reference)]
    assert lesions_of(match(*moved), VOXEL_ML) == lesions_of(match(prediction, reference), VOXEL_ML)


def test_many_components_take_little_memory():
    """27 000 components on either side: a table of all pairs would take 6 GB."""
    prediction = np.zeros((60, 60, 60), bool)
    prediction[::2, ::2, ::2] = True
    tracemalloc.start()
    matched = match(prediction, prediction.copy(), connectivity=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(matched.overlap) == 27_000
    assert (matched.overlap == 1).all()
    assert peak < 2**26


def lesions(real: list[float], predicted: list[float]) -> list[Lesion]:
    return [Lesion("reference", 1.0, o) for o in real] + [Lesion("prediction", 1.0, o) for o in predicted]


def test_detection():
    some = lesions([0.8, 0.3, 0.0, 0.0], [0.8, 0.3, 0.0])
    assert list(detection(some).values()) == pytest.approx([2 / 3, 2 / 4, 2 * 2 / 7 * 1.0])
    assert list(detection(some, 0.5).values()) == pytest.approx([1 / 3, 1 / 4, 2 / 7])
    assert list(detection(lesions([0.5], [0.5]), 0.5).values()) == [0.0, 0.0, 0.0]  # above, not at


def test_detection_of_nothing():
    missed = detection(lesions([0.0], []))
    assert list(missed.values()) == [0.0, 0.0, 0.0]
    invented = detection(lesions([], [0.0]))
    assert (invented["lesion_precision"], math.isnan(invented["lesion_recall"]), invented["lesion_f1"]) == (
        0.0,
        True,
        0.0,
    )
    assert all(map(math.isnan, detection([]).values()))

"""Preprocess: what stands at a place in the patient still stands there, and a label stays what it is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn.functional import one_hot

from hlfd.data.preprocess import AXCODES, Preprocess
from hlfd.errors import InputError
from hlfd.volume import Volume

WINDOW = (-200.0, 300.0)
UPRIGHT = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])  # axes are S, P, L already


def centre_mm(volume: Volume, weight: np.ndarray) -> np.ndarray:
    """World position of the centre of mass of ``weight``."""
    index = np.stack(np.indices(volume.shape), -1).reshape(-1, 3)
    mean = (index * weight.reshape(-1, 1).astype(np.float64)).sum(0) / weight.sum(dtype=np.float64)
    return volume.affine[:3, :3] @ mean + volume.affine[:3, 3]


def edges_mm(volume: Volume) -> np.ndarray:
    """World positions of the outer corners of the corner voxels."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in volume.shape], indexing="ij")).reshape(3, -1)
    return volume.affine[:3, :3] @ corners + volume.affine[:3, 3:]


@given(data=st.data(), rows=st.sampled_from([0.5, 1, 2, 3]), columns=st.sampled_from([0.5, 1, 2, 4]))
def test_a_marker_voxel_stays_at_its_place(affines, data, rows, columns):
    marker = tuple(data.draw(st.integers(4, n - 5)) for n in (16, 16, 16))
    volume = Volume(np.full((16, 16, 16), -200, np.int16), data.draw(affines))
    volume.voxels[marker] = 300
    prepared = Preprocess(window_hu=WINDOW, size=(int(16 * rows), int(16 * columns))).image(volume)
    at = volume.affine[:3, :3] @ marker + volume.affine[:3, 3]
    np.testing.assert_allclose(centre_mm(prepared, prepared.voxels + 1), at, atol=1e-3)


@given(data=st.data())
def test_any_size_or_spacing_keeps_the_outer_edges_and_what_lies_between(affines, data):
    sizes = st.tuples(st.integers(20, 60), st.integers(20, 60))
    options = data.draw(st.one_of(sizes.map(lambda s: {"size": s}), st.floats(0.4, 3).map(lambda s: {"spacing_mm": s})))
    volume = Volume(np.zeros((40, 40, 40)), data.draw(affines))
    upright = volume.oriented(AXCODES)
    middle = np.array(data.draw(st.tuples(*[st.integers(17, 22)] * 3)))
    squared = ((np.indices(volume.shape) - middle[:, None, None, None]) ** 2).sum(0)
    blob = Volume(500 * np.exp(-squared / (2 * 4.0**2)) - 200, volume.affine)
    prepared = Preprocess(window_hu=WINDOW, **options).image(blob)
    np.testing.assert_allclose(edges_mm(prepared), edges_mm(upright), atol=1e-6)
    assert prepared.axcodes == AXCODES
    assert prepared.shape[0] == upright.shape[0]
    for axis in (1, 2):
        if "size" in options:
            assert prepared.shape[axis] == options["size"][axis - 1]
        else:  # the nearest spacing that gives whole pixels
            wanted = 40 * upright.spacing_mm[axis] / options["spacing_mm"]
            assert abs(prepared.shape[axis] - wanted) <= 0.5 or prepared.shape[axis] == 1
    if min(prepared.shape[1:]) >= 20:
        at = volume.affine[:3, :3] @ middle + volume.affine[:3, 3]
        off_mm = np.abs(centre_mm(prepared, prepared.voxels + 1.0) - at).max()
        assert off_mm < 0.02 * max(volume.spacing_mm)  # one half pixel off would be 0.5 and more


@given(data=st.data())
def test_labels_take_the_grid_of_the_image_and_keep_their_values(affines, data):
    affine = data.draw(affines)
    label = Volume(np.random.default_rng(0).integers(0, 3, (13, 14, 15), dtype=np.uint8), affine)
    options = data.draw(st.sampled_from([{}, {"size": (9, 31)}, {"spacing_mm": 1.0}]))
    preprocess = Preprocess(window_hu=WINDOW, **options)
    prepared = preprocess.label(label)
    preprocess.image(label).require_same_grid(prepared, "label")
    assert prepared.voxels.dtype == np.uint8
    assert set(np.unique(prepared.voxels)) <= {0, 1, 2}
    if not options:
        np.testing.assert_array_equal(label.restored(prepared.voxels, AXCODES).voxels, label.voxels)


@given(data=st.data(), factor=st.integers(2, 3))
def test_a_label_enlarged_by_a_whole_factor_repeats_its_pixels(affines, data, factor):
    label = Volume(np.random.default_rng(1).integers(0, 3, (8, 9, 10), dtype=np.uint8), data.draw(affines))
    upright = label.oriented(AXCODES).voxels
    size = (upright.shape[1] * factor, upright.shape[2] * factor)
    enlarged = Preprocess(window_hu=WINDOW, size=size).label(label).voxels
    np.testing.assert_array_equal(enlarged, upright.repeat(factor, 1).repeat(factor, 2))


def test_a_label_shrunk_by_three_keeps_the_middle_of_nine_pixels():
    label = Volume(np.random.default_rng(1).integers(0, 3, (4, 24, 27), dtype=np.uint8), UPRIGHT)
    shrunk = Preprocess(window_hu=WINDOW, size=(8, 9)).label(label).voxels
    np.testing.assert_array_equal(shrunk, label.voxels[:, 1::3, 1::3])


def test_the_window_is_mapped_to_minus_one_and_one():
    hu = np.array([-2000, -200, -75, 50, 300, 3000], np.float32).reshape(1, 1, 6)
    prepared = Preprocess(window_hu=WINDOW).image(Volume(hu, UPRIGHT)).voxels
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared.ravel(), [-1, -1, -0.5, 0, 1, 1], atol=1e-6)


sides = st.integers(8, 25)


@given(plane=st.tuples(sides, sides), crop=st.tuples(sides, sides))
def test_a_crop_is_central_and_comes_back(plane, crop):
    preprocess = Preprocess(window_hu=WINDOW, crop=crop)
    label = Volume(np.random.default_rng(0).integers(0, 3, (2, *plane), dtype=np.uint8), UPRIGHT)
    geometry = preprocess.geometry(label)
    cropped = preprocess.prepared_label(label, geometry).voxels
    assert cropped.shape == (2, *crop)
    scores = one_hot(torch.from_numpy(cropped).long(), 3).movedim(-1, 1).float()
    whole = geometry.scores(scores, slice(0, 2), slice(0, 2))
    assert torch.equal(whole.sum(1), torch.ones(2, *plane))  # still probabilities
    back = whole.argmax(1).numpy()
    kept = np.zeros(plane, bool)
    inside = [slice((n - min(n, c)) // 2, (n - min(n, c)) // 2 + min(n, c)) for n, c in zip(plane, crop, strict=True)]
    kept[tuple(inside)] = True
    np.testing.assert_array_equal(back, np.where(kept, label.voxels, 0))
    padded = preprocess.prepared(Volume(np.full((1, *plane), 300), UPRIGHT)).voxels
    assert (padded == 1).sum() == kept.sum()
    assert set(np.unique(padded)) <= {-1, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_hu": (300, -200)}, r"window_hu: expected a lower and a higher end, got \[300.0, -200.0\]"),
        ({"window_hu": (100, 100)}, "window_hu: expected a lower and a higher end"),
        ({"size": (64, 64), "spacing_mm": 1}, "spacing_mm and size exclude each other"),
        ({"size": (4, 64)}, "size.0"),
        ({"spacing_mm": 0}, "spacing_mm"),
        ({"crop": (64,)}, "crop"),
        ({"croop": (64, 64)}, "croop"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises((ValidationError, InputError), match=message):
        Preprocess(**{"window_hu": WINDOW, **options})

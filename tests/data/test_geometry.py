"""Geometry: there and back, slab by slab, on any grid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hlfd.data.geometry import Geometry, axis_weights, body_box, nearest
from hlfd.data.preprocess import AXCODES, Preprocess
from hlfd.volume import Volume

WINDOW = (-200.0, 300.0)


def slabs(count: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def body(shape: tuple[int, int, int], spacing_mm, affine: np.ndarray) -> Volume:
    """Air with an off-centre block of soft tissue in it, on axes AXCODES turned to the affine's."""
    voxels = np.full(shape, -1000, np.int16)
    voxels[tuple(slice(n // 4, n // 4 + n // 2) for n in shape)] = 40
    return Volume(voxels, affine)


@given(data=st.data(), crop=st.sampled_from([None, (9, 30), (40, 8), "foreground"]), size=st.integers(1, 5))
def test_labels_come_back_exactly_and_a_marker_stays_at_its_place(affines, data, crop, size):
    affine = data.draw(affines)
    shape = data.draw(st.tuples(*[st.integers(9, 24)] * 3))
    volume = body(shape, (1, 1, 1), affine)
    labels = np.random.default_rng(0).integers(0, 3, shape, dtype=np.uint8)
    preprocess = Preprocess(window_hu=WINDOW, crop=crop)
    geometry = preprocess.geometry(volume)
    geometry = Geometry.load(geometry.dump())
    upright = volume.oriented(AXCODES)
    turned = Volume(labels, affine).oriented(AXCODES)
    prepared = np.concatenate(
        [preprocess.label_slab(turned.voxels, geometry, s) for s in slabs(geometry.shape[0], size)]
    )
    assert prepared.shape == geometry.shape
    back = volume.restored(geometry.labels_back(prepared), AXCODES)
    everywhere = volume.restored(geometry.labels_back(np.ones(geometry.shape, np.uint8)), AXCODES).voxels > 0
    np.testing.assert_array_equal(back.voxels, np.where(everywhere, labels, 0))
    if crop is None:
        assert everywhere.all()
    if crop == "foreground":
        assert everywhere[volume.voxels > -1000].all()
    # A marker voxel: where it stands in the patient, by the prepared stack's affine.
    index = tuple(data.draw(st.integers(0, n - 1)) for n in geometry.shape)
    at = geometry.affine @ [*index, 1]
    own = np.rint(np.linalg.solve(upright.affine, at)[:3]).astype(int)
    if all(0 <= i < n for i, n in zip(own, upright.shape, strict=True)):
        np.testing.assert_allclose(upright.affine @ [*own, 1], at, atol=1e-3)
        marked = np.zeros(upright.shape, np.uint8)
        marked[tuple(own)] = 1
        seen = np.argwhere(preprocess.label_slab(marked, geometry, slice(0, geometry.shape[0])))
        assert seen.tolist() == [list(index)]


@given(data=st.data(), finer=st.floats(1.0, 3.0), slices=st.floats(1.0, 3.0), size=st.integers(1, 7))
def test_labels_come_back_exactly_from_a_finer_grid(affines, data, finer, slices, size):
    labels = Volume(np.random.default_rng(1).integers(0, 3, (7, 9, 8), dtype=np.uint8), data.draw(affines))
    upright = labels.oriented(AXCODES)
    preprocess = Preprocess(
        window_hu=WINDOW,
        spacing_mm=min(upright.spacing_mm[1:]) / finer,
        slice_mm=upright.spacing_mm[0] / slices,
    )
    geometry = preprocess.geometry(labels)
    parts = [preprocess.label_slab(upright.voxels, geometry, s) for s in slabs(geometry.shape[0], size)]
    back = geometry.labels_back(np.concatenate(parts))
    np.testing.assert_array_equal(labels.restored(back, AXCODES).voxels, labels.voxels)


OPTIONS = st.fixed_dictionaries(
    {
        "spacing_mm": st.none() | st.floats(0.5, 3),
        "slice_mm": st.none() | st.floats(0.5, 6),
        "crop": st.sampled_from([None, (12, 40), "foreground"]),
    }
)


@given(data=st.data(), options=OPTIONS, size=st.integers(1, 9))
def test_slab_by_slab_is_the_whole_at_once(affines, data, options, size):
    image = Volume(np.random.default_rng(2).normal(0, 200, (16, 18, 20)).astype(np.float32), data.draw(affines))
    preprocess = Preprocess(window_hu=WINDOW, **options)
    geometry = preprocess.geometry(image)
    upright = image.oriented(AXCODES).voxels
    whole = preprocess.prepared(image)
    parts = [preprocess.image_slab(upright, geometry, s) for s in slabs(geometry.shape[0], size)]
    np.testing.assert_allclose(torch.cat(parts).numpy(), whole.voxels, atol=1e-5)
    assert whole.shape == geometry.shape
    assert whole.axcodes == AXCODES
    scores = torch.rand(geometry.shape[0], 3, *geometry.shape[1:]).softmax(1)
    every = geometry.scores(scores, slice(0, geometry.shape[0]), slice(0, geometry.upright[0]))
    assert tuple(every.shape) == (geometry.upright[0], 3, *geometry.upright[1:])
    torch.testing.assert_close(every.sum(1), torch.ones(geometry.upright), atol=1e-4, rtol=0)
    for wanted in slabs(geometry.upright[0], size):
        span = geometry.prepared_span(wanted)
        found = geometry.scores(scores[span], span, wanted)
        torch.testing.assert_close(found, every[wanted], atol=1e-5, rtol=0)


@given(data=st.data(), options=OPTIONS)
def test_outside_the_box_is_background(affines, data, options):
    image = body((20, 24, 28), (1, 1, 1), data.draw(affines))
    preprocess = Preprocess(window_hu=WINDOW, **options)
    geometry = preprocess.geometry(image)
    foreground = torch.zeros(geometry.shape[0], 2, *geometry.shape[1:])
    foreground[:, 1] = 1
    scores = geometry.scores(foreground, slice(0, geometry.shape[0]), slice(0, geometry.upright[0]))
    inside = scores[:, 1].numpy() > 0.5
    if options["crop"] is None:
        assert inside.all()
    if options["crop"] == "foreground":
        assert inside[image.oriented(AXCODES).voxels > -1000].all()
    torch.testing.assert_close(scores[:, 0], 1 - scores[:, 1], atol=1e-5, rtol=0)


@given(data=st.data(), slice_mm=st.floats(0.4, 8))
def test_what_lies_between_slices_stays_at_its_place(data, slice_mm):
    """The centre of mass of a smooth blob, along the slices, in mm."""
    affine = np.diag([-1.0, -1, 2, 1])[:, [2, 1, 0, 3]]
    middle = data.draw(st.integers(17, 22))
    line = 500 * np.exp(-((np.arange(40) - middle) ** 2) / (2 * 5.0**2)) - 200
    volume = Volume(np.broadcast_to(line[:, None, None], (40, 8, 8)).copy(), affine)
    prepared = Preprocess(window_hu=WINDOW, slice_mm=slice_mm).prepared(volume)
    profile = prepared.voxels[:, 3, 3] + 1.0
    place = (np.arange(len(profile)) * profile).sum() / profile.sum()
    assert abs((prepared.affine @ [place, 0, 0, 1])[2] - 2 * middle) < 0.05
    assert abs(prepared.spacing_mm[0] - slice_mm) < 0.5 * slice_mm


@pytest.mark.parametrize(("have", "wanted"), [(7, 7), (9, 4), (4, 9), (100, 33), (1, 3), (5, 1)])
def test_axis_weights_are_those_of_torch(have, wanted):
    line = torch.rand(1, 1, have, 3)
    expected = torch.nn.functional.interpolate(
        line, (wanted, 3), mode="bilinear", align_corners=False, antialias=wanted < have
    )
    found = axis_weights(have, wanted) @ line[0, 0, :, 0].numpy()
    np.testing.assert_allclose(found, expected[0, 0, :, 0].numpy(), atol=1e-6)
    exact = torch.nn.functional.interpolate(torch.arange(1.0 * have)[None, None], wanted, mode="nearest-exact")
    np.testing.assert_array_equal(nearest(have, wanted), exact[0, 0].numpy())


def test_the_box_is_that_of_the_body_and_not_of_the_table():
    voxels = np.full((40, 160, 160), -1000, np.int16)
    rows, columns = np.indices((160, 160))
    voxels[5:35, ((rows - 70) / 40) ** 2 + ((columns - 84) / 60) ** 2 < 1] = 30
    voxels[:, 130:133, 10:150] = 100  # a table
    (s0, r0, c0), (s1, r1, c1) = body_box(voxels, (3.0, 1.0, 1.0), -200)
    for found, body, step in ((s0, 5, 3), (r0, 30, 4), (c0, 24, 4)):
        assert body - 8 - 2 * step <= found <= body - 4
    for found, body, step in ((s1, 35, 3), (r1, 110, 4), (c1, 144, 4)):
        assert body + 4 <= found <= min(body + 8 + 2 * step, 160)
    assert body_box(np.full((3, 8, 8), -1000), (1, 1, 1), -200) == ((0, 0, 0), (3, 8, 8))


def test_a_foreground_box_is_no_smaller_than_a_patch():
    image = body((40, 80, 80), (1, 1, 1), np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]]))
    image = replace(image, voxels=np.where(np.indices(image.shape)[1] < 30, image.voxels, -1000))
    small = Preprocess(window_hu=WINDOW, crop="foreground").geometry(image)
    large = Preprocess(window_hu=WINDOW, crop="foreground", patch=(36, 64, 96)).geometry(image)
    assert large.shape == (40, 64, 80)
    assert small.shape[0] == 40
    assert small.shape[1] < 64
    assert all(a <= b for a, b in zip(large.start, small.start, strict=True))


def test_what_excludes_each_other():
    with pytest.raises(ValidationError, match="neighbours and a patch of three axes exclude each other"):
        Preprocess(window_hu=WINDOW, neighbours=1, patch=(8, 32, 32))
    assert Preprocess(window_hu=WINDOW, patch=(8, 32, 48)).dims == 3
    flat = Preprocess(window_hu=WINDOW, patch=(32, 48), neighbours=2)
    assert (flat.dims, flat.channels, flat.window((9, 100, 100))) == (2, 5, (1, 32, 48))
    assert Preprocess(window_hu=WINDOW, crop=(32, 48)).window((9, 32, 48)) == (1, 32, 48)

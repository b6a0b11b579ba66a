"""Store: a slice at a time, exactly what was prepared, and no store where there is none."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hlfd import plugins
from hlfd.data.prepare import prepare
from hlfd.data.preprocess import Preprocess
from hlfd.data.store import Store, iterate_slices
from hlfd.errors import InputError

PREPROCESS = Preprocess(window_hu=(-200.0, 300.0), size=(24, 28), crop=(12, 32))


@pytest.fixture
def store(kits_root: Path, tmp_path: Path) -> Store:
    return prepare(partial(plugins.load, "sources", "kits", kits_root), PREPROCESS, tmp_path / "store")


def test_slices_are_the_preprocessed_image_in_half_precision(store: Store, kits_root: Path):
    source = plugins.load("sources", "kits", kits_root)
    assert list(store.cases) == [case.id for case in source.cases]
    for case in source.cases:
        expected = PREPROCESS.to_crop(PREPROCESS.image(source.read_image(case)).voxels, -1).astype(np.float16)
        labels = PREPROCESS.to_crop(PREPROCESS.label(source.read_label(case)).voxels, 0)
        image, label = store.slices(case.id)
        for k in (3, 0, 2, 1, 3):  # in any order
            assert image[k].dtype == np.float16
            assert label[k].dtype == np.uint8
            np.testing.assert_array_equal(image[k], expected[k])
            np.testing.assert_array_equal(label[k], labels[k])
        assert image.chunks == image.blocks == (1, 12, 32)  # reading a slice unpacks no other
        known = store.cases[case.id]
        assert known.shape == expected.shape == (4, 12, 32)
        np.testing.assert_array_equal(known.counts, [[(s == c).sum() for c in range(3)] for s in labels])
        whole = PREPROCESS.label(source.read_label(case)).voxels
        assert known.cropped_away == (whole > 0).sum() - (labels > 0).sum() > 0


def test_slices_of_some_patients(store: Store):
    assert store.patients == ["case_00000", "case_00001", "case_00002"]
    some = list(iterate_slices(store, {"case_00002", "case_00000"}))
    assert some == [(case, k) for case in ("case_00000", "case_00002") for k in range(4)]


def another_version(root: Path) -> None:
    settings = json.loads((root / "store.json").read_text())
    (root / "store.json").write_text(json.dumps({**settings, "version": 7}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (another_version, "expected a store of version 1, got version 7; prepare it again"),
        (lambda root: (root / "store.json").unlink(), "no prepared store here; run 'hlfd prepare' first"),
        (lambda root: (root / "store.json").write_text("{"), r"store\.json: expected a store's settings"),
        (lambda root: (root / "cases" / "case_00001.json").unlink(), "1 of 3 cases are missing; run the same"),
    ],
)
def test_what_is_no_whole_store(store: Store, damage, message):
    damage(store.root)
    with pytest.raises(InputError, match=message) as caught:
        Store(store.root)
    assert str(caught.value).startswith(str(store.root))

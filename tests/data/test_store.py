"""Store: a slice at a time, exactly what was prepared, and no store where there is none."""

import hashlib
import io
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import blosc2
import numpy as np
import pytest

from hlfd import plugins
from hlfd.data import frames
from hlfd.data.prepare import prepare
from hlfd.data.preprocess import Preprocess
from hlfd.data.store import Store, iterate_slices, pack_image
from hlfd.errors import InputError
from hlfd.io import nifti
from hlfd.volume import Volume

PREPROCESS = Preprocess(window_hu=(-200.0, 300.0), size=(24, 28), crop=(12, 32))


@pytest.fixture
def store(kits_root: Path, tmp_path: Path) -> Store:
    return prepare(partial(plugins.load, "sources", "kits", kits_root), PREPROCESS, tmp_path / "store")


def test_slices_are_the_preprocessed_image_to_half_a_step(store: Store, kits_root: Path):
    source = plugins.load("sources", "kits", kits_root)
    assert list(store.cases) == [case.id for case in source.cases]
    for case in source.cases:
        expected = PREPROCESS.prepared(source.read_image(case))
        geometry = PREPROCESS.geometry(source.read_image(case))
        labels = PREPROCESS.prepared_label(source.read_label(case), geometry).voxels
        image, label = store.slices(case.id)
        assert store.cases[case.id].steps.step_hu == 1 / 8
        for k in (3, 0, 2, 1, 3):  # in any order
            assert image[k].dtype == np.float32
            assert label[k].dtype == np.uint8
            np.testing.assert_allclose(image[k], expected.voxels[k], atol=1.01 / 16 * 2 / 500)
            np.testing.assert_array_equal(label[k], labels[k])
        assert image.steps.array.chunks == image.steps.array.blocks == (1, 12, 32)  # reading a slice unpacks no other
        known = store.cases[case.id]
        assert known.shape == expected.shape == image.shape == (4, 12, 32)
        np.testing.assert_array_equal(known.counts, [[(s == c).sum() for c in range(3)] for s in labels])
        whole = PREPROCESS.label(source.read_label(case)).voxels
        assert known.cropped_away == (whole > 0).sum() - (labels > 0).sum() > 0
        np.testing.assert_allclose(known.geometry.affine, expected.affine)


@pytest.mark.parametrize("window", [(-200.0, 300.0), (-57.3, 164.9), (-1000.0, 3000.0)], ids=str)
@pytest.mark.parametrize("crop", [None, (16, 40), "foreground"])
def test_whole_hu_come_back_bit_for_bit_as_prediction_computes_them(kits_root, tmp_path, window, crop):
    preprocess = Preprocess(window_hu=window, crop=crop)
    store = prepare(partial(plugins.load, "sources", "kits", kits_root), preprocess, tmp_path / "store")
    source = plugins.load("sources", "kits", kits_root)
    for case in source.cases:
        np.testing.assert_array_equal(store.slices(case.id)[0][:], preprocess.prepared(source.read_image(case)).voxels)
        assert store.cases[case.id].steps.step_hu == 1


@pytest.mark.parametrize("window", [(0.0, 1.0), (-40.0, 160.0), (-1e5, 1e5)], ids=str)
def test_fractions_come_back_to_a_thousandth_of_the_window(window):
    preprocess = Preprocess(window_hu=window)
    voxels = np.random.default_rng(0).uniform(window[0] * 1.1 - 0.1, window[1] * 1.1, (5, 9, 10)).astype(np.float32)
    image = Volume(voxels, np.diag([2, -1, 3, 1]))
    geometry = preprocess.geometry(image)
    packed, steps = pack_image(image, preprocess, geometry)
    kept = blosc2.ndarray_from_cframe(packed.data)[:]
    np.testing.assert_allclose(steps.table(preprocess)[kept], preprocess.prepared(image).voxels, atol=1 / 2000)
    assert steps.encode(np.float32([-1e9, 1e9]), preprocess)[0] == 0


def without(data: bytes, array: frames.Kept, kept: set[tuple[int, int]]) -> bytes:
    """A file of 3 x 3 blocks a slice where the bytes of all but some (slice, block) are damaged."""
    damaged = bytearray(data)
    for k in range(len(array)):
        chunk = array.array.schunk.get_chunk(k)
        start, ends = data.index(chunk), np.frombuffer(chunk, np.int32, 9, offset=32).tolist()
        for block, first in enumerate(ends):
            end = min((other for other in ends if other > first), default=len(chunk))
            if (k, block) not in kept:
                damaged[start + first : start + end] = b"\x7f" * (end - first)
    return bytes(damaged)


def test_a_patch_is_read_without_the_rest_of_its_slices(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 500, (4, 300, 260)).astype(np.uint16)
    packed = frames.pack(iter([voxels[:3], voxels[3:]]), voxels.shape, np.uint16)
    (tmp_path / "a.b2nd").write_bytes(packed.data)
    array = frames.Kept(tmp_path / "a.b2nd")
    assert (array.array.chunks, array.array.blocks) == ((1, 300, 260), (1, 128, 128))
    np.testing.assert_array_equal(array[1:3, 100:140, 7:200], voxels[1:3, 100:140, 7:200])
    needed = {(k, block) for k in (1, 2) for block in (0, 1, 3, 4)}
    (tmp_path / "b.b2nd").write_bytes(without(packed.data, array, needed))
    rest = frames.Kept(tmp_path / "b.b2nd")
    np.testing.assert_array_equal(rest[1:3, 100:140, 7:200], voxels[1:3, 100:140, 7:200])
    for other in ((0,), (1, slice(260, 280)), (2, slice(100, 140), slice(250, 260))):
        with pytest.raises(InputError, match="expected a prepared case"):
            rest[other]
    assert packed.sha256 == hashlib.sha256(voxels.tobytes()).hexdigest()
    with pytest.raises(ValueError, match=r"read|mode"):
        array.array[0] = 0


def test_smaller_than_npz(shared_data: Path):
    image = nifti.read_image(shared_data / "ircad01_p01" / "imaging.nii.gz")
    image = Volume(image.voxels[:, :, 50:60], image.affine)  # last axis: slices
    preprocess = Preprocess(window_hu=(-200.0, 300.0))
    packed, steps = pack_image(image, preprocess, preprocess.geometry(image))
    assert steps.step_hu == 1
    size = 0
    for slice_ in preprocess.prepared(image).voxels.astype(np.float16):
        file = io.BytesIO()
        np.savez_compressed(file, image=slice_)
        size += len(file.getvalue())
    assert len(packed.data) < size


def test_the_manifest_finds_damage(store: Store):
    assert store.damage() == []
    assert set(json.loads((store.root / "manifest.json").read_text())["cases"]) == set(store.cases)
    path = store.root / "cases" / "case_00001.image.b2nd"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (store.root / "cases" / "case_00002.label.b2nd").unlink()
    problems = Store(store.root).damage()
    assert len(problems) == 2
    assert problems[0].startswith(f"{path}: damaged, expected sha256 ")
    assert problems[1] == f"{store.root / 'cases' / 'case_00002.label.b2nd'}: no such file"
    side = store.root / "cases" / "case_00000.json"
    side.write_text(side.read_text().replace(store.cases["case_00000"].sha256, "0" * 64))
    assert any(p.startswith("case case_00000: expected voxels ") for p in Store(store.root).damage())
    (store.root / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json: no manifest; run 'hlfd prepare' again"):
        store.damage()


def read_all(root: Path) -> str:
    store, digest = Store(root), hashlib.sha256()
    for case in store.cases:
        for k in range(store.cases[case].shape[0]):
            digest.update(store.slices(case)[0][k].tobytes())
    return digest.hexdigest()


def test_several_processes_read_the_same(store: Store):
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        assert set(pool.map(read_all, [store.root] * 4)) == {read_all(store.root)}


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
        (another_version, "expected a store of version 3, got version 7: remove .* and prepare again"),
        (lambda root: (root / "store.json").unlink(), "no prepared store here; run 'hlfd prepare' first"),
        (lambda root: (root / "store.json").write_text("{"), r"store\.json: expected a store's settings"),
        (lambda root: (root / "cases" / "case_00001.json").unlink(), "1 of 3 cases are missing; run the same"),
        (lambda root: (root / "cases" / "case_00001.json").write_text("{"), r"case_00001\.json: expected a prepared"),
    ],
)
def test_what_is_no_whole_store(store: Store, damage, message):
    damage(store.root)
    with pytest.raises(InputError, match=message) as caught:
        Store(store.root)
    assert str(caught.value).startswith(str(store.root))


@pytest.mark.parametrize("kind", ["image", "label"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "overwritten"])
def test_a_damaged_array_is_named_when_it_is_read(store: Store, kind: str, damage: str):
    path = store.root / "cases" / f"case_00001.{kind}.b2nd"
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        half = len(whole) // 2
        path.write_bytes({"empty": b"", "cut": whole[:half], "overwritten": whole[:half] + bytes(half)}[damage])
    with pytest.raises(InputError, match=r"expected a prepared case .*can't be read") as caught:
        [part[:] for part in store.slices("case_00001")]
    assert str(caught.value).startswith(str(path))


def test_what_is_read_can_not_be_written(store: Store):
    for path in (*(store.root / "cases").iterdir(), store.root / "cases"):
        path.chmod(path.stat().st_mode & ~0o222)
    image, label = store.slices("case_00001")
    for part in (image, label):
        assert part[0].shape == part.shape[1:]
        with pytest.raises(TypeError):
            part[0] = 0
    assert [*store.root.glob("cases/*.tmp")] == []

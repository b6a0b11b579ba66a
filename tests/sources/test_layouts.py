"""Every layout: cases, labels and grid come out as the files have them, through prepare and back."""

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlfd.data.prepare import prepare
from hlfd.data.preprocess import AXCODES, Preprocess
from hlfd.data.store import Store
from hlfd.errors import InputError
from hlfd.inference import predict
from hlfd.sources import open_source, recognise
from hlfd.volume import Volume

WINDOW = (-200.0, 300.0)
BOTH = {"labels": {"kidney": 1, "tumor": 2}}
LAYOUTS = ("kits", "kits21", "kits23", "lits", "msd", "nnunet", "pairs")


def opened(root: Path, **options):
    name = recognise(root)
    return open_source(name, root, BOTH | options if name == "pairs" else options)


def upright(path: Path) -> np.ndarray:
    """Voxels of a file as slices to superior, rows to posterior, columns to the left, without code of ours."""
    image = nib.as_closest_canonical(nib.load(path))
    return np.asanyarray(image.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prepared_and_on_its_own_grid(layouts, three, threshold, tmp_path: Path, layout: str):
    root = layouts[layout](tmp_path / "data", three)
    source = opened(root)
    assert len(source.cases) == 3 and len({case.patient for case in source.cases}) == 3
    for case, (ct, mask) in zip(source.cases, three.values(), strict=True):
        image, label = source.read_image(case), source.read_label(case)
        np.testing.assert_array_equal(image.voxels, ct.voxels)
        np.testing.assert_array_equal(label.voxels, mask.voxels)
        for volume in (image, label):
            np.testing.assert_allclose(volume.affine, ct.affine, atol=1e-5)
        predicted = predict(threshold(Preprocess(window_hu=WINDOW), 49.5), image)
        assert predicted.shape == nib.load(case.label[0]).shape
        np.testing.assert_array_equal(predicted.affine, image.affine)
        np.testing.assert_array_equal(predicted.voxels, ct.voxels > 49.5)
    options = BOTH if layout == "pairs" else {}
    make = partial(open_source, source.name, root, options)
    store: Store = prepare(make, Preprocess(window_hu=WINDOW), tmp_path / "store")
    for case in source.cases:
        image, label = store.slices(case.id)
        np.testing.assert_array_equal(label[:], upright(case.label[0]))
        expected = np.clip(upright(case.image[0]), *WINDOW)
        np.testing.assert_allclose((np.asarray(image[:], np.float32) + 1) * 250 - 200, expected, atol=0.5)


@pytest.mark.parametrize("layout", ["kits", "kits21", "lits", "pairs"])
def test_suffixes_in_capitals(layouts, three, tmp_path: Path, layout: str):
    root = layouts[layout](tmp_path / "data", three)
    for path in root.rglob("*.nii*"):
        stem = path.name.partition(".")[0]
        path.rename(path.with_name(stem + path.name[len(stem) :].upper()))
    source = opened(root)
    assert len(source.cases) == 3
    for case, (ct, mask) in zip(source.cases, three.values(), strict=True):
        np.testing.assert_array_equal(source.read_image(case).voxels, ct.voxels)
        np.testing.assert_array_equal(source.read_label(case).voxels, mask.voxels)


@given(data=st.data())
def test_any_affine_any_crop_labels_and_places_come_back(
    layouts, affines, threshold, tmp_path_factory: pytest.TempPathFactory, data
):
    """A label map of one class, an image that is brighter there: what is predicted is the label map, exactly."""
    affine, layout = data.draw(affines), data.draw(st.sampled_from(LAYOUTS))
    shape = data.draw(st.tuples(*[st.integers(10, 14)] * 3))
    crop = data.draw(st.none() | st.tuples(*[st.integers(8, 16)] * 2))
    preprocess = Preprocess(window_hu=WINDOW, crop=crop)
    grid = Volume(np.zeros(shape, np.uint8), affine)
    inside = np.zeros_like(grid.oriented(AXCODES).voxels, dtype=bool)
    _, rows, columns = inside.shape
    keep = [
        slice((n - min(n, c)) // 2, (n - min(n, c)) // 2 + min(n, c))
        for n, c in zip((rows, columns), crop or (99, 99), strict=True)
    ]
    inside[:, keep[0], keep[1]] = True
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    mask = (random.random(shape) > 0.7) & grid.restored(inside, AXCODES).voxels
    image = Volume(np.where(mask, 100, -100).astype(np.int16), affine)
    root = tmp_path_factory.mktemp("any")
    source = opened(layouts[layout](root, {"case_00000": (image, Volume(mask.astype(np.uint8), affine))}))
    (case,) = source.cases
    stored = nib.load(case.label[0])
    predicted = predict(threshold(preprocess, 0.0), source.read_image(case))
    np.testing.assert_array_equal(predicted.voxels, np.asanyarray(stored.dataobj))
    np.testing.assert_allclose(predicted.affine, stored.affine, atol=1e-4)

    marker = tuple(np.argwhere(np.ones(shape))[data.draw(st.integers(0, int(np.prod(shape)) - 1))])
    voxels = np.full(shape, -200, np.int16)
    voxels[marker] = 300
    layouts[layout](root, {"case_00000": (Volume(voxels, affine), Volume(mask.astype(np.uint8), affine))})
    scale = data.draw(st.sampled_from([1, 2]))
    resized = Preprocess(window_hu=WINDOW, size=None if scale == 1 else (scale * rows, scale * columns))
    prepared = resized.label(
        Volume((source.read_image(case).voxels > 0).astype(np.uint8), source.read_label(case).affine)
    )
    found = nib.affines.apply_affine(prepared.affine, np.argwhere(prepared.voxels).mean(axis=0))
    np.testing.assert_allclose(found, nib.affines.apply_affine(affine, marker), atol=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_label_on_another_grid_or_with_another_value(layouts, volumes, tmp_path: Path, layout: str):
    image, mask = volumes()
    moved = Volume(mask.voxels, mask.affine + np.eye(4, k=3))
    more = Volume(mask.voxels * 3, mask.affine)
    source = opened(layouts[layout](tmp_path / "data", {"case_00000": (image, moved), "case_00001": (image, more)}))
    with pytest.raises(InputError, match="the affines differ, a corner lies 1 mm away") as caught:
        source.read_label(source.cases[0])
    assert str(caught.value).startswith(str(source.cases[0].label[0]))
    with pytest.raises(InputError, match=r"unknown label values .*6; expected only \[0, 1, 2(, 3)?\]") as caught:
        source.read_label(source.cases[1])
    assert str(caught.value).startswith(str(source.cases[1].label[0]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_and_regions_of_the_recipe_hold(layouts, volumes, tmp_path: Path, layout: str):
    image, mask = volumes()
    more = Volume((np.indices(mask.shape).sum(0) % 4).astype(np.uint8), mask.affine)
    root = layouts[layout](tmp_path / "data", {"case_00000": (image, more)})
    source = opened(root, labels={"background": 3, "mine": [1, 2]})
    assert source.labels.names == ("mine",)
    np.testing.assert_array_equal(source.read_label(source.cases[0]).voxels, np.array([0, 1, 1, 0])[more.voxels])
    source = opened(
        root, labels={"one": 1, "two": 2, "three": 3}, regions={"all": ["one", "two", "three"], "two": "two"}
    )
    assert source.labels.regions == {"all": (1, 2, 3), "two": (2,)}
    np.testing.assert_array_equal(source.read_label(source.cases[0]).voxels, more.voxels)
    with pytest.raises(InputError, match=r"regions\.all: there is no label 'on' \(did you mean 'one'"):
        opened(root, labels={"one": 1}, regions={"all": ["on"]})


def test_real_labels_in_the_odd_affine_of_kits19(shared_data: Path, tmp_path: Path):
    """An image whose HU are the labels: what is prepared and turned back is the file, voxel for voxel."""
    files = (shared_data / "kits19_masks").glob("*/segmentation.nii*")
    path = min(files, key=lambda path: nib.load(path).shape)
    case = tmp_path / "kits" / path.parent.name
    case.mkdir(parents=True)
    (case / path.name).symlink_to(path)
    (case / path.name.replace("segmentation", "imaging")).symlink_to(path)
    source = opened(tmp_path / "kits")
    image, label = source.read_image(source.cases[0]), source.read_label(source.cases[0])
    image.require_same_grid(label, "label")
    stored = nib.load(path)
    np.testing.assert_array_equal(label.affine, stored.affine)
    assert label.axcodes[0] in "IS" and set(np.unique(label.voxels)) == {0, 1, 2}
    prepared = Preprocess(window_hu=WINDOW).label(label)
    assert prepared.axcodes == AXCODES
    np.testing.assert_array_equal(label.restored(prepared.voxels, AXCODES).voxels, np.asanyarray(stored.dataobj))
    np.testing.assert_array_equal(prepared.voxels, upright(path))


def test_real_volume_as_a_pair(shared_data: Path, threshold, tmp_path: Path):
    for kind, name in (("images", "imaging"), ("labels", "segmentation")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"p01{'_0000' * (kind == 'images')}.nii.gz").symlink_to(
            shared_data / "ircad01_p01" / f"{name}.nii.gz"
        )
    source = opened(
        tmp_path,
        labels={"liver": 1, "tumor": 2, "kidney": 3},
        regions={"liver": ["liver", "tumor"], "kidney": "kidney"},
    )
    (case,) = source.cases
    assert case.id == "p01" and source.labels.regions == {"liver": (1, 2), "kidney": (3,)}
    image, label = source.read_image(case), source.read_label(case)
    image.require_same_grid(label, "label")
    assert image.shape == (512, 512, 129)
    assert [int((label.voxels == c).any((0, 1)).sum()) for c in (1, 2, 3)] == [98, 74, 101]
    predicted = predict(threshold(Preprocess(window_hu=WINDOW, size=(64, 64)), 150), image)
    assert predicted.shape == image.shape
    np.testing.assert_array_equal(predicted.affine, nib.load(case.image[0]).affine)


@pytest.mark.parametrize(
    ("folder", "patients", "slices", "options"),
    [
        ("msd_liver_slices", 122, 623, {"labels": {"liver": 1}}),
        ("kits19_slices", 31, 53, {"task": "both", "labels": {"kidney": 1, "tumor": 2}}),
    ],
)
def test_real_slices(shared_data: Path, folder: str, patients: int, slices: int, options: dict):
    assert recognise(shared_data / folder) == "slices"
    source = open_source("slices", shared_data / folder, options)
    assert len(source.cases) == patients and sum(len(case.image) for case in source.cases) == slices
    case = source.cases[0]
    image, label = source.read_image(case), source.read_label(case)
    image.require_same_grid(label, "label")
    assert set(np.unique(label.voxels)) == set(range(len(source.labels.names) + 1))
    prepared = Preprocess(window_hu=source.window_hu).label(label)
    np.testing.assert_array_equal(prepared.voxels, label.voxels)  # slices are axial and upright already

"""The source dicom: series and their labels, found wherever they lie, read on the grid of the image."""

import pickle
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dicom_files import ID, ct_affine, phantom_hu, write_enhanced, write_series
from hlfd import plugins, sources
from hlfd.data.parallel import sent
from hlfd.errors import InputError
from hlfd.io import dicom


def build(root: Path, **options):
    return plugins.load("sources", "dicom", root, **options)


def blobs(seed: int, shape=(12, 10, 6)) -> np.ndarray:
    labels = np.zeros(shape, dtype=np.uint8)
    labels[1 + seed : 8, 2:7, 1:4] = 1
    labels[6:10, 4:8, 2 : 4 + seed] = 2
    return labels


def seg_for(folder: Path, path: Path, labels: np.ndarray, names=("kidney", "tumor")) -> None:
    (series,) = dicom.list_series(folder)
    image = dicom.read_series(folder)
    dicom.write_seg(path, image.volume.like(labels), series, names)


def nifti_for(affine: np.ndarray, path: Path, labels: np.ndarray, flip: bool = True) -> None:
    """As a converter writes it: rows turned around."""
    image = nib.Nifti1Image(labels, affine)
    nib.save(image.as_reoriented([[0, 1], [1, -1], [2, 1]]) if flip else image, path)


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Four patients, each laid out in another way; HU and labels by PatientID."""
    root = tmp_path / "root"
    hu: dict[str, np.ndarray] = {}
    labels = {f"P{n}": blobs(n % 3) for n in range(4)}
    for n in range(3):
        options = {"series": f"1.2.3.{n}", "study": f"1.2.{n}", "seed": n, "PatientID": f"P{n}"}
        hu[f"P{n}"], affine = write_series(root / f"patient{n}" / "deep" / "ct", **options)
    write_enhanced(root / "one.dcm", hu.setdefault("P3", phantom_hu(seed=3)), series="1.2.3.3")
    seg_for(root / "patient0", root / "patient0" / "seg.dcm", labels["P0"])
    seg_for(root / "patient1", root / "labels of all" / "x.dcm", labels["P1"])
    with zipfile.ZipFile(root / "patient1.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in [*(root / "patient1").rglob("IM*"), root / "labels of all" / "x.dcm"]:
            archive.write(file, file.relative_to(root))
    shutil.rmtree(root / "patient1")
    shutil.rmtree(root / "labels of all")
    nifti_for(affine, root / "patient2_seg.nii.gz", labels["P2"])
    return root, hu, labels


def test_each_case_with_its_own_image_and_labels(mixed):
    root, hu, labels = mixed
    source = build(root)
    assert len(source.cases) == len({case.patient for case in source.cases}) == 4
    assert source.labels.names == ("kidney", "tumor")
    seen = set()
    for case in source.cases:
        assert ID not in case.id and not any(f"P{n}" in case.id for n in range(4))
        image = source.read_image(case)
        (name,) = [name for name, voxels in hu.items() if np.array_equal(voxels, image.voxels)]
        seen.add(name)
        if name == "P3":
            assert case.label is None
            with pytest.raises(InputError, match=f"case {case.id}: has no label file"):
                source.read_label(case)
            continue
        label = source.read_label(case)
        image.require_same_grid(label, "label")
        assert label.voxels.dtype == np.uint8
        np.testing.assert_array_equal(label.voxels, labels[name])
    assert seen == set(hu)


def test_ids_stay_when_folders_move(mixed, tmp_path: Path):
    root, *_ = mixed
    before = [(case.id, case.patient) for case in build(root).cases]
    moved = root.rename(tmp_path / "elsewhere")
    assert [(case.id, case.patient) for case in build(moved).cases] == before
    again = build(moved)
    assert [(case.id, case.patient) for case in pickle.loads(pickle.dumps(again)).cases] == before


def test_a_zip_alone(mixed):
    root, hu, labels = mixed
    source = build(root / "patient1.zip")
    (case,) = source.cases
    np.testing.assert_array_equal(source.read_image(case).voxels, hu["P1"])
    np.testing.assert_array_equal(source.read_label(case).voxels, labels["P1"])


def test_labels_and_segments_by_other_names(tmp_path: Path):
    write_series(tmp_path / "ct")
    labels = blobs(1)
    seg_for(tmp_path / "ct", tmp_path / "seg.dcm", labels, ("liver", "lesion"))
    (case,) = build(tmp_path, organ="liver").cases
    source = build(tmp_path, organ="liver")
    np.testing.assert_array_equal(source.read_label(case).voxels, labels == 1)  # the lesion isn't asked for
    source = build(tmp_path, labels={"liver": 1, "tumor": 2}, segments={"Liver": 1, "SCT:52988006": 2})
    np.testing.assert_array_equal(source.read_label(case).voxels, labels)
    assert source.labels.regions == {"liver": (1, 2), "tumor": (2,)}
    source = build(tmp_path, labels={"liver": 1, "lesion": 2}, task="organ")
    np.testing.assert_array_equal(source.read_label(case).voxels, labels > 0)
    with pytest.raises(InputError, match=r"expected a segment 'kidney', 'tumor', its SEG has 'lesion', 'liver'"):
        build(tmp_path).read_label(case)
    with pytest.raises(InputError, match=r"segments: expected values among \[0, 1, 2\], got {'liver': 7}"):
        build(tmp_path, segments={"liver": 7})


def test_several_objects_for_one_series(tmp_path: Path):
    write_series(tmp_path / "ct")
    labels = blobs(0)
    seg_for(tmp_path / "ct", tmp_path / "a.dcm", (labels > 0).astype(np.uint8), ("kidney",))
    seg_for(tmp_path / "ct", tmp_path / "b.dcm", (labels == 2).astype(np.uint8), ("neoplasm",))
    source = build(tmp_path)
    (case,) = source.cases
    assert len(case.label) == 2
    np.testing.assert_array_equal(source.read_label(case).voxels, labels)


def test_two_objects_that_say_the_same(tmp_path: Path):
    write_series(tmp_path / "ct")
    halves = [np.zeros((12, 10, 6), np.uint8) for _ in range(2)]
    halves[0][2:5, 3:6, 1:3], halves[1][7:9, 3:6, 2:5] = 1, 1
    for name, half in zip("ab", halves, strict=True):
        seg_for(tmp_path / "ct", tmp_path / f"{name}.dcm", half, ("kidney",))
    source = build(tmp_path)
    (case,) = source.cases
    assert source.notes == ("1 series have several SEG objects, whose segments are read together",)
    np.testing.assert_array_equal(source.read_label(case).voxels, halves[0] | halves[1])  # left and right
    shutil.copy(tmp_path / "a.dcm", tmp_path / "again.dcm")  # a copy says nothing twice
    np.testing.assert_array_equal(build(tmp_path).read_label(case).voxels, halves[0] | halves[1])
    seg_for(tmp_path / "ct", tmp_path / "b.dcm", halves[0] | halves[1], ("kidney",))
    with pytest.raises(InputError, match=r"'kidney' is in .*a\.dcm and in .*b\.dcm, 18 voxels in both.*several_segs"):
        build(tmp_path).read_label(case)
    np.testing.assert_array_equal(build(tmp_path, several_segs="merge").read_label(case).voxels, halves[0] | halves[1])


def test_an_object_for_a_series_that_is_not_there(tmp_path: Path):
    root = tmp_path / "root"
    write_series(root / "ct", series="1.2.1")
    write_series(tmp_path / "other", series="1.2.2", study="1.2.8")
    seg_for(tmp_path / "other", root / "stray.dcm", blobs(0))
    with pytest.raises(InputError, match=r"stray\.dcm: a SEG that refers to no series here.*source\.stray_segs"):
        build(root)
    source = build(root, stray_segs="leave_out")
    assert [case.label for case in source.cases] == [None]
    assert source.notes == ("1 SEG objects refer to no series here and are left out",)


def test_label_maps_in_a_zip_are_not_passed_over_without_a_word(tmp_path: Path):
    _, affine = write_series(tmp_path / "ct")
    nifti_for(affine, tmp_path / "labels.nii", blobs(0))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in (*sorted((tmp_path / "ct").iterdir()), tmp_path / "labels.nii"):
            archive.write(path, path.name)
    source = build(tmp_path / "all.zip")
    assert [case.label for case in source.cases] == [None]
    assert source.notes == ("1 NIfTI files in zips are not read: unpack label maps beside the series",)


def beside(root: Path, affine: np.ndarray) -> None:
    nifti_for(affine, root / "ct_label.nii", blobs(0))


def among(root: Path, affine: np.ndarray) -> None:
    nifti_for(affine, root / "ct" / "anything.nii.gz", blobs(0), flip=False)


def by_key(root: Path, affine: np.ndarray) -> None:
    (root / "other").mkdir()
    nifti_for(affine, root / "other" / f"{dicom.list_series(root)[0].key}.nii.gz", blobs(0))


@pytest.mark.parametrize("place", [beside, among, by_key])
def test_where_a_label_map_may_lie(tmp_path: Path, place: Callable[[Path, np.ndarray], None]):
    _, affine = write_series(tmp_path / "ct", None, ct_affine(tilt_degrees=9))
    place(tmp_path, affine)
    source = build(tmp_path)
    np.testing.assert_array_equal(source.read_label(source.cases[0]).voxels, blobs(0))


@pytest.mark.parametrize("name", ["ct_seg.nii.gz", "z_Segmentation.NII.GZ", "ct/labels.nii"])
def test_a_converted_image_is_no_label_map(tmp_path: Path, name: str):
    hu, affine = write_series(tmp_path / "ct")
    for place in ("ct.nii.gz", "a.nii.gz", "ct/a.nii"):
        nifti_for(affine, tmp_path / place, hu)
    nifti_for(affine, tmp_path / name, blobs(0))
    source = build(tmp_path)
    (case,) = source.cases
    assert case.label == (tmp_path / name,)
    np.testing.assert_array_equal(source.read_label(case).voxels, blobs(0))


def test_a_file_beside_a_series_on_another_grid_is_said(tmp_path: Path):
    hu, affine = write_series(tmp_path / "p1" / "ct")
    nifti_for(affine, tmp_path / "p1" / "ct" / "liver.nii.gz", (hu > 100).astype(np.uint8)[..., :-1])
    source = build(tmp_path)
    assert [case.label for case in source.cases] == [None]
    assert any("another grid, and are not taken for label maps: liver.nii.gz" in note for note in source.notes)


@pytest.mark.parametrize("apart", [False, True])
def test_series_folders_of_one_name(tmp_path: Path, apart: bool):
    labels = tmp_path / "labels" if apart else tmp_path / "root"
    for n in range(3):
        hu, affine = write_series(
            tmp_path / "root" / f"p{n}" / "ct", series=f"1.2.{n}", study=f"1.3.{n}", seed=n, PatientID=f"P{n}"
        )
        (labels / f"p{n}").mkdir(parents=True, exist_ok=True)
        moved = affine + np.eye(4, k=3) * (n == 2)
        nifti_for(
            moved, labels / f"p{n}" / ("ct.nii.gz" if apart else "ct_seg.nii.gz"), (hu > 500 * n).astype(np.uint8)
        )
    source = build(tmp_path / "root", label_folder=labels if apart else None)
    assert len(source.cases) == 3
    for case in source.cases:
        n = int(case.image[0].parent.parent.name[1])
        assert case.label == (labels / f"p{n}" / ("ct.nii.gz" if apart else "ct_seg.nii.gz"),)
        if n == 2:
            with pytest.raises(InputError, match="the affines differ, a corner lies 1 mm away"):
                source.read_label(case)
        else:
            np.testing.assert_array_equal(source.read_label(case).voxels, source.read_image(case).voxels > 500 * n)


def test_two_phases_of_one_patient_and_a_label_map_for_one(tmp_path: Path):
    write_series(tmp_path / "patient" / "a", series="1.2.1", seed=1)
    moved = ct_affine()
    moved[2, 3] += 5
    late, _ = write_series(tmp_path / "patient" / "b", None, moved, series="1.2.2", seed=2)
    nifti_for(moved, tmp_path / "patient_segmentation.nii.gz", blobs(0))
    source = build(tmp_path)
    assert len({case.patient for case in source.cases}) == 1
    (case,) = [case for case in source.cases if case.label]
    np.testing.assert_array_equal(source.read_image(case).voxels, late)


def test_what_is_refused(tmp_path: Path):
    _, affine = write_series(tmp_path / "ct", series="1.2.1")
    nifti_for(affine, tmp_path / "ct.nii.gz", blobs(0))
    source = build(tmp_path)
    (case,) = source.cases
    nifti_for(affine + np.eye(4, k=3), tmp_path / "ct.nii.gz", blobs(0))
    with pytest.raises(InputError, match=r"ct\.nii\.gz against series [0-9a-f]{8}: the affines differ"):
        source.read_label(case)
    nifti_for(affine, tmp_path / "ct.nii.gz", blobs(0) * 3)
    with pytest.raises(InputError, match=r"ct\.nii\.gz: unknown label values 3, 6"):
        source.read_label(case)
    for one, other in (("ct_label", "ct_seg"), ("ct", dicom.list_series(tmp_path)[0].key)):
        for name in (one, other):
            shutil.copy(tmp_path / "ct.nii.gz", tmp_path / f"{name}.nii.gz~")
        (tmp_path / "ct.nii.gz").unlink()
        for path in tmp_path.glob("*~"):
            path.rename(path.with_suffix(".gz"))
        with pytest.raises(InputError, match=rf"belongs to series .* as .*({one}|{other})\.nii\.gz does"):
            build(tmp_path)
        (tmp_path / f"{other}.nii.gz").unlink()
        (tmp_path / f"{one}.nii.gz").rename(tmp_path / "ct.nii.gz")
    shutil.copy(tmp_path / "ct.nii.gz", tmp_path / "who.nii.gz")
    write_series(tmp_path / "ct2", series="1.2.2")
    with pytest.raises(InputError, match=r"who\.nii\.gz: has 2 series it may belong to"):
        build(tmp_path)
    nifti_for(affine + np.eye(4, k=3), tmp_path / "who.nii.gz", blobs(0))
    assert sum(case.label is not None for case in build(tmp_path).cases) == 1  # it may be anything
    (tmp_path / "who.nii.gz").rename(tmp_path / "who_seg.nii.gz")
    with pytest.raises(InputError, match=r"who_seg\.nii\.gz: has no series it belongs to"):
        build(tmp_path)
    (tmp_path / "who_seg.nii.gz").write_bytes(b"no NIfTI")
    with pytest.raises(InputError, match=r"who_seg\.nii\.gz: expected a whole NIfTI file"):
        build(tmp_path)
    (tmp_path / "who_seg.nii.gz").unlink()
    seg_for(tmp_path / "ct", tmp_path / "seg.dcm", blobs(0))
    with pytest.raises(InputError, match=r"has a NIfTI label map and a DICOM SEG .*'label_folder'"):
        build(tmp_path)
    apart = tmp_path.parent / f"{tmp_path.name}_labels"
    apart.mkdir()
    shutil.move(tmp_path / "ct.nii.gz", apart / "ct.nii.gz")
    assert sum(case.label is not None for case in build(tmp_path, label_folder=apart).cases) == 1
    with pytest.raises(InputError, match="got only other DICOM objects: 1 SEG"):
        build(tmp_path / "seg.dcm")


def test_workers_get_the_source_and_look_for_nothing(mixed, monkeypatch: pytest.MonkeyPatch):
    root, *_ = mixed
    source = build(root)

    def again():
        raise AssertionError("the tree is scanned again")

    made = sent(again, source)  # a closure: it could not be sent itself
    monkeypatch.setattr(dicom, "scan", again)
    copy = pickle.loads(pickle.dumps(made))()
    for case in copy.cases:
        np.testing.assert_array_equal(copy.read_image(case).voxels, source.read_image(case).voxels)
        if case.label:
            np.testing.assert_array_equal(copy.read_label(case).voxels, source.read_label(case).voxels)
    assert build(root).cases == source.cases  # the same files: headers are kept


def test_sources_that_cannot_be_sent_are_built_again(kits_root: Path):
    make = partial(plugins.load, "sources", "kits", kits_root)
    assert sent(make, make()) is make


def test_the_layout_is_recognised(mixed):
    root, *_ = mixed
    assert sources.recognise(root) == "dicom"


def test_real_series_with_the_label_map_beside_it(shared_data: Path, tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "ct_dicom").symlink_to(shared_data / "totalsegmentator" / "ct_dicom")
    (root / "ct_dicom_segmentation.nii.gz").symlink_to(
        shared_data / "totalsegmentator" / "ct_dicom_segmentation.nii.gz"
    )
    others = tuple(v for v in range(118) if v != 5)
    source = build(root, task="organ", labels={"background": others, "liver": 5})
    (case,) = source.cases
    stored = np.asanyarray(nib.load(case.label[0]).dataobj)
    label = source.read_label(case)
    np.testing.assert_array_equal(label.voxels[:, ::-1] > 0, stored == 5)  # the converter turned the rows around
    source.read_image(case).require_same_grid(label, "label")


def test_dcmqis_objects_are_a_source(shared_data: Path):
    source = build(shared_data / "dcmqi_ct", task="organ", organ="liver", tumor_value=None)
    (case,) = source.cases
    assert case.label == (shared_data / "dcmqi_ct" / "liver_seg.dcm",)
    assert source.read_label(case).voxels.sum() > 1000

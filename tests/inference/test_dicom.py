"""`hlfd predict` on DICOM: NIfTI and SEG lie where the image does, and nobody is named."""

import json
import shutil
import zipfile
from pathlib import Path
from zipfile import ZipFile

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from dicom_files import ID, NAME, ct_affine, write_enhanced, write_series
from hlfd.data.preprocess import Preprocess
from hlfd.io import dicom, nifti

HU = 49.5  # between two whole HU: no voxel is a tie
SHAPE = (20, 18, 9)
MR = "1.2.840.10008.5.1.4.1.1.4"
TURN = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()
GEOMETRIES = {
    "plain": ct_affine(),
    "flipped": ct_affine(turn=np.diag([-1.0, 1, -1])),
    "oblique": ct_affine(turn=TURN),
    "sagittal": ct_affine((0.8, 0.7, 3), turn=np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])),
    "reordered": ct_affine() @ np.diag([1, 1, -1, 1.0]),
    "tilted": ct_affine((0.8, 0.7, 3), tilt_degrees=14),
}


def scene(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return np.rint(smooth / smooth.std() * 300).astype(np.int16)


@pytest.fixture
def model(threshold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for a model folder: its network calls a tumour what is above `HU`."""
    segmenter = threshold(Preprocess(window_hu=(-200.0, 300.0)), HU)
    monkeypatch.setattr("hlfd.cli.use._load", lambda path, threads: segmenter)
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def points_of_seg(path: Path) -> np.ndarray:
    """World positions (RAS+) of a SEG's voxels, frame by frame from the headers, with pydicom alone."""
    data = pydicom.dcmread(path)
    (shared,) = data.SharedFunctionalGroupsSequence
    found: list[np.ndarray] = []
    for frame, own in zip(
        data.pixel_array.reshape(-1, data.Rows, data.Columns), data.PerFrameFunctionalGroupsSequence, strict=True
    ):
        measures = (own if "PixelMeasuresSequence" in own else shared).PixelMeasuresSequence[0]
        plane = (own if "PlaneOrientationSequence" in own else shared).PlaneOrientationSequence[0]
        row, column = np.array(plane.ImageOrientationPatient, float).reshape(2, 3)
        between_rows, between_columns = map(float, measures.PixelSpacing)
        r, c = np.nonzero(frame)
        origin = np.array(own.PlanePositionSequence[0].ImagePositionPatient, float)
        found.append(origin + np.outer(c * between_columns, row) + np.outer(r * between_rows, column))
    return np.concatenate(found) * (-1, -1, 1)


def points_of_nifti(path: Path) -> np.ndarray:
    image = nib.load(path)
    return nib.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj)))


def nobody_is_named(*texts: str) -> None:
    for text in texts:
        for word in (*NAME.split("^"), ID, "19700101", "patient_folder"):
            assert word.lower() not in text.lower()


@pytest.mark.parametrize("kind", ["single", "multi"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_label_map_and_seg_lie_where_the_image_lies(hlfd, model: Path, tmp_path: Path, geometry: str, kind: str):
    source, out, affine, hu = tmp_path / "patient_folder", tmp_path / "out", GEOMETRIES[geometry], scene()
    if kind == "single":
        write_series(source, hu, affine)
    else:
        write_enhanced(source / "one.dcm", hu, affine)
    ended = hlfd("predict", "-m", model, "-i", source, "-o", out, "-f", "both", "-s", "--report", tmp_path / "r.json")
    assert ended.code == 0, ended.err
    (series,) = dicom.list_series(source)
    assert sorted(p.name for p in out.iterdir()) == [f"{series.key}.{s}" for s in ("dcm", "json", "nii.gz")]
    labels = nifti.read_label(out / f"{series.key}.nii.gz")
    image = dicom.read_series(source).volume
    image.require_same_grid(labels, "labels")
    np.testing.assert_array_equal(labels.voxels, image.voxels > HU)
    expected = nib.affines.apply_affine(affine, np.argwhere(hu > HU))
    for points in (points_of_seg(out / f"{series.key}.dcm"), points_of_nifti(out / f"{series.key}.nii.gz")):
        assert len(points) == len(expected)
        np.testing.assert_allclose(points.mean(0), expected.mean(0), atol=0.01)
        np.testing.assert_allclose(np.sort(points @ TURN, 0), np.sort(expected @ TURN, 0), atol=0.02)
    segmentation = dicom.read_seg(out / f"{series.key}.dcm", image)
    assert [segment.label for segment in segmentation.segments] == ["tumor"]
    figures = json.loads((out / f"{series.key}.json").read_text())
    assert figures["regions"]["tumor"]["volume_ml"] == pytest.approx(
        len(expected) * abs(np.linalg.det(affine[:3, :3])) / 1000
    )
    nobody_is_named((tmp_path / "r.json").read_text(), (out / f"{series.key}.json").read_text(), ended.err)
    nobody_is_named(*(str(Path(line).name) for line in ended.out.split()))
    assert ("warning: " in ended.err and "gantry tilt" in ended.err) == (geometry == "tilted")


def test_organ_and_tumor_are_segments_of_one_seg(hlfd, threshold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each by its code, where the NIfTI has it; a voxel is of one segment."""
    segmenter = threshold(Preprocess(window_hu=(-200.0, 300.0)), 149.5, organ_hu=HU)
    monkeypatch.setattr("hlfd.cli.use._load", lambda path, threads: segmenter)
    (tmp_path / "model").mkdir()
    write_series(tmp_path / "in", scene(), GEOMETRIES["oblique"])
    ended = hlfd("predict", "-m", tmp_path / "model", "-i", tmp_path / "in", "-o", tmp_path / "out", "-f", "both")
    assert ended.code == 0, ended.err
    (seg,), (label_map,) = (tmp_path / "out").glob("*.dcm"), (tmp_path / "out").glob("*.nii.gz")
    image, labels = dicom.read_series(tmp_path / "in").volume, nifti.read_label(label_map)
    np.testing.assert_array_equal(labels.voxels, (image.voxels > HU).astype(int) + (image.voxels > 149.5))
    read = highdicom.seg.segread(seg)
    codes = {n: read.get_segment_description(n) for n in read.segment_numbers}
    assert [(d.segment_label, d.segmented_property_type.meaning) for d in codes.values()] == [
        ("kidney", "Kidney"),
        ("tumor", "Neoplasm"),
    ]
    found = dicom.read_seg(seg, image)
    assert [segment.label for segment in found.segments] == ["kidney", "tumor"]
    for number in codes:
        volume = read.get_volume(segment_numbers=[number])
        voxels = np.argwhere(np.asarray(volume.array)[..., 0])
        there = nib.affines.apply_affine(np.diag([-1.0, -1, 1, 1]) @ volume.affine, voxels)
        here = nib.affines.apply_affine(labels.affine, np.argwhere(labels.voxels == number))
        assert len(there) == len(here) > 50
        np.testing.assert_allclose(there.mean(0), here.mean(0), atol=0.1)


def test_folders_and_zips_of_series_in_one_folder(hlfd, model: Path, tmp_path: Path):
    root = tmp_path / "in"
    for number, folder in enumerate(("a", "b/deeper")):
        write_series(root / folder, scene(number), series=f"1.2.3.{number}", study=f"1.{number}")
    write_series(tmp_path / "zipped", scene(2), series="1.2.3.2")
    with zipfile.ZipFile(root / "c.zip", "w") as archive:
        for path in (tmp_path / "zipped").iterdir():
            archive.write(path, path.name)
    nib.save(nib.Nifti1Image(scene(3), np.eye(4)), root / "plain.nii.gz")
    ended = hlfd("predict", "-m", model, "-i", root, "-o", tmp_path / "out")
    assert ended.code == 0, ended.err
    keys = [dicom.list_series(path)[0].key for path in (root / "a", root / "b", tmp_path / "zipped")]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(f"{n}.nii.gz" for n in (*keys, "plain"))
    again = hlfd("predict", "-m", model, "-i", root, "-o", tmp_path / "out", "--continue")
    assert (again.code, again.out) == (0, "")


def test_several_series(hlfd, model: Path, tmp_path: Path):
    for number in (1, 2):
        write_series(tmp_path / "in", scene(number), series=f"1.2.3.{number}", name=f"{number}-{{n}}.dcm")
    keys = [series.key for series in dicom.list_series(tmp_path / "in")]
    ended = hlfd("predict", "-m", model, "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert ended.code == 2
    assert "expected one CT series, got 2" in ended.err and all(key in ended.err for key in keys)
    assert hlfd("predict", "-m", model, "-i", tmp_path / "in", "-o", tmp_path / "out", "--series", keys[1]).code == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == [f"{keys[1]}.nii.gz"]
    assert hlfd("predict", "-m", model, "-i", tmp_path / "in", "-o", tmp_path / "all", "--series", "all").code == 0
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == sorted(f"{key}.nii.gz" for key in keys)


def test_all_series_of_a_folder_with_a_broken_one_in_it(hlfd, model: Path, tmp_path: Path):
    for number in (1, 2):
        write_series(tmp_path / "in" / "a", scene(number), series=f"1.2.3.{number}", name=f"{number}-{{n}}.dcm")
    write_series(tmp_path / "in" / "b", scene(3), series="1.2.3.3", Modality="MR", SOPClassUID=MR)
    (tmp_path / "in" / "c").mkdir()
    (tmp_path / "in" / "c" / "lost.dcm").symlink_to(tmp_path / "nowhere.dcm")
    (tmp_path / "in" / "d").mkdir()
    (tmp_path / "in" / "d" / "lost").symlink_to(tmp_path / "nowhere")
    ended = hlfd("predict", "-m", model, "-i", tmp_path / "in", "-o", tmp_path / "out", "--series", "all")
    assert ended.code == 1
    assert len(list((tmp_path / "out").iterdir())) == 2
    said = [line for line in ended.err.splitlines() if line.startswith("hlfd: ")]
    assert "passed over" in said[0] and said[0].endswith(": c, d")
    assert f"{tmp_path / 'in' / 'b'}: expected a CT series, got only other DICOM objects" in said[1]
    assert "1 of 3 images failed" in said[-1]


def test_dicom_and_nifti_in_one_folder(hlfd, model: Path, tmp_path: Path):
    """Both are taken; in a folder of a folder, which is one image, the series is, and the rest is said."""
    write_series(tmp_path / "in", scene(), series="1.2.3.1")
    nib.save(nib.Nifti1Image(scene(1), np.eye(4)), tmp_path / "in" / "plain.nii.gz")
    series = dicom.list_series(tmp_path / "in")[0].key
    ended = hlfd("predict", "-m", model, "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([f"{series}.nii.gz", "plain.nii.gz"])
    (tmp_path / "root").mkdir()
    (tmp_path / "in").rename(tmp_path / "root" / "a")
    ended = hlfd("predict", "-m", model, "-i", tmp_path / "root", "-o", tmp_path / "one")
    assert ended.code == 0, ended.err
    assert [p.name for p in (tmp_path / "one").iterdir()] == [f"{series}.nii.gz"]
    assert "several in a folder: a/plain.nii.gz" in ended.err


def test_one_series_twice(hlfd, model: Path, tmp_path: Path):
    write_series(tmp_path / "in" / "a", scene())
    shutil.copytree(tmp_path / "in" / "a", tmp_path / "in" / "b")
    ended = hlfd("predict", "-m", model, "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert ended.code == 1
    assert "is there twice: the same series or file in another input" in ended.err


@pytest.mark.parametrize(
    ("tags", "skip", "words"),
    [
        ({}, (4,), "1 missing slice: 5.00 mm between"),
        ({"Modality": "MR", "SOPClassUID": MR}, (), "expected a CT series, got only other"),
    ],
)
def test_a_series_that_can_not_be_used(hlfd, model: Path, tmp_path: Path, tags, skip, words):
    write_series(tmp_path / "in", scene(), skip=skip, **tags)
    ended = hlfd("predict", "-m", model, "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert ended.code == 2
    assert words in ended.err.splitlines()[-1]
    nobody_is_named(ended.err)
    assert not list((tmp_path / "out").iterdir())


def test_with_hashed_names_nothing_tells_of_files_and_folders(hlfd, model: Path, tmp_path: Path, monkeypatch):
    """Folders and files called after patients: a reason says which image, and what is wrong with it, without them."""
    source = tmp_path / "patient_folder"
    write_series(source / f"{NAME}_1", scene(), skip=(4,))
    write_series(source / f"{NAME}_2", scene())
    (source / f"{ID}.nii.gz").write_bytes(b"no image")
    (source / f"{ID}.txt").write_text("a note")
    damaged = min((source / f"{NAME}_2").iterdir())
    damaged.rename(damaged.with_name(f"{ID}.dcm")).write_bytes(damaged.with_name(f"{ID}.dcm").read_bytes()[:900])
    command = ("predict", "-m", model, "-o", tmp_path / "out", "--hashed-names")
    ended = hlfd(*command, "-i", source)
    nobody_is_named(ended.out, ended.err)
    reasons = [line for line in ended.err.splitlines() if " of 3: " in line]
    for number, (line, word) in enumerate(zip(reasons, ("NIfTI", "missing slice", "cut off"), strict=True), 1):
        assert line.startswith(f"hlfd: image {number} of 3: ") and word in line
    (tmp_path / "patient_folder2").mkdir()
    write_series(tmp_path / "elsewhere" / NAME, scene())
    first = min((tmp_path / "elsewhere" / NAME).iterdir())
    first.write_bytes(first.read_bytes()[:900])
    (tmp_path / "patient_folder2" / "link").symlink_to(tmp_path / "elsewhere")
    with ZipFile(tmp_path / "patient_folder2" / "a.zip", "w") as packed:
        for file in (tmp_path / "elsewhere" / NAME).iterdir():
            packed.write(file, f"{NAME}/{ID}_{file.name}")
    other = hlfd(*command, "-i", tmp_path / "patient_folder2")
    assert other.err.count("cut off") == 2
    nobody_is_named(other.out, other.err)
    monkeypatch.chdir(source / f"{NAME}_1")
    here = hlfd(*command, "-i", ".")
    assert here.err.startswith("hlfd: image 1 of 1: ") and "1 missing slice: 5.00 mm between" in here.err
    nobody_is_named(here.err)
    alone = hlfd(*command, "-i", source / f"{ID}.nii.gz")
    assert alone.code == 2 and alone.err.startswith("hlfd: image 1 of 1: ")
    nobody_is_named(alone.err)


def test_nothing_found_is_a_seg_of_nothing_or_a_plain_word(hlfd, model: Path, tmp_path: Path):
    write_series(tmp_path / "in", np.full(SHAPE, -1000, np.int16) + np.arange(9, dtype=np.int16))
    ended = hlfd("predict", "-m", model, "-i", tmp_path / "in", "-o", tmp_path / "labels.dcm")
    assert ended.code == 0, ended.err
    seg = highdicom.seg.segread(tmp_path / "labels.dcm")
    assert seg.number_of_segments == 1 and not seg.pixel_array.any()


def test_a_real_series(hlfd, model: Path, tmp_path: Path, shared_data: Path):
    source, out = shared_data / "totalsegmentator" / "ct_dicom", tmp_path / "out"
    ended = hlfd("predict", "-m", model, "-i", source, "-o", out, "-f", "both")
    assert ended.code == 0, ended.err
    (seg,), (labels,) = out.glob("*.dcm"), out.glob("*.nii.gz")
    there, here = points_of_seg(seg), points_of_nifti(labels)
    assert len(there) == len(here) > 1000
    np.testing.assert_allclose(there.mean(0), here.mean(0), atol=0.1)
    volume = highdicom.seg.segread(seg).get_volume(segment_numbers=[1])
    affine = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    by_highdicom = nib.affines.apply_affine(affine, np.argwhere(np.asarray(volume.array)[..., 0]))
    assert len(by_highdicom) == len(here)
    np.testing.assert_allclose(by_highdicom.mean(0), here.mean(0), atol=0.1)
    reference = nib.load(shared_data / "totalsegmentator" / "ct_dicom_segmentation.nii.gz")
    low, high = (nib.affines.apply_affine(reference.affine, c) for c in ((0, 0, 0), np.array(reference.shape) - 1))
    assert (here > np.minimum(low, high) - 1).all() and (here < np.maximum(low, high) + 1).all()


def test_a_series_that_speaks_of_hlfd_is_an_image(hlfd, model: Path, tmp_path: Path):
    write_series(tmp_path / "in", scene(), name="IM{n}.dcm", PatientID="hlfd_001", Manufacturer="hlfd")
    assert hlfd("predict", "-m", model, "-i", tmp_path / "in", "-o", tmp_path / "out", "-f", "seg").code == 0
    (seg,) = (tmp_path / "out").iterdir()
    again = hlfd("predict", "-m", model, "-i", tmp_path, "-o", tmp_path / "other", "-f", "both")
    assert again.code == 0, again.err  # out/ is passed over: a SEG of ours
    assert len(again.out.split()) == 2
    assert hlfd("predict", "-m", model, "-i", tmp_path / "in", "-o", seg, "-f", "seg").code == 0
    assert hlfd("predict", "-m", model, "-i", tmp_path / "in", "-o", seg.parent, "-f", "seg").code == 0  # and replaced


def test_a_slice_of_the_input_is_not_overwritten(hlfd, model: Path, tmp_path: Path):
    write_series(tmp_path / "series", scene())
    taken = min((tmp_path / "series").iterdir()).rename(tmp_path / "series" / "a.dcm")
    before = taken.read_bytes()
    ended = hlfd("predict", "-m", model, "-i", tmp_path / "series", "-o", taken)
    assert ended.code == 2
    assert "a.dcm: is an image to segment and would be overwritten" in ended.err
    assert taken.read_bytes() == before

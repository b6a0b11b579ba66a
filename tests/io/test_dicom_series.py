"""DICOM series: found, told apart, put in order; what can't be used is named, who was scanned is not."""

import pickle
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_files import ID, NAME, ct_affine, dataset, phantom_hu, save, write_enhanced, write_series
from hlfd.errors import InputError
from hlfd.io import dicom


def zipped(folder: Path, path: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


def test_a_series_says_what_it_is(tmp_path: Path):
    write_series(tmp_path / "a" / "b")
    (series,) = dicom.list_series(tmp_path)
    assert (series.modality, series.images, series.shape, series.number) == ("CT", 6, (12, 10, 6), 3)
    assert series.spacing_mm == pytest.approx((0.8, 0.7, 2.5))  # SliceThickness says 5
    assert len(series.files) == 6 and all(path.is_file() for path in series.files)
    assert pickle.loads(pickle.dumps(series)).key == series.key
    assert str(series) == f"{series.key} (CT, 6 images, 12 x 10 x 6, 0.8 x 0.7 x 2.5 mm)"
    assert len(series.key) == 8


def test_what_else_lies_in_a_tree_is_set_aside(tmp_path: Path):
    hu, affine = write_series(tmp_path / "ct")
    extra = tmp_path / "more"
    save(dataset(hu, affine, 0, Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), extra / "mr")
    save(dataset(hu, affine, 0, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), extra / "screenshot")
    save(dataset(hu, affine, 0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="1.9"), extra / "a")
    save(dataset(hu, affine, 0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path / "ct" / "scout")
    save(dataset(hu, affine, 0, SOPClassUID="1.2.840.10008.1.3.10"), tmp_path / "DICOMDIR")
    (extra / "notes.txt").write_text("DICM is mentioned here " * 20)
    (extra / "empty").touch()
    (extra / "._IM1.dcm").write_bytes(b"left by a file manager")
    tree = dicom.scan(tmp_path)
    assert [series.images for series in tree.series] == [6]
    assert tree.aside == {"MR": 1, "CT that is no CT image": 1, "localizer": 2}
    assert not tree.damaged
    found = dicom.findings(tmp_path)
    assert [finding.code for finding in found if not finding.error] == ["instance-order"] + ["set-aside"] * 3
    with pytest.raises(
        InputError, match="expected a CT series, got only other DICOM objects: 1 CT that is no CT image, 1"
    ):
        dicom.list_series(extra)


@pytest.mark.parametrize("what", ["nothing", "empty", "text"])
def test_a_path_without_dicom(tmp_path: Path, what: str):
    path = tmp_path / what
    if what == "empty":
        path.mkdir()
    elif what == "text":
        path.write_text("no image")
    with pytest.raises(InputError, match=rf"{what}: (no such file or folder|expected DICOM files of a CT series)"):
        dicom.list_series(path)


def test_several_series_are_listed_and_one_is_chosen(tmp_path: Path):
    first, _ = write_series(tmp_path / "a", series="1.2.840.1", seed=1)
    second, _ = write_series(tmp_path / "a", phantom_hu((8, 9, 3), 2), series="1.2.840.2", name="J{n}", SeriesNumber=7)
    found = {series.images: series for series in dicom.list_series(tmp_path)}
    with pytest.raises(InputError, match="expected one CT series, got 2; choose one by its key: ") as caught:
        dicom.read_series(tmp_path)
    assert all(str(series) in str(caught.value) for series in found.values())
    for images, hu, names in ((6, first, ("1.2.840.1", "3")), (3, second, ("1.2.840.2", "7"))):
        for name in (found[images].key, *names):
            np.testing.assert_array_equal(dicom.read_series(tmp_path, name).volume.voxels, hu)
    with pytest.raises(InputError, match="holds no series 'zzz'; there are"):
        dicom.read_series(tmp_path, "zzz")
    assert "several-series" in {finding.code for finding in dicom.findings(tmp_path)}


def test_two_stacks_under_one_uid_are_two_series(tmp_path: Path):
    turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    axial, _ = write_series(tmp_path, seed=1)
    coronal, _ = write_series(tmp_path, phantom_hu((12, 10, 4), 2), ct_affine(turn=turn), name="C{n}")
    late, _ = write_series(tmp_path, phantom_hu((12, 10, 6), 3), name="T{n}", change=_second_acquisition)
    found = dicom.list_series(tmp_path)
    assert sorted((series.images, series.key[8:]) for series in found) == [(4, "-3"), (6, "-1"), (6, "-2")]
    assert len({series.key[:8] for series in found}) == 1
    read = [dicom.read_series(tmp_path, series.key).volume.voxels for series in sorted(found, key=lambda s: s.key)]
    for expected, got in zip((axial, late, coronal), read, strict=True):
        np.testing.assert_array_equal(got, expected)


def _second_acquisition(data, k):
    data.AcquisitionNumber = 2
    data.SOPInstanceUID = f"1.2.3.44.{k}"
    if data.Rows == 10 and data.get("ImageOrientationPatient")[0] == 0:
        data.SOPInstanceUID = f"1.2.3.55.{k}"


def test_the_same_files_twice_are_read_once(tmp_path: Path):
    hu, _ = write_series(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    zipped(tmp_path / "a", tmp_path / "c.zip")
    image = dicom.read_series(tmp_path)
    np.testing.assert_array_equal(image.volume.voxels, hu)
    assert [f.text for f in dicom.findings(tmp_path) if f.code == "copies"] == [
        "12 slices are there twice: one of each is read"
    ]


def test_patients_are_told_apart_by_id_or_study(tmp_path: Path):
    for n, (patient, study) in enumerate(
        [("A", "1.1"), ("A", "1.2"), ("B", "1.3"), ("", "1.4"), ("", "1.4"), ("", "")]
    ):

        def change(data, k, patient=patient, study=study):
            data.PatientID, data.StudyInstanceUID = patient, study
            data.FrameOfReferenceUID = study

        write_series(tmp_path / str(n), phantom_hu((4, 4, 2)), series=f"1.9.{n}", change=change)
    found = {n: dicom.list_series(tmp_path / str(n))[0].patient for n in range(6)}
    assert found[0] == found[1] and found[3] == found[4]
    assert len(set(found.values())) == 4


def test_images_stripped_of_their_uids(tmp_path: Path):
    def strip(data, k):
        data.SeriesInstanceUID = data.StudyInstanceUID = data.PatientID = ""

    first, _ = write_series(tmp_path / "a", series="1.2.1", change=strip)
    _second, _ = write_series(tmp_path / "b", series="1.2.2", seed=1, change=strip)
    a, b = dicom.list_series(tmp_path)
    assert a.key != b.key
    assert a.patient == b.patient  # one frame of reference
    np.testing.assert_array_equal(dicom.read_series(tmp_path / "a").volume.voxels, first)
    assert dicom.read_series(tmp_path / "b").series.key in (a.key, b.key)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_reads_as_its_folder(tmp_path: Path, compression: int):
    hu, affine = write_series(tmp_path / "a" / "deep")
    path = zipped(tmp_path / "a", tmp_path / "scan.zip", compression)
    image = dicom.read_series(path)
    np.testing.assert_array_equal(image.volume.voxels, hu)
    np.testing.assert_allclose(image.volume.affine, affine, atol=1e-5)
    assert image.series.files == (path,)
    assert image.series.key == dicom.list_series(tmp_path / "a")[0].key
    renamed = path.rename(tmp_path / "scan")  # by content, not by name
    assert dicom.read_series(renamed).series.images == 6


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/out", "C:/out", "..\\out"])
def test_a_zip_that_climbs_out(tmp_path: Path, name: str):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(InputError, match=r"bad\.zip: expected members inside the zip's own folder, one is named"):
        dicom.scan(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_zip_that_claims_too_much(tmp_path: Path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"\0" * 1000)
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\1\2") + 24  # uncompressed size in the directory
    data[at : at + 4] = (3 * 2**30).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"bomb\.zip: 0\.0 MiB claim to hold 3 GiB, refused above 200 times"):
        dicom.scan(path)


def test_a_damaged_zip(tmp_path: Path):
    write_series(tmp_path / "a")
    path = zipped(tmp_path / "a", tmp_path / "cut.zip")
    path.write_bytes(path.read_bytes()[:-40])
    (tmp_path / "a" / "x.zip").write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"x\.zip: expected a whole zip"):
        dicom.scan(tmp_path / "a")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(sorted((tmp_path / "a").glob("IM*"))[0], "one")
    data = bytearray(path.read_bytes())
    data[-200] ^= 0xFF  # in the pixels
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"cut\.zip/one can't be read"):
        dicom.read_series(path)


REFUSED = [
    ({"skip": (3,)}, "1 missing slice: 5.00 mm between .*IM.* and .*IM.*, 2.50 mm elsewhere"),
    ({"skip": (2, 3)}, "2 missing slices: 7.50 mm between"),
    ({"ImagePositionPatient": [0, 0, 0]}, r"expected one slice at each position, .*IM.* share theirs \(5 such pairs\)"),
    ({"ImagePositionPatient": None}, "expected ImagePositionPatient in every slice, .*IM.* has none"),
    ({"PixelSpacing": None}, "expected PixelSpacing in every slice, .*IM.* has none"),
    ({"PixelSpacing": [0.5, -0.5]}, "expected a positive PixelSpacing"),
    ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "expected ImageOrientationPatient with two perpendicular"),
    ({"RescaleSlope": None}, "IM.* has no RescaleSlope and RescaleIntercept: its values are not known to be HU"),
    ({"RescaleType": "Z_EFF"}, "expected values in HU, .*IM.* has RescaleType Z_EFF"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_is_refused(tmp_path: Path, options: dict, message: str):
    write_series(tmp_path, **options)
    (series,) = dicom.list_series(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        dicom.read_series(tmp_path)
    assert "\n" not in str(caught.value)
    assert next(f for f in dicom.findings(tmp_path) if f.error).series == series.key


def test_slices_off_the_grid(tmp_path: Path):
    def shift(by, axis):
        def change(data, k):
            position = list(data.ImagePositionPatient)
            position[axis] += by * (k == 2)
            data.ImagePositionPatient = position

        return change

    write_series(tmp_path / "uneven", change=shift(0.9, 2))
    with pytest.raises(InputError, match=r"expected equal distances between slices, got 1\.60 to 3\.40 mm"):
        dicom.read_series(tmp_path / "uneven")
    write_series(tmp_path / "aside", change=shift(0.9, 0))
    with pytest.raises(InputError, match=r"IM.* lies 0\.90 mm off the line of the others"):
        dicom.read_series(tmp_path / "aside")
    write_series(tmp_path / "rounded", change=shift(0.04, 2))
    assert dicom.read_series(tmp_path / "rounded").volume.shape == (12, 10, 6)


def test_processes_read_the_headers_of_a_large_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for n in range(3):
        write_series(tmp_path / f"{n}", series=f"1.2.{n}", study=f"1.3.{n}", PatientID=f"P{n}")
    (tmp_path / "0" / "notes.txt").write_text("no DICOM")
    alone, counted = dicom.scan(tmp_path), []
    monkeypatch.setattr("hlfd.io.dicom.series.MANY", 16)  # parts of two files
    together = dicom.scan(tmp_path, lambda steps=1: counted.append(steps), workers=2)
    assert sum(counted) == len(dicom.items(tmp_path)) and max(counted) == 2
    assert [s.key for s in together.series] == [s.key for s in alone.series] and len(alone.series) == 3
    for one, other in zip(together.series, alone.series, strict=True):
        assert one.files == other.files and one.shape == other.shape
        np.testing.assert_array_equal(one.affine, other.affine)


def test_many_files_and_one_that_is_corrupt(tmp_path: Path):
    write_series(tmp_path, phantom_hu((6, 5, 300)), ct_affine((1, 1, 1)))
    bad = dicom.list_series(tmp_path)[0].files[217]
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-10])
    with pytest.raises(InputError, match=f"{bad}: expected whole pixel data, they can't be decoded"):
        dicom.read_series(tmp_path)
    bad.write_bytes(whole[:300])
    with pytest.raises(InputError, match=f"{bad} ends before its pixels, among the series' files"):
        dicom.read_series(tmp_path)


CT_IMAGE, CAPTURE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7"
REPORT, OTHER_REPORT = "1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.88.33"


def test_a_damaged_file_at_the_end_of_the_stack_is_no_shorter_series(tmp_path: Path):
    write_series(tmp_path, name="IM{n}.dcm")
    last = dicom.list_series(tmp_path)[0].files[-1]
    whole = last.read_bytes()
    for content in (b"", whole[:200], whole[:400], b"text" * 100):
        last.write_bytes(content)
        with pytest.raises(InputError, match=f"{last} (is|has|ends) .*, among the series' files"):
            dicom.read_series(tmp_path)


@pytest.mark.parametrize("name", ["IM{n:04}.dcm", "IM{n:04}", "CT.1.2.840.{n}", "{n:08x}"])
def test_wherever_the_last_slice_is_cut_it_is_named(tmp_path: Path, name: str):
    write_series(tmp_path, phantom_hu((12, 10, 3)), name=name)
    last = dicom.list_series(tmp_path)[0].files[-1]
    whole = last.read_bytes()
    for end in range(0, len(whole), 13):
        last.write_bytes(whole[:end])
        if end < len(whole) - 12:  # tag and length of the pixels
            assert any(f.error and str(last) in f.text for f in dicom.findings(tmp_path))
        with pytest.raises(InputError, match=re.escape(str(last))):
            dicom.read_series(tmp_path)
    for content in (bytes(len(whole)), np.random.default_rng(0).bytes(len(whole))):
        last.write_bytes(content)
        with pytest.raises(InputError, match=re.escape(str(last))):
            dicom.read_series(tmp_path)


@pytest.mark.parametrize("tags", [{"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, {"Modality": None}])
def test_a_slice_whose_header_contradicts_itself_is_not_set_aside(tmp_path: Path, tags: dict):
    hu, affine = write_series(tmp_path, skip=(5,))
    path = save(dataset(hu, affine, 5), tmp_path / "last")
    data = pydicom.dcmread(path)
    for tag, value in tags.items():
        setattr(data, tag, value) if value else delattr(data, tag)
    pydicom.dcmwrite(path, data, enforce_file_format=False)
    with pytest.raises(InputError, match=r"last (says that it is two kinds of object|has no Modality), among"):
        dicom.read_series(tmp_path)


def test_what_lies_among_slices_and_is_none(tmp_path: Path):
    write_series(tmp_path, name="IM{n:04}")
    for name in ("README", "LICENSE", "VERSION", "IM0001.txt", "IM0002.nii.gz"):
        (tmp_path / name).write_text("no image")
    for name in ("done.txt", "DONE", "_SUCCESS", "LOCKFILE", "Icon\r"):
        (tmp_path / name).touch()
    assert not dicom.scan(tmp_path).damaged
    assert dicom.read_series(tmp_path).series.images == 6
    (tmp_path / "IM0999").write_bytes(bytes(500))
    with pytest.raises(InputError, match=r"IM0999 is empty or begins with zeros, among the series' files"):
        dicom.read_series(tmp_path)


@pytest.mark.parametrize(
    ("stored_as", "tags"),
    [
        (CT_IMAGE, {"SOPClassUID": CAPTURE, "Modality": "MR"}),  # what the file's head says of others doesn't count
        (OTHER_REPORT, {"SOPClassUID": REPORT, "Modality": "SR"}),
        (CAPTURE, {"SOPClassUID": CAPTURE, "Modality": None}),
        (CT_IMAGE, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "PixelData": None}),
    ],
)
def test_other_objects_among_slices_do_no_harm(tmp_path: Path, stored_as: str, tags: dict):
    hu, affine = write_series(tmp_path)
    path = save(dataset(hu, affine, 0), tmp_path / "other.dcm")
    data = pydicom.dcmread(path)
    data.file_meta.MediaStorageSOPClassUID = stored_as
    for tag, value in tags.items():
        setattr(data, tag, value) if value else delattr(data, tag)
    pydicom.dcmwrite(path, data, enforce_file_format=False)
    assert dicom.read_series(tmp_path).series.images == 6


@pytest.mark.parametrize("stored_as", [CAPTURE, "1.2.3"])
def test_slices_are_what_their_data_set_says(tmp_path: Path, stored_as: str):
    """Anonymisers and scripts leave another class in the head of the file."""
    hu, _ = write_series(tmp_path)
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        data.file_meta.MediaStorageSOPClassUID = stored_as
        pydicom.dcmwrite(path, data, enforce_file_format=False)
    assert dicom.read_series(tmp_path).volume.shape == hu.shape


def test_a_file_that_went_away(tmp_path: Path):
    write_series(tmp_path)
    (series,) = dicom.list_series(tmp_path)
    series.files[2].unlink()
    with pytest.raises(InputError, match=rf"{series.files[2]}: can't be read: No such file or directory"):
        dicom.read_volume(series)


def test_a_claim_of_an_enormous_size(tmp_path: Path):
    write_series(tmp_path / "a", Rows=16000, Columns=16000)
    with pytest.raises(InputError, match=r"is cut off: expected 512000000 bytes of pixels, got 2\d\d$"):
        dicom.read_series(tmp_path / "a")
    write_series(tmp_path / "b", phantom_hu((16, 16, 2)), syntax="1.2.840.10008.1.2.5", Rows=16)
    for path in (tmp_path / "b").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\x28\0\x10\0US\2\0\x10\0", b"\x28\0\x10\0US\2\0\xff\xff"))
        path.write_bytes(path.read_bytes().replace(b"\x28\0\x11\0US\2\0\x10\0", b"\x28\0\x11\0US\2\0\xff\xff"))
    with pytest.raises(InputError, match=r"claims 65535 x 65535 pixels, refused above 16384 a side"):
        dicom.read_series(tmp_path / "b")


@pytest.mark.parametrize(("syntax", "ratio"), [("1.2.840.10008.1.2.5", 64), ("1.2.840.10008.1.2.1.99", 1032)])
def test_no_compression_holds_that_much(tmp_path: Path, syntax: str, ratio: int):
    write_series(tmp_path / "a", np.zeros((512, 512, 2), np.int16), syntax=syntax)
    assert dicom.read_series(tmp_path / "a").volume.voxels.max() == 0
    write_series(tmp_path / "b", phantom_hu((16, 16, 2)), syntax=syntax)
    for path in (tmp_path / "b").iterdir():
        data = pydicom.dcmread(path)
        data.Rows = data.Columns = 15000
        data.save_as(path)
    with pytest.raises(InputError, match=f"is cut off: expected {15000 * 15000 * 2 // ratio} bytes of pixels, got"):
        dicom.read_series(tmp_path / "b")


def write_in(folder: Path, old: bytes, new: bytes) -> list[Path]:
    """A series with something written over in each file."""
    write_series(folder, series="1.2.826.77.1", study="1.2.826.77")
    for path in folder.iterdir():
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))
    return list(folder.iterdir())


def test_a_tilt_that_only_the_header_knows(tmp_path: Path):
    _, affine = write_series(tmp_path, GantryDetectorTilt=12.5)
    np.testing.assert_allclose(dicom.read_series(tmp_path).volume.affine, affine, atol=1e-5)
    (finding,) = [f for f in dicom.findings(tmp_path) if f.code == "gantry-tilt"]
    assert finding.text == "GantryDetectorTilt says 12.5 degrees, the positions show none: positions count"


def test_a_claim_of_millions_of_frames(tmp_path: Path):
    write_series(tmp_path, name="IM{n}.dcm", NumberOfFrames=2**31 - 1)
    with pytest.raises(InputError, match=r"IM0\.dcm has a damaged header"):
        dicom.read_series(tmp_path)


def test_nobody_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    uids = ("1.2.826.77.1", "1.2.826.77.2")
    for n, uid in enumerate(uids):
        write_series(tmp_path / "x", series=uid, study="1.2.826.77", seed=n, name=f"{n}_{{n}}")
    write_series(tmp_path / "gap", series=uids[0], skip=(3,), study="1.2.826.77")
    write_series(tmp_path / "odd", series=uids[0], study="1.2.826.77", SeriesDescription=NAME, StationName=NAME)
    write_series(tmp_path / "worse", series=uids[0], study="1.2.826.77", RescaleType=NAME)
    for path in write_in(tmp_path / "wrong", b"DS\x04\x005.0 ", b"DS\x04\x00Doe^"):
        assert b"Doe^" in path.read_bytes()
    write_enhanced(tmp_path / "multi" / "one.dcm", series="1.2.826.77.5")
    said = [repr(dicom.list_series(tmp_path)), repr(dicom.findings(tmp_path)), repr(dicom.findings(tmp_path / "gap"))]
    asked = [(name, None) for name in ("x", "gap", "worse", "wrong")] + [("x", "1.2.826.77.4")]
    for path, series in ((tmp_path / name, series) for name, series in asked):
        with pytest.raises(InputError) as caught:
            dicom.read_series(path, series)
        said.append(str(caught.value))
    image = dicom.read_series(tmp_path / "odd")
    said += [repr(image), repr(image.series), str(image.series), repr(image.series.frames), *capfd.readouterr()]
    said += [record.getMessage() for record in caplog.records]
    for secret in ("Doe", "Jane", ID, "1.2.826.77", "19700101"):
        assert not [text for text in said if secret in text]


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    write_series(tmp_path)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"^DICOM needs pydicom, which is not installed: pip install hlfd\[dicom\]$"):
        dicom.read_series(tmp_path)

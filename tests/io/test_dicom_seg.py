"""DICOM SEG: written and read back by us, by highdicom and by plain pydicom the way dcmqi does it."""

from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy.spatial.transform import Rotation

from dicom_files import ID, ct_affine, phantom_hu, write_enhanced, write_series
from hlfd.errors import InputError
from hlfd.io import dicom
from hlfd.io.dicom import codes
from hlfd.volume import Volume

LPS = np.diag([-1.0, -1, 1, 1])
NAMES = ("kidney", "tumor")


def centroid_mm(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """World position (RAS+) of the middle of a mask."""
    return (affine @ [*np.argwhere(mask).mean(axis=0), 1])[:3]


def by_pydicom(path: Path) -> dict[int, tuple[int, np.ndarray]]:
    """Voxels and centroid (RAS+) of each segment, frame by frame from positions: dcmqi's way, with pydicom alone."""
    data = pydicom.dcmread(path)
    frames = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    (shared,) = data.SharedFunctionalGroupsSequence
    points: dict[int, list[np.ndarray]] = {int(s.SegmentNumber): [] for s in data.SegmentSequence}
    for frame, own in zip(frames, data.PerFrameFunctionalGroupsSequence, strict=True):

        def group(name, own=own):
            return own[name][0] if name in own else shared[name][0]

        spacing = [float(x) for x in group("PixelMeasuresSequence").PixelSpacing]
        row, column = np.array(group("PlaneOrientationSequence").ImageOrientationPatient, float).reshape(2, 3)
        origin = np.array(group("PlanePositionSequence").ImagePositionPatient, float)
        number = int(group("SegmentIdentificationSequence").ReferencedSegmentNumber)
        r, c = np.nonzero(frame)
        points[number].append(origin + np.outer(c * spacing[1], row) + np.outer(r * spacing[0], column))
    joined = {number: np.concatenate(found) for number, found in points.items()}
    return {number: (len(found), found.mean(axis=0) * (-1, -1, 1)) for number, found in joined.items()}


def blobs(shape: tuple[int, int, int]) -> np.ndarray:
    """Two lopsided classes; the first and the last slice are empty."""
    labels = np.zeros(shape, dtype=np.uint8)
    labels[2:9, 1:6, 1:4] = 1
    labels[7:, 3:8, 2:-1] = 2
    labels[3, 2, 3] = 2
    return labels


ODD = phantom_hu((13, 11, 6))  # a frame of one-bit pixels ends within a byte
TURN = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()
FLIP = np.diag([-1.0, 1, -1])
GEOMETRIES = {
    "plain": ct_affine(),
    "flipped": ct_affine(turn=FLIP),
    "oblique": ct_affine(turn=TURN),
    "sagittal": ct_affine((0.8, 0.7, 3), turn=np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])),
    "reordered": ct_affine() @ np.diag([1, 1, -1, 1.0]),
    "tilted": ct_affine((0.8, 0.7, 3), tilt_degrees=14),
}


@pytest.mark.parametrize("kind", ["single", "multi"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_round_trip_on_any_geometry(tmp_path: Path, geometry: str, kind: str):
    affine = GEOMETRIES[geometry]
    if kind == "single":
        write_series(tmp_path / "ct", ODD, affine)
    else:
        write_enhanced(tmp_path / "ct" / "one.dcm", ODD, affine)
    image = dicom.read_series(tmp_path / "ct")
    labels = image.volume.like(blobs(image.volume.shape))
    path = dicom.write_seg(tmp_path / "out" / "seg.dcm", labels, image, NAMES)
    assert [p.name for p in path.parent.iterdir()] == ["seg.dcm"]

    back = dicom.read_seg(path, image.volume)
    np.testing.assert_array_equal(back.labels({1: 1, 2: 2}).voxels, labels.voxels)
    theirs = by_pydicom(path)
    reader = highdicom.seg.segread(path)
    assert list(reader.segment_numbers) == [1, 2]
    for number in (1, 2):
        mask = labels.voxels == number
        assert theirs[number][0] == mask.sum()
        np.testing.assert_allclose(theirs[number][1], centroid_mm(mask, image.volume.affine), atol=0.1)
        # The same label map as NIfTI would be, on another order of axes, is the same place.
        for axcodes in ("RAS", "IPL"):
            turned = labels.oriented(axcodes)
            again = dicom.read_seg(path, turned)
            np.testing.assert_array_equal(again.mask(number), turned.voxels == number)
    if geometry != "tilted":  # highdicom knows no sheared volume
        volume = reader.get_volume(segment_numbers=[1, 2], combine_segments=True, rescale_fractional=False)
        for number in (1, 2):
            found = centroid_mm(np.asarray(volume.array) == number, LPS @ volume.affine)
            expected = centroid_mm(labels.voxels == number, image.volume.affine)
            np.testing.assert_allclose(found, expected, atol=0.1)


def test_liver_of_real_ct_lies_where_its_nifti_lies(tmp_path: Path, shared_data: Path):
    root = shared_data / "totalsegmentator"
    (series,) = dicom.list_series(root / "ct_dicom")
    nifti = nib.load(root / "ct_dicom_segmentation.nii.gz")
    nifti_labels = Volume(np.isin(np.asanyarray(nifti.dataobj), 5).astype(np.uint8), nifti.affine)
    labels = nifti_labels.oriented("LPS")
    path = dicom.write_seg(tmp_path / "seg.dcm", labels, series, ["liver"], algorithm="test", version="3")
    expected = centroid_mm(nifti_labels.voxels > 0, nifti.affine)
    count, found = by_pydicom(path)[1]
    assert count == nifti_labels.voxels.sum() > 1000
    np.testing.assert_allclose(found, expected, atol=0.1)
    volume = highdicom.seg.segread(path).get_volume(segment_numbers=[1])
    np.testing.assert_allclose(
        centroid_mm(np.asarray(volume.array)[..., 0] > 0, LPS @ volume.affine), expected, atol=0.1
    )
    grid = Volume(np.broadcast_to(np.uint8(0), series.shape), series.affine)
    np.testing.assert_array_equal(dicom.read_seg(path, grid).mask(1), labels.voxels > 0)

    data = pydicom.dcmread(path)
    (segment,) = data.SegmentSequence
    code = segment.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("10200004", "SCT", "Liver")
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("test", "3")
    assert (data.SegmentationType, segment.SegmentAlgorithmType) == ("BINARY", "AUTOMATIC")
    referenced = {i.ReferencedSOPInstanceUID for i in data.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    files = {pydicom.dcmread(p, stop_before_pixels=True).file_meta.MediaStorageSOPInstanceUID for p in series.files}
    assert referenced == files
    assert data.StudyInstanceUID.startswith("2.25.")  # the source's was stripped


def test_dcmqis_liver_reads_as_its_nrrd(shared_data: Path):
    import SimpleITK

    root = shared_data / "dcmqi_ct"
    image = dicom.read_series(root / "ct-3slice")
    seg = dicom.read_seg(root / "liver_seg.dcm", image.volume)
    (segment,) = seg.segments
    assert (segment.label, segment.category, segment.type, segment.code) == ("Liver", "Tissue", "Liver", "SRT:T-62000")
    assert segment.means("liver") and not segment.means("kidney")
    nrrd = SimpleITK.ReadImage(str(root / "liver_seg.nrrd"))
    expected = SimpleITK.GetArrayFromImage(nrrd).transpose(2, 1, 0) > 0
    affine = np.eye(4)
    affine[:3, :3] = np.array(nrrd.GetDirection()).reshape(3, 3) * nrrd.GetSpacing()
    affine[:3, 3] = nrrd.GetOrigin()
    np.testing.assert_allclose(LPS @ image.volume.affine, affine, atol=1e-4)
    np.testing.assert_array_equal(seg.mask(1), expected)
    assert expected.sum() > 1000


def test_the_source_is_referred_to_and_its_patient_kept(tmp_path: Path):
    write_series(tmp_path / "ct", series="1.2.3.77", study="1.2.3.70")
    image = dicom.read_series(tmp_path / "ct")
    labels = image.volume.like(blobs(image.volume.shape))
    data = pydicom.dcmread(dicom.write_seg(tmp_path / "seg.dcm", labels, image.series, NAMES))
    assert (data.PatientID, data.StudyInstanceUID, data.Modality) == (ID, "1.2.3.70", "SEG")
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.77"
    assert data.SeriesInstanceUID != "1.2.3.77"
    for frame in data.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        original = next(d for p in image.series.files if (d := pydicom.dcmread(p)).SOPInstanceUID == source)
        np.testing.assert_allclose([float(x) for x in position], [float(x) for x in original.ImagePositionPatient])
    meanings = [s.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for s in data.SegmentSequence]
    assert meanings == ["Kidney", "Neoplasm"]
    assert len({tuple(s.RecommendedDisplayCIELabValue) for s in data.SegmentSequence}) == 2
    assert data.SegmentSequence[1].AnatomicRegionSequence[0].CodeMeaning == "Kidney"
    (header,) = dicom.scan(tmp_path / "seg.dcm").segmentations
    assert image.series.key in header.references


def test_a_class_that_is_nowhere_and_no_class_at_all(tmp_path: Path):
    write_series(tmp_path / "ct")
    image = dicom.read_series(tmp_path / "ct")
    some = blobs(image.volume.shape)
    some[some == 2] = 0
    for voxels in (some, np.zeros_like(some)):
        path = dicom.write_seg(tmp_path / "seg.dcm", image.volume.like(voxels), image, NAMES)
        back = dicom.read_seg(path, image.volume)
        assert [segment.label for segment in back.segments] == list(NAMES)
        np.testing.assert_array_equal(back.labels({1: 1, 2: 2}).voxels, voxels)


def test_letters_of_every_script_stay(tmp_path: Path):
    """Also where the source is written in another character set, in a sequence that is copied."""

    def latin(data: pydicom.Dataset, _: int) -> None:
        data.SpecificCharacterSet, data.PatientName = "ISO_IR 100", "Müller^Jürgen"
        code = pydicom.Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99TEST", "Leber nüchtern"
        data.ProcedureCodeSequence = [code]

    write_series(tmp_path / "ct", change=latin)
    image = dicom.read_series(tmp_path / "ct")
    names = ("Čočka 1", "肝臓 1")
    path = dicom.write_seg(tmp_path / "seg.dcm", image.volume.like(blobs(image.volume.shape)), image, names)
    data = pydicom.dcmread(path)
    assert tuple(segment.SegmentLabel for segment in data.SegmentSequence) == names
    kinds = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in data.SegmentSequence]
    assert tuple(kind.CodeMeaning for kind in kinds) == names
    assert len({kind.CodeValue for kind in kinds}) == 2
    assert str(data.PatientName) == "Müller^Jürgen"
    assert data.ProcedureCodeSequence[0].CodeMeaning == "Leber nüchtern"
    assert [segment.label for segment in dicom.read_seg(path, image.volume).segments] == [*names]


def test_what_is_refused(tmp_path: Path):
    write_series(tmp_path / "ct")
    image = dicom.read_series(tmp_path / "ct")
    labels = image.volume.like(blobs(image.volume.shape))
    path = tmp_path / "seg.dcm"
    with pytest.raises(InputError, match=r"labels for series .*: the affines differ"):
        dicom.write_seg(path, Volume(labels.voxels, labels.affine + np.eye(4, k=3)), image, NAMES)
    with pytest.raises(InputError, match="expected values 0 to 1, got up to 2"):
        dicom.write_seg(path, labels, image, ["kidney"])
    assert not path.exists()
    dicom.write_seg(path, labels, image, NAMES)
    half = image.volume.affine.copy()
    half[2, 3] += 1.25
    with pytest.raises(InputError, match=r"frame 1 doesn't lie on the image's grid: a corner is 1\.25 mm off"):
        dicom.read_seg(path, Volume(labels.voxels, half))
    with pytest.raises(InputError, match="marks voxels outside the image"):
        dicom.read_seg(path, Volume(labels.voxels[:, :, :3], labels.affine))
    with pytest.raises(InputError, match="expected one DICOM SEG, got 0"):
        dicom.read_seg(tmp_path / "ct", image.volume)
    huge = pydicom.dcmread(path)
    huge.Rows = huge.Columns = 16000
    huge.save_as(tmp_path / "huge.dcm")
    with pytest.raises(InputError, match=r"huge\.dcm is cut off: expected \d{8,} bytes of pixels, got \d{4,5}$"):
        dicom.read_seg(tmp_path / "huge.dcm", image.volume)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"seg\.dcm: expected a whole DICOM SEG"):
        dicom.read_seg(path, image.volume)


def test_a_target_that_cannot_be_written_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_series(tmp_path / "ct")
    image = dicom.read_series(tmp_path / "ct")
    path = tmp_path / "out" / "seg.dcm"
    path.parent.mkdir()
    path.write_bytes(b"before")

    def fail(*_args, **_options):
        raise OSError("no space left on device")

    monkeypatch.setattr(highdicom.seg.Segmentation, "save_as", fail)
    with pytest.raises(OSError, match="no space left"):
        dicom.write_seg(path, image.volume.like(blobs(image.volume.shape)), image, NAMES)
    assert [p.name for p in path.parent.iterdir()] == ["seg.dcm"] and path.read_bytes() == b"before"


def test_fractional_and_label_map_objects(tmp_path: Path):
    write_series(tmp_path / "ct")
    image = dicom.read_series(tmp_path / "ct")
    labels = blobs(image.volume.shape)
    sources = [pydicom.dcmread(p) for p in image.series.files]
    common = {
        "source_images": sources,
        "series_instance_uid": "1.2.9.1",
        "series_number": 1,
        "sop_instance_uid": "1.2.9.2",
        "instance_number": 1,
        "manufacturer": "test",
        "manufacturer_model_name": "test",
        "software_versions": "1",
        "device_serial_number": "1",
    }
    kidney = codes.ORGANS["kidney"]
    descriptions = [
        highdicom.seg.SegmentDescription(
            n, f"part {n}", pydicom.sr.codedict.codes.SCT.AnatomicalStructure,
            highdicom.sr.CodedConcept(kidney.value, kidney.scheme, kidney.meaning), "MANUAL",
        )
        for n in (1, 2)
    ]  # fmt: skip
    stack = labels.transpose(2, 1, 0)
    fractions = np.stack([0.8 * (stack == 1) + 0.3 * (stack == 0), 0.6 * (stack == 2)], axis=-1)
    for kind, pixels in (("FRACTIONAL", fractions), ("LABELMAP", stack)):
        seg = highdicom.seg.Segmentation(
            pixel_array=pixels, segmentation_type=kind, segment_descriptions=descriptions, **common
        )
        seg.save_as(tmp_path / f"{kind}.dcm")
        back = dicom.read_seg(tmp_path / f"{kind}.dcm", image.volume)
        np.testing.assert_array_equal(back.labels({1: 1, 2: 2}).voxels, labels)


@pytest.mark.parametrize(
    ("name", "category", "meaning", "region", "side"),
    [
        ("kidney", "Anatomical Structure", "Kidney", None, None),
        ("kidney_left", "Anatomical Structure", "Kidney", None, "Left"),
        ("Right Kidney", "Anatomical Structure", "Kidney", None, "Right"),
        ("tumor", "Morphologically Abnormal Structure", "Neoplasm", "Liver", None),
        ("kidney tumour", "Morphologically Abnormal Structure", "Neoplasm", "Kidney", None),
        ("renal_cyst", "Morphologically Abnormal Structure", "Cyst", "Kidney", None),
        ("inferior_vena_cava", "Anatomical Structure", "Inferior vena cava", None, None),
        ("gizmo 7", "Tissue", "gizmo 7", None, None),
    ],
)
def test_coded_names(name: str, category: str, meaning: str, region: str | None, side: str | None):
    coded = codes.coded(name, "liver")
    assert (coded.category.meaning, coded.type.meaning) == (category, meaning)
    assert (coded.region and coded.region.meaning, coded.side and coded.side.meaning) == (region, side)
    assert (coded.type.scheme == "SCT") == (name != "gizmo 7")


def test_codes_are_those_of_the_dicom_vocabularies():
    known = pydicom.sr.codedict.codes.SCT
    meanings: dict[str, set[str]] = {}
    for name in known.dir():
        meanings.setdefault(getattr(known, name).value, set()).add(getattr(known, name).meaning.lower())
    for code in (*codes.ORGANS.values(), *codes.LESIONS.values(), *codes.SIDES.values(), codes.ANATOMY, codes.TISSUE):
        assert code.scheme == "SCT"
        assert code.meaning.lower() in meanings[code.value]


@pytest.mark.parametrize(
    ("wanted", "label", "kind", "same"),
    [
        ("kidney", "Kidney left", "Kidney", True),
        ("left kidney", "kidney_left", "Kidney", True),
        ("right kidney", "kidney_left", "Kidney", False),
        ("kidney", "Kidney tumor", "Neoplasm", False),
        ("tumor", "Segment_1", "Neoplasm", True),
        ("liver tumor", "tumour of the moon", "Mass", False),
        ("SCT:10200004", "x", "y", True),
        ("Segment_7", "segment_7", "Tissue", True),
    ],
)
def test_a_segment_goes_by_several_names(wanted: str, label: str, kind: str, same: bool):
    assert codes.same(wanted, label, kind, "SCT:10200004") == same

"""DICOM pixels and geometry: against SimpleITK, and against positions computed anew from each file's header."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dicom_files import ct_affine, phantom_hu, write_enhanced, write_series
from hlfd.errors import InputError
from hlfd.io import dicom

LPS = np.diag([-1.0, -1, 1, 1])
COMPRESSED = {
    "implicit": "1.2.840.10008.1.2",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
}


def by_header(files) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """Position along the normal -> stored HU (rows, columns) and the file's own 4 x 4: the slow, obvious way."""
    found = {}
    for path in files:
        data = pydicom.dcmread(path)
        row, column = np.array(data.ImageOrientationPatient, float).reshape(2, 3)
        place = np.eye(4)
        place[:3, 0], place[:3, 1] = row * float(data.PixelSpacing[1]), column * float(data.PixelSpacing[0])
        place[:3, 3] = data.ImagePositionPatient
        hu = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
        found[float(np.cross(row, column) @ place[:3, 3])] = hu, place
    return dict(sorted(found.items()))


def assert_agrees(image: dicom.DicomImage, files) -> None:
    """Every voxel's value and world position are those of its own file."""
    volume = image.volume
    assert volume.voxels.dtype == np.float32
    slices = list(by_header(files).values())
    assert len(slices) == volume.shape[2]
    for k, (hu, place) in enumerate(slices):
        expected = np.where((hu < -1024) | (hu > 3071), volume.voxels[:, :, k].T, hu)
        np.testing.assert_allclose(volume.voxels[:, :, k].T, expected, atol=1e-3)
        for i, j in product((0, volume.shape[0] - 1), (0, volume.shape[1] - 1)):
            ours = (LPS @ volume.affine @ (i, j, k, 1))[:3]
            np.testing.assert_allclose(ours, (place @ (i, j, 0, 1))[:3], atol=2e-3)


@pytest.mark.parametrize("name", ["totalsegmentator/ct_dicom", "dcmqi_ct/ct-3slice"])
def test_real_series_against_simpleitk_and_their_headers(shared_data: Path, name: str):
    folder = shared_data / name
    image = dicom.read_series(folder)
    files = [path for path in folder.iterdir() if path.name != "LICENSE"]
    assert_agrees(image, files)

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(sorted(map(str, files), key=lambda f: float(pydicom.dcmread(f).ImagePositionPatient[2])))
    theirs = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(theirs.GetDirection()).reshape(3, 3) * theirs.GetSpacing()
    affine[:3, 3] = theirs.GetOrigin()
    np.testing.assert_allclose(LPS @ image.volume.affine, affine, atol=1e-4)
    hu = SimpleITK.GetArrayFromImage(theirs).transpose(2, 1, 0).astype(np.float32)
    inside = (hu >= -1024) & (hu <= 3071)
    assert inside.mean() > 0.7
    np.testing.assert_array_equal(image.volume.voxels[inside], hu[inside])
    assert image.volume.voxels.min() == -1024


def test_the_volume_and_the_published_label_map_lie_on_one_grid(shared_data: Path):
    import nibabel as nib

    volume = dicom.read_series(shared_data / "totalsegmentator" / "ct_dicom").volume
    label = nib.load(shared_data / "totalsegmentator" / "ct_dicom_segmentation.nii.gz")
    flipped = volume.oriented("".join(nib.aff2axcodes(label.affine)))
    assert flipped.shape == label.shape
    np.testing.assert_allclose(flipped.affine, label.affine, atol=1e-3)


@settings(max_examples=12)
@given(
    turn=st.builds(lambda v: Rotation.from_rotvec(v).as_matrix(), st.lists(st.floats(-3, 3), min_size=3, max_size=3)),
    spacing=st.tuples(st.floats(0.4, 2), st.floats(0.4, 2), st.floats(0.5, 8)),
    tilt=st.floats(-25, 25),
    seed=st.integers(0, 5),
)
def test_any_orientation_any_spacing_any_tilt(tmp_path_factory, turn, spacing, tilt, seed):
    folder = tmp_path_factory.mktemp("any")
    affine = ct_affine(spacing, tilt, turn)
    hu, _ = write_series(folder, phantom_hu((5, 4, 5), seed), affine, seed=seed)
    image = dicom.read_series(folder)
    if np.dot(np.cross(affine[:3, 0], affine[:3, 1]), affine[:3, 2]) < 0:
        raise AssertionError("the fixture stacks along the normal")
    np.testing.assert_array_equal(image.volume.voxels, hu)
    np.testing.assert_allclose(image.volume.affine, affine, atol=1e-4)
    assert_agrees(image, folder.iterdir())
    tilted = [f for f in dicom.findings(folder) if f.code == "gantry-tilt"]
    if abs(tilt) > 0.2:
        said = re.search(r"([\d.]+) degrees", tilted[0].text)
        assert said and abs(float(said[1]) - abs(tilt)) < 0.06  # rounded to one decimal, of headers rounded too
        assert not tilted[0].error
    elif abs(tilt) < 0.05:
        assert not tilted


def test_slices_written_against_their_normal_come_in_its_order(tmp_path: Path):
    affine = ct_affine() @ np.diag([1, 1, -1, 1.0])
    hu, _ = write_series(tmp_path, None, affine)
    volume = dicom.read_series(tmp_path).volume
    np.testing.assert_array_equal(volume.voxels, hu[:, :, ::-1])
    np.testing.assert_allclose(volume.affine @ (0, 0, 5, 1), affine @ (0, 0, 0, 1), atol=1e-5)


@pytest.mark.parametrize("name", COMPRESSED)
def test_transfer_syntaxes(tmp_path: Path, name: str):
    hu, affine = write_series(tmp_path / "single", phantom_hu((40, 36, 3)), syntax=COMPRESSED[name])
    first = next((tmp_path / "single").iterdir())
    assert pydicom.dcmread(first).file_meta.TransferSyntaxUID == COMPRESSED[name]
    write_enhanced(tmp_path / "multi" / "one", hu, affine, syntax=COMPRESSED[name])
    for folder in ("single", "multi"):
        volume = dicom.read_series(tmp_path / folder).volume
        np.testing.assert_array_equal(volume.voxels, hu)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-5)


def test_lossless_jpeg(tmp_path: Path):
    import gdcm

    hu, affine = write_series(tmp_path)
    for path in tmp_path.iterdir():
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    volume = dicom.read_series(tmp_path).volume
    np.testing.assert_array_equal(volume.voxels, hu)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)


def test_enhanced_frames_in_any_order_and_tilted(tmp_path: Path):
    affine = ct_affine((0.7, 0.9, 3), 12)
    hu, _ = write_enhanced(tmp_path / "one.dcm", None, affine)
    image = dicom.read_series(str(tmp_path / "one.dcm"))  # the file itself
    np.testing.assert_array_equal(image.volume.voxels, hu)
    np.testing.assert_allclose(image.volume.affine, affine, atol=1e-5)
    assert image.series.images == 6 and len(image.series.files) == 1


def test_a_compression_nobody_can_decode(tmp_path: Path):
    write_series(tmp_path, syntax=COMPRESSED["rle"])
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
        data.save_as(path)
    with pytest.raises(InputError, match=r"IM.*: its compression can't be read here \(.*MPEG-4"):
        dicom.read_series(tmp_path)


@pytest.mark.parametrize("value", ["DOE^JOHN-12", "O'NEIL^JO-1"])
def test_what_a_decoder_quotes_is_not_said(tmp_path: Path, value: str):
    write_series(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes().replace(b"MONOCHROME2", value.encode()))
    with pytest.raises(InputError, match=r"can't be decoded: Unknown \(0028,0004\) \.\.\. value \.\.\.$"):
        dicom.read_series(tmp_path)


def test_the_cause_a_decoder_gives_is_said(tmp_path: Path):
    write_series(tmp_path, phantom_hu((40, 36, 2)), syntax=COMPRESSED["rle"])
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        data.Rows = 37
        data.save_as(path)
    with pytest.raises(
        InputError, match=r"can't be decoded: pydicom: .*amount of decoded RLE .* doesn't match"
    ) as caught:
        dicom.read_series(tmp_path)
    assert "\n" not in str(caught.value)


def test_each_slice_has_its_own_rescale(tmp_path: Path):
    hu = phantom_hu() // 8 * 8

    def rescale(data, k):
        slope = (1, 2, 4)[k % 3]
        stored = (hu[:, :, k].T.astype(int) + 1000 * (k % 2)) // slope
        data.RescaleSlope, data.RescaleIntercept = slope, -1000 * (k % 2)
        data.PixelData = stored.astype("<i2").tobytes()

    write_series(tmp_path, hu, change=rescale)
    np.testing.assert_array_equal(dicom.read_series(tmp_path).volume.voxels, hu)
    assert "rescale-differs" in {f.code for f in dicom.findings(tmp_path)}


@pytest.mark.parametrize(
    ("padding", "limit", "expected"),
    [(-2000, None, -1024), (-2000, -1500, -1024), (1064, None, 40), (30000, None, -1024)],
    ids=["below", "range", "a value tissue has", "above"],
)
def test_padding_becomes_air_unless_it_may_be_tissue(tmp_path: Path, padding, limit, expected):
    hu = phantom_hu()
    hu[0] = padding - 1024
    if limit is not None:
        hu[1] = limit - 1024

    def change(data, k):
        data.PixelPaddingValue = padding
        if limit is not None:
            data.PixelPaddingRangeLimit = limit

    write_series(tmp_path, hu, change=change)
    voxels = dicom.read_series(tmp_path).volume.voxels
    assert (voxels[0] == expected).all()
    start = 1 if limit is None else 2
    assert start == 1 or (voxels[1] == -1024).all()
    np.testing.assert_array_equal(voxels[start:], hu[start:])


def test_one_slice(tmp_path: Path):
    hu, affine = write_series(tmp_path, phantom_hu((6, 5, 1)))
    image = dicom.read_series(tmp_path)
    np.testing.assert_array_equal(image.volume.voxels, hu)
    assert image.volume.spacing_mm == pytest.approx((0.8, 0.7, 5))
    np.testing.assert_allclose(image.volume.affine[:, [0, 1, 3]], affine[:, [0, 1, 3]], atol=1e-5)

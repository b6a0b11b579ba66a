"""NIfTI: values in HU, the affine as it is, and a clear word for each kind of bad file."""

import gzip
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlfd.errors import InputError
from hlfd.io import nifti
from hlfd.volume import Volume

HU = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(voxels, np.diag([1, 2, 3, 1.0]) if affine is None else affine), path)
    return path


@pytest.mark.parametrize("suffix", nifti.SUFFIXES)
def test_an_image_is_rescaled_as_its_header_says(tmp_path: Path, suffix: str):
    image = nib.Nifti1Image(HU, np.eye(4))
    image.header.set_slope_inter(2, -1024)
    nib.save(image, tmp_path / f"a{suffix}")
    volume = nifti.read_image(tmp_path / f"a{suffix}")
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels, 2.0 * HU - 1024)


@pytest.mark.parametrize(
    ("dtype", "slope", "inter", "whole"),
    [
        (np.int16, 1, 0, True),
        (np.int16, 1, -1024, True),
        (np.uint16, 1, -32768, True),
        (">i2", 1, 5, True),
        (np.uint16, 1, 0, False),
        (np.int16, 2, -1024, False),
        (np.int16, 1, 0.5, False),
        (np.float32, 1, 0, False),
    ],
    ids=str,
)
def test_whole_hu_take_two_bytes_and_are_the_same(tmp_path: Path, dtype, slope, inter, whole: bool):
    stored = HU.astype(np.int64) + (33000 if np.dtype(dtype).kind == "u" else 0)
    header = nib.Nifti1Header(endianness=">" if dtype == ">i2" else "<")
    header.set_data_dtype(dtype)
    image = nib.Nifti1Image(stored.astype(dtype), np.eye(4), header)
    image.header.set_slope_inter(slope, inter)
    nib.save(image, tmp_path / "a.nii.gz")
    plain, small = (nifti.read_image(tmp_path / "a.nii.gz", compact=compact) for compact in (False, True))
    np.testing.assert_array_equal(plain.voxels, np.float32(slope) * stored + np.float32(inter))
    np.testing.assert_array_equal(small.voxels, plain.voxels)
    assert (plain.voxels.dtype, small.voxels.dtype) == (np.float32, np.int16 if whole else np.float32)


@pytest.mark.parametrize("suffix", nifti.SUFFIXES)
@given(data=st.data())
def test_a_label_map_comes_back_on_its_grid(affines, tmp_path_factory, suffix: str, data):
    path = tmp_path_factory.mktemp("nifti") / f"label{suffix}"
    label = Volume((HU % 3).astype(np.uint8), data.draw(affines))
    nifti.write_label(path, label, "hlfd 1=kidney 2=tumor")
    back = nifti.read_label(path)
    np.testing.assert_array_equal(back.voxels, label.voxels)
    label.require_same_grid(back, "read back", tolerance_mm=1e-3)
    nifti.read_grid(path).require_same_grid(back, "grid")
    image = nib.load(path)
    assert image.get_data_dtype() == np.uint8
    assert image.header["descrip"].item() == b"hlfd 1=kidney 2=tumor"
    np.testing.assert_allclose(image.get_qform(), label.affine, atol=1e-3)  # readers differ in which one they trust
    assert image.header.get_xyzt_units()[0] == "mm"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def truncated(path: Path, keep: float) -> Path:
    whole = save(path, HU).read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    return path


def damaged(path: Path, offset: int, value: bytes) -> Path:
    whole = bytearray(save(path, HU).read_bytes())
    whole[offset : offset + len(value)] = value
    path.write_bytes(bytes(whole))
    return path


def claiming(path: Path, shape: tuple[int, int, int], hu: np.ndarray = HU) -> Path:
    """A file whose header says that it has this shape."""
    whole = bytearray(nib.Nifti1Image(hu, np.eye(4)).to_bytes())
    whole[42:48] = np.array(shape, "<i2").tobytes()
    return written(path, gzip.compress(bytes(whole)) if path.suffix == ".gz" else bytes(whole))


def flipped_bit(path: Path) -> Path:
    """The last byte of the voxels is another, and so the gzip file's checksum is wrong."""
    whole = nib.Nifti1Image(np.tile(HU, (10, 10, 10)), np.eye(4)).to_bytes()
    other = whole[:-1] + bytes([whole[-1] ^ 1])
    packed, packed_other = gzip.compress(whole, 0), gzip.compress(other, 0)
    return written(path, packed_other[:-8] + packed[-8:])


def two_orders(path: Path) -> Path:
    whole = bytearray(nib.Nifti1Image(HU, np.eye(4)).to_bytes())
    whole[40:56] = np.array([3, *HU.shape, 1, 1, 1, 1], ">i2").tobytes()
    return written(path, gzip.compress(bytes(whole)) if path.suffix == ".gz" else bytes(whole))


def steep(path: Path) -> Path:
    image = nib.Nifti1Image(HU, np.eye(4))
    image.header.set_slope_inter(1e38, 1e38)
    nib.save(image, path)
    return path


def two_affines(path: Path, qform: np.ndarray) -> Path:
    image = nib.Nifti1Image(HU, np.diag([1, 2, 3, 1.0]))
    image.set_sform(np.diag([1, 2, 3, 1.0]), 1)
    image.set_qform(qform, 1)
    nib.save(image, path)
    return path


def singular(path: Path) -> Path:
    image = nib.Nifti1Image(HU, None)
    image.set_qform(None, 0)
    image.set_sform(np.diag([0, 0, 0, 1.0]), 1)
    nib.save(image, path)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


NAN = HU.astype(np.float32)
NAN[0, 0, :2] = (np.nan, np.inf)
RGB = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])

BAD = {
    "missing": (lambda p: p / "a.nii.gz", "no such file"),
    "a folder": (lambda p: p, "expected a whole NIfTI file"),
    "text": (lambda p: written(p / "a.nii", b"hello"), "expected a whole NIfTI file"),
    "empty": (lambda p: written(p / "a.nii", b""), "expected a whole NIfTI file"),
    "truncated .nii.gz": (lambda p: truncated(p / "a.nii.gz", 0.7), "expected a whole NIfTI file"),
    "truncated .nii.gz in its header": (lambda p: truncated(p / "a.nii.gz", 0.02), "expected a whole NIfTI file"),
    "truncated .nii": (lambda p: truncated(p / "a.nii", 0.7), "expected a whole NIfTI file"),
    "unknown data type": (lambda p: damaged(p / "a.nii", 70, b"\x63\x63"), "expected a whole NIfTI file"),
    "negative size": (lambda p: damaged(p / "a.nii", 42, b"\xff\xff"), "expected a whole NIfTI file"),
    "two byte orders": (lambda p: two_orders(p / "a.nii"), r"\(sizeof_hdr\) is little-endian, .* \(dim\) big-endian"),
    "two byte orders, .nii.gz": (lambda p: two_orders(p / "a.nii.gz"), "expected one byte order in the header, its"),
    "2D": (lambda p: save(p / "a.nii", HU[0]), r"3 axes, got 2: shape \(5, 6\)"),
    "4D": (lambda p: save(p / "a.nii.gz", np.stack([HU, HU], 3)), r"3 axes, got 4: shape \(4, 5, 6, 2\)"),
    "no voxels": (lambda p: save(p / "a.nii", HU[:0]), r"shape \(0, 5, 6\)"),
    "colours": (lambda p: save(p / "a.nii", RGB), "expected one real number a voxel, got colours"),
    "complex": (lambda p: save(p / "a.nii.gz", HU.astype(np.complex64)), "one real number a voxel, got complex64"),
    "enormous .nii": (lambda p: claiming(p / "a.nii", (32000, 32000, 32000)), r"\(65536000000352 bytes\), and it has"),
    "enormous .nii.gz": (
        lambda p: claiming(p / "a.nii.gz", (32000, 32000, 9)),
        "expected a whole NIfTI file, its head",
    ),
    "larger .nii.gz": (lambda p: claiming(p / "a.nii.gz", (4, 50, 6)), "got 240 of 2400 bytes of voxels"),
    "wrong checksum": (lambda p: flipped_bit(p / "a.nii.gz"), "expected a whole NIfTI file, .*CRC"),
    "another spacing in the qform": (
        lambda p: two_affines(p / "a.nii", np.diag([1, 2, 5, 1.0])),
        "the sform says 1 x 2 x 3 mm RAS, the qform 1 x 2 x 5 mm RAS",
    ),
    "another orientation in the qform": (
        lambda p: two_affines(p / "a.nii.gz", np.diag([-1, -2, 3, 1.0])),
        "the sform says 1 x 2 x 3 mm RAS, the qform 1 x 2 x 3 mm LPS",
    ),
    "NaN": (lambda p: save(p / "a.nii", NAN), "expected finite HU, got 2 voxels"),
    "steep": (lambda p: steep(p / "a.nii"), r"expected finite HU, got \d+ voxels"),
    "constant": (lambda p: save(p / "a.nii", np.full((3, 3, 3), -1024, np.int16)), "got the constant value -1024"),
    "singular affine": (lambda p: singular(p / "a.nii"), "invertible 4 x 4"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_is_named_with_what_is_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str):
    make, message = BAD[kind]
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        nifti.read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not caplog.records


@pytest.mark.parametrize("kind", [k for k in BAD if k not in ("NaN", "steep", "constant")])
def test_a_bad_label_map_too(tmp_path: Path, kind: str):
    make, message = BAD[kind]
    with pytest.raises(InputError, match=message):
        nifti.read_label(make(tmp_path))


@pytest.mark.parametrize("suffix", nifti.SUFFIXES)
def test_big_endian_files_read_right(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti1Image(HU.astype(">i2"), np.diag([1, 2, 3, 1.0]), header), path)
    raw = gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes()
    assert raw[:4] == b"\x00\x00\x01\x5c"  # 348, most significant byte first
    for volume in (nifti.read_image(path), nifti.read_label(path)):
        np.testing.assert_array_equal(volume.voxels, HU)
        assert volume.voxels.dtype.isnative
        assert volume.spacing_mm == (1, 2, 3)


def test_affines_that_differ_in_the_origin_are_one_position(tmp_path: Path):
    qform = np.diag([1, 2, 3, 1.0])
    qform[:3, 3] = (5, 6, 7)
    volume = nifti.read_image(two_affines(tmp_path / "a.nii", qform))
    np.testing.assert_array_equal(volume.affine, np.diag([1, 2, 3, 1.0]))  # the sform's
    header = nifti.read_header(tmp_path / "a.nii")
    np.testing.assert_array_equal(header.qform, qform)
    assert nifti.disagreement(header) is None


@pytest.mark.parametrize("suffix", nifti.SUFFIXES)
def test_a_channel_of_a_file_with_four_axes(tmp_path: Path, suffix: str):
    path = save(tmp_path / f"a{suffix}", np.stack([HU, -HU], 3))
    for channel, expected in enumerate((HU, -HU)):
        np.testing.assert_array_equal(nifti.read_image(path, channel).voxels, expected)
    nifti.read_grid(path, 1).require_same_grid(nifti.read_image(path, 0), "grid")
    with pytest.raises(InputError, match=r"expected channel 2, counted from 0, .* got shape \(4, 5, 6, 2\)"):
        nifti.read_image(path, 2)
    np.testing.assert_array_equal(nifti.read_image(save(tmp_path / f"b{suffix}", HU), 0).voxels, HU)


PEAK = """
import resource, sys
from pathlib import Path
from hlfd.errors import InputError
from hlfd.io import nifti
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    nifti.read_image(Path(sys.argv[1]))
except InputError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_a_header_that_says_too_much_takes_no_memory(tmp_path: Path):
    noise = np.random.default_rng(0).integers(-1000, 1000, (100, 100, 100)).astype(np.int16)
    path = claiming(tmp_path / "a.nii.gz", (1000, 1000, 400), noise)  # 800 MB out of 2: deflate could
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    kib, _, message = done.stdout.partition(" ")
    assert "got 2000000 of 800000000 bytes of voxels" in message
    assert int(kib) < 100_000


def test_labels_are_whole_numbers(tmp_path: Path):
    for voxels in (NAN, np.linspace(0, 1, 27, dtype=np.float32).reshape(3, 3, 3)):
        with pytest.raises(InputError, match=r"a\.nii: expected whole numbers"):
            nifti.read_label(save(tmp_path / "a.nii", voxels))
    empty = nifti.read_label(save(tmp_path / "a.nii", np.zeros((3, 3, 3), np.uint8)))  # a patient without a tumour
    assert not empty.voxels.any()


@pytest.mark.parametrize("name", ["a.nrrd", "a", "a.gz", "nii"])
def test_only_nifti_names_are_written(tmp_path: Path, name: str):
    with pytest.raises(InputError, match=rf"{name}: expected a file name ending in \.nii or \.nii\.gz"):
        nifti.write_label(tmp_path / name, Volume(HU, np.eye(4)))
    assert list(tmp_path.iterdir()) == []


def test_kits19_masks_lie_as_they_should(shared_data: Path):
    root = shared_data / "kits19_masks"
    if not root.is_dir():
        pytest.skip("needs the KiTS19 masks in ../shared/data/kits19_masks")
    for path in sorted(root.glob("*/segmentation.nii.gz"), key=lambda p: p.stat().st_size)[:1]:
        label = nifti.read_label(path)
        assert set(np.unique(label.voxels)) <= {0, 1, 2}
        assert label.axcodes[0] in "IS"  # the first axis is cranio-caudal
        upright = label.oriented("SPL")
        assert upright.shape[1:] == (512, 512)
        assert upright.spacing_mm[1] == pytest.approx(upright.spacing_mm[2])
        world = [v.affine[:3, :3] @ np.argwhere(v.voxels == 1).mean(0) + v.affine[:3, 3] for v in (label, upright)]
        np.testing.assert_allclose(world[0], world[1], atol=1e-6)

"""2D slices: what is read is what stands in the file, in a known position."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hlfd.errors import InputError
from hlfd.io import images

PIXELS = np.random.default_rng(0).integers(0, 255, (5, 7)).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("suffix", images.SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_are_read_as_they_are(tmp_path: Path, suffix: str, dtype: type):
    pixels = PIXELS.astype(dtype) * (1 if dtype is np.uint8 else 200)
    np.testing.assert_array_equal(images.read_slice(save(tmp_path / f"a{suffix}", pixels)), pixels)


def test_a_stack_is_a_volume_in_radiological_view(tmp_path: Path):
    paths = [save(tmp_path / f"{k}.npy", PIXELS.astype(np.float32) - 100 * k) for k in range(3)]
    volume = images.read_stack(paths)
    assert volume.axcodes == "SPL"
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels[2], PIXELS.astype(np.float32) - 200)


def png_with_bad_chunk(path: Path) -> Path:
    data = bytearray(save(path, PIXELS).read_bytes())
    data[37:41] = b"\xd0\x1d\xb3n"  # the name of the chunk after the header
    path.write_bytes(bytes(data))
    return path


def cut(path: Path, keep: int) -> Path:
    path.write_bytes(save(path, PIXELS).read_bytes()[:keep])
    return path


def enormous(path: Path) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**20)})
    return path


BAD = {
    "missing": (lambda p: p / "a.png", "can't be read"),
    "truncated png": (lambda p: cut(p / "a.png", 60), "can't be read"),
    "damaged png": (lambda p: png_with_bad_chunk(p / "a.png"), "can't be read"),
    "truncated npy": (lambda p: cut(p / "a.npy", 140), "can't be read"),
    "npy cut in its header": (lambda p: cut(p / "a.npy", 40), "can't be read"),
    "enormous npy": (lambda p: enormous(p / "a.npy"), "can't be read"),
    "empty npy": (lambda p: cut(p / "a.npy", 0), "can't be read"),
    "objects": (lambda p: save(p / "a.npy", np.array([[{}]])), "can't be read"),
    "colours": (lambda p: save(p / "a.png", np.zeros((4, 4, 3), np.uint8)), "expected one grey channel, got mode RGB"),
    "3 axes": (lambda p: save(p / "a.npy", np.zeros((2, 3, 4))), r"expected 2 axes .*got shape \(2, 3, 4\)"),
    "NaN": (lambda p: save(p / "a.npy", np.array([[0, np.nan]])), "expected finite values"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_slice_is_named_with_what_is_wrong(tmp_path: Path, kind: str):
    make, message = BAD[kind]
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        images.read_slice(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.filterwarnings("default")
def test_an_enormous_png_is_refused_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    data = bytearray(save(tmp_path / "a.png", PIXELS).read_bytes())
    data[16:24] = struct.pack(">2I", 11000, 11000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.png: expected a PNG .*121000000 pixels\) exceeds limit") as caught:
        images.read_slice(tmp_path / "a.png")
    assert "\n" not in str(caught.value)
    assert not recwarn.list


def test_slices_of_a_stack_are_alike_and_not_constant(tmp_path: Path):
    a, b = save(tmp_path / "a.npy", PIXELS), save(tmp_path / "b.npy", PIXELS[:, :4])
    with pytest.raises(InputError, match=r"b\.npy: expected shape \(5, 7\) as a\.npy has, got \(5, 4\)"):
        images.read_stack([a, b])
    with pytest.raises(InputError, match=r"b\.npy: expected a CT slice, got the constant value 3"):
        images.read_stack([a, save(tmp_path / "b.npy", np.full((5, 7), 3))])

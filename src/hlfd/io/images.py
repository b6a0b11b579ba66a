"""2D slices in: PNG (8 or 16 bit, grey) and NPY."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from PIL import Image

from hlfd.errors import InputError, unreadable
from hlfd.volume import Volume

SUFFIXES = (".png", ".npy")

# Rows run to posterior, columns to the patient's left, slices to superior, one pixel is one mm: files of this kind
# carry neither spacing nor position.
SLICE_AFFINE = np.array([[0.0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def read_slice(path: Path) -> np.ndarray:
    """One slice as an array of shape (rows, columns). Raises `InputError` for anything else than one grey image."""
    try:
        if path.suffix == ".npy":
            pixels = np.load(path, mmap_mode="r", allow_pickle=False)  # no memory for what the file doesn't hold
        else:
            with _no_bomb(), Image.open(path) as image:
                if image.mode not in ("L", "I", "I;16", "1"):
                    raise InputError(f"{path}: expected one grey channel, got mode {image.mode}")
                pixels = np.asarray(image)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes the decoders raise anything
        raise unreadable(path, "a PNG or NPY slice", error) from None
    if pixels.ndim != 2:
        raise InputError(f"{path}: expected 2 axes (rows, columns), got shape {pixels.shape}")
    pixels = np.array(pixels)
    if not np.isfinite(pixels).all():
        raise InputError(f"{path}: expected finite values, got NaN or infinite ones")
    return pixels


def _no_bomb() -> AbstractContextManager[object]:
    """Within it an image so large that Pillow warns of it is an error."""
    return warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning)


def read_stack(paths: Sequence[Path]) -> Volume:
    """CT slices of one patient, all of one shape, as a float32 volume (slices, rows, columns)."""
    slices: list[np.ndarray] = []
    for path in paths:
        pixels = read_slice(path)
        if slices and pixels.shape != slices[0].shape:
            raise InputError(f"{path}: expected shape {slices[0].shape} as {paths[0].name} has, got {pixels.shape}")
        if pixels.min() == pixels.max():
            raise InputError(f"{path}: expected a CT slice, got the constant value {pixels.flat[0]:g}")
        slices.append(pixels)
    return Volume(np.stack(slices).astype(np.float32), SLICE_AFFINE)

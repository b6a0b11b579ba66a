"""NIfTI in and out. Intensities are HU, labels are class indices; the grid is never changed here."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hlfd.errors import InputError, unreadable
from hlfd.io.files import replacing
from hlfd.volume import Volume

SUFFIXES = (".nii.gz", ".nii")


def read_image(path: Path) -> Volume:
    """A CT volume in HU (float32), rescaled as its header says.

    Raises:
        InputError: missing or truncated file, not three axes, NaN or infinite voxels, a constant image.
    """
    volume = _read(path, partial(np.asanyarray, dtype=np.float32))
    if not np.isfinite(volume.voxels).all():
        bad = int((~np.isfinite(volume.voxels)).sum())
        raise InputError(f"{path}: expected finite HU, got {bad} voxels that are NaN or infinite")
    if volume.voxels.min() == volume.voxels.max():
        raise InputError(f"{path}: expected a CT image, got the constant value {volume.voxels.flat[0]:g}")
    return volume


def read_label(path: Path) -> Volume:
    """A label map as it is in the file, as integers. Raises `InputError` as `read_image`, and for fractional values."""
    volume = _read(path, np.asanyarray)
    if volume.voxels.dtype.kind in "iu":
        return volume
    values = np.rint(volume.voxels)
    if not np.isfinite(volume.voxels).all() or np.abs(values - volume.voxels).max() > 1e-4:
        raise InputError(f"{path}: expected whole numbers as labels, got fractions or NaN")
    return Volume(values.astype(np.int32), volume.affine)


def read_grid(path: Path) -> Volume:
    """Shape and affine alone, voxels are not read (they show as zeros that take no memory)."""
    image = _open(path)
    return _volume(path, np.broadcast_to(np.zeros((), np.uint8), image.shape), image.affine)


def write_label(path: Path, volume: Volume, description: str = "") -> None:
    """Write class indices (uint8) on the volume's grid: a temporary file first, then renamed."""
    image = nib.Nifti1Image(volume.voxels.astype(np.uint8), volume.affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    image.set_sform(volume.affine, code="scanner")
    image.set_qform(volume.affine, code="scanner", strip_shears=True)
    with replacing(path, require_writable_name(path)) as temporary:
        nib.save(image, temporary)


def require_writable_name(path: Path) -> str:
    """The file's NIfTI suffix. Raises `InputError` if it has none."""
    suffix = next((s for s in SUFFIXES if path.name.endswith(s)), None)
    if suffix is None:
        raise InputError(f"{path}: expected a file name ending in .nii or .nii.gz")
    return suffix


def _open(path: Path) -> Any:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        image: Any = nib.load(path)
    except Exception as error:  # a damaged header makes nibabel raise anything
        raise unreadable(path, "a whole NIfTI file", error) from None
    if len(image.shape) != 3 or 0 in image.shape:
        raise InputError(f"{path}: expected a volume with 3 axes, got {len(image.shape)}: shape {image.shape}")
    return image


def _read(path: Path, to_array: Callable[[Any], np.ndarray]) -> Volume:
    image = _open(path)
    try:
        voxels = to_array(image.dataobj)
        if voxels.dtype.kind not in "iuf":
            raise TypeError(f"voxels of type {voxels.dtype}")
    except Exception as error:  # truncated, damaged or of a type that is no number
        raise unreadable(path, "a whole NIfTI file", error) from None
    return _volume(path, voxels, image.affine)


def _volume(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Volume:
    try:
        return Volume(voxels, affine)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None

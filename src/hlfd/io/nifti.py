"""NIfTI in and out. Intensities are HU, labels are class indices; the grid is never changed here.

The affine is the sform, or the qform where there is no sform. A file where the two disagree about spacing or
orientation is refused: which of them is right, only its author knows.
"""

import gzip
import math
import struct
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.imageglobals import logger
from nibabel.openers import ImageOpener
from nibabel.volumeutils import apply_read_scaling

from hlfd.errors import InputError, unreadable
from hlfd.io.files import replacing
from hlfd.volume import Volume

SUFFIXES = (".nii.gz", ".nii")

_NIFTI1 = 348  # bytes of its header
_CHUNK = 1 << 24
_DEFLATE = 1032  # deflate makes a byte out of at most this many


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says about its voxels, none of which has been read.

    Attributes:
        shape: number of voxels along each array axis; any number of axes.
        dtype: how they are stored, in the file's byte order.
        affine: 4 x 4, voxel index to mm (RAS+): the sform if it is valid, else the qform.
        sform, qform: the two affines, each None where its code is 0.
        pixdim_mm: the spacing in the header's own field, which the sform doesn't use.
        slope, inter: HU = slope x stored + inter.
        unit: of the spacing: ``mm``, ``unknown``, ``meter``, ``micron``.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray
    sform: np.ndarray | None
    qform: np.ndarray | None
    pixdim_mm: tuple[float, ...]
    slope: float
    inter: float
    unit: str


def read_header(path: Path) -> Header:
    """The header of a file whose size fits what it says. Raises `InputError`: missing, damaged or too short a file."""
    image = _load(path)
    try:
        header = image.header
        sform, qform = (get(coded=True)[0] for get in (header.get_sform, header.get_qform))
        pixdim_mm = tuple(map(float, header.get_zooms()))
        proxy = image.dataobj
        unit = header.get_xyzt_units()[0]
        return Header(image.shape, proxy.dtype, image.affine, sform, qform, pixdim_mm, proxy.slope, proxy.inter, unit)
    except Exception as error:  # a damaged header makes nibabel raise anything
        raise unreadable(path, "a whole NIfTI file", error) from None


def read_stored(path: Path, channel: int | None = None) -> tuple[np.ndarray, Header]:
    """Voxels as they are stored, before slope and intercept, native byte order; of a ``.nii`` as a map of the file.

    Memory is taken as far as the file really goes, whatever its header says.

    Args:
        channel: which one of the fourth axis, of a file that may have one.

    Raises:
        InputError: as `read_header`; not three axes, no plain numbers, a compressed file that ends early or whose
            checksum is wrong.
    """
    header = read_header(path)
    shape = _spatial(path, header, channel)
    if header.dtype.kind not in "iuf":
        kind = "colours" if header.dtype.names else str(header.dtype)
        raise InputError(f"{path}: expected one real number a voxel, got {kind}")
    try:
        proxy = _load(path).dataobj
        if path.suffix.lower() == ".gz":
            skipped = (channel or 0) * math.prod(shape) * header.dtype.itemsize
            voxels = _inflate(path, shape, header.dtype, proxy.offset + skipped)
        else:
            voxels = proxy.get_unscaled()
            voxels = voxels if voxels.ndim == 3 else voxels[..., channel]
    except (InputError, MemoryError):
        raise
    except Exception as error:  # damaged: zlib, gzip and the system have their own errors
        raise unreadable(path, "a whole NIfTI file", error) from None
    return voxels if voxels.dtype.isnative else voxels.astype(voxels.dtype.newbyteorder("=")), header


def read_image(path: Path, channel: int | None = None, *, compact: bool = False) -> Volume:
    """A CT volume in HU (float32), rescaled as its header says.

    Args:
        channel: which one of the fourth axis, of a file that may have one.
        compact: as int16, half the memory, if the file holds whole HU and its header keeps them so.

    Raises:
        InputError: as `read_stored`; two affines that disagree, NaN or infinite voxels, a constant image.
    """
    volume = _read(path, np.float32, channel, compact=compact)
    if volume.voxels.dtype.kind == "f" and not np.isfinite(volume.voxels).all():
        bad = int((~np.isfinite(volume.voxels)).sum())
        raise InputError(f"{path}: expected finite HU, got {bad} voxels that are NaN or infinite")
    if volume.voxels.min() == volume.voxels.max():
        raise InputError(f"{path}: expected a CT image, got the constant value {volume.voxels.flat[0]:g}")
    return volume


def read_label(path: Path) -> Volume:
    """A label map as it is in the file, as integers. Raises `InputError` as `read_image`, and for fractional values."""
    volume = _read(path)
    if volume.voxels.dtype.kind in "iu":
        return volume
    values = np.rint(volume.voxels)
    if not np.isfinite(volume.voxels).all() or np.abs(values - volume.voxels).max() > 1e-4:
        raise InputError(f"{path}: expected whole numbers as labels, got fractions or NaN")
    return Volume(values.astype(np.int32), volume.affine)


def read_grid(path: Path, channel: int | None = None) -> Volume:
    """Shape and affine alone, voxels are not read (they show as zeros that take no memory)."""
    header = read_header(path)
    return _volume(path, np.broadcast_to(np.zeros((), np.uint8), _spatial(path, header, channel)), header)


def disagreement(header: Header) -> str | None:
    """How sform and qform differ in spacing or orientation; None if they don't or one of them is not there."""
    if header.sform is None or header.qform is None:
        return None
    (s_mm, s_axes), (q_mm, q_axes) = (_axes(affine) for affine in (header.sform, header.qform))
    if np.allclose(s_mm, q_mm, rtol=1e-2) and (np.einsum("ij,ij->j", s_axes, q_axes) > 0.7).all():
        return None
    said = [
        f"{' x '.join(f'{mm:.4g}' for mm in spacing)} mm {''.join(map(str, nib.orientations.aff2axcodes(affine)))}"
        for spacing, affine in ((s_mm, header.sform), (q_mm, header.qform))
    ]
    return f"the sform says {said[0]}, the qform {said[1]}"


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
    suffix = suffix_of(path)
    if suffix is None:
        raise InputError(f"{path}: expected a file name ending in .nii or .nii.gz")
    return suffix


def suffix_of(path: Path) -> str | None:
    """``.nii.gz`` or ``.nii``, if the file's name ends in one of them, in capitals or not."""
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def _load(path: Path) -> Any:
    """nibabel's image of a file that is large enough for what its header says."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        with _quiet():
            image: Any = nib.load(path)
        if nib.Nifti1Pair not in type(image).__mro__:
            raise TypeError(f"it is a {type(image).__name__}")
        if min(image.shape, default=0) < 0:
            raise ValueError(f"shape {image.shape}")
        stored = Path(image.file_map["image"].filename or path)
        size, proxy = stored.stat().st_size, image.dataobj
        needed = proxy.offset + math.prod(image.shape) * proxy.dtype.itemsize
    except Exception as error:  # a damaged header makes nibabel raise anything
        if apart := _two_orders(path):
            raise InputError(f"{path}: expected one byte order in the header, {apart}") from None
        raise unreadable(path, "a whole NIfTI file", error) from None
    if needed > (size * _DEFLATE if stored.suffix.lower() == ".gz" else size):
        said = f"its header says {' x '.join(map(str, image.shape))} voxels of {proxy.dtype} ({needed} bytes)"
        raise InputError(f"{path}: expected a whole NIfTI file, {said}, and it has {size} bytes")
    return image


@contextmanager
def _quiet() -> Generator[None]:
    """What nibabel mends in a header, it says in lines that name no file."""
    before = logger.level
    logger.setLevel("CRITICAL")
    try:
        yield
    finally:
        logger.setLevel(before)


def _two_orders(path: Path) -> str | None:
    """How the byte order of a header's length and of its number of axes differ, by which nibabel goes; None: alike."""
    try:
        with ImageOpener(str(path)) as file:
            start = file.read(42)
        orders = [struct.unpack(f"{order}i36xh", start) for order in "<>"]
    except Exception:  # it can't be read at all
        return None
    for (length, _), (_, axes), order, other in ((*orders, "little", "big"), (*orders[::-1], "big", "little")):
        if length == _NIFTI1 and 1 <= axes <= 7:
            return f"its length (sizeof_hdr) is {order}-endian, its shape (dim) {other}-endian"
    return None


def _spatial(path: Path, header: Header, channel: int | None) -> tuple[int, ...]:
    shape, axes = header.shape, len(header.shape)
    if channel is not None and axes in (3, 4) and channel >= (shape[3] if axes == 4 else 1):
        raise InputError(f"{path}: expected channel {channel}, counted from 0, of the fourth axis, got shape {shape}")
    if axes not in ((3,) if channel is None else (3, 4)) or 0 in shape:
        raise InputError(f"{path}: expected a volume with 3 axes, got {axes}: shape {shape}")
    return shape[:3]


def _inflate(path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int) -> np.ndarray:
    voxels = np.empty(math.prod(shape), dtype)  # pages come when they are written to
    raw: Any = voxels.view(np.uint8)
    view, done = memoryview(raw), 0
    with gzip.open(path) as file:
        file.seek(offset)
        while done < len(view):
            got = file.readinto(view[done : done + _CHUNK])
            if not got:
                raise InputError(f"{path}: expected a whole NIfTI file, got {done} of {len(view)} bytes of voxels")
            done += got
        file.read(1)  # at the end of the stream, its checksum
    return voxels.reshape(shape, order="F")


def _read(
    path: Path, dtype: type[np.generic] | None = None, channel: int | None = None, *, compact: bool = False
) -> Volume:
    """Rescaled voxels; integers that need no rescaling stay integers unless ``dtype`` is given."""
    stored, header = read_stored(path, channel)
    if compact and (whole := _whole_hu(stored, header.slope, header.inter)) is not None:
        return _volume(path, whole, header)
    slope, inter = (np.float32(v) if dtype is np.float32 else np.float64(v) for v in (header.slope, header.inter))
    with np.errstate(over="ignore", invalid="ignore"):  # who reads looks for infinite values
        voxels = apply_read_scaling(stored, slope, inter)
        voxels = np.asarray(voxels if dtype is None else voxels.astype(dtype, copy=False))
    return _volume(path, voxels, header)


def _whole_hu(stored: np.ndarray, slope: float, inter: float) -> np.ndarray | None:
    """Rescaled voxels as int16, if they are whole numbers and fit."""
    limits = np.iinfo(np.int16)
    if stored.dtype.kind not in "iu" or slope != 1 or not float(inter).is_integer():
        return None
    if not limits.min <= inter <= limits.max or stored.min() + inter < limits.min or stored.max() + inter > limits.max:
        return None
    whole = stored.astype(np.int16, copy=False)  # what doesn't fit yet wraps around, and back with the shift
    return whole + np.int16(inter) if inter else whole


def _volume(path: Path, voxels: np.ndarray, header: Header) -> Volume:
    try:
        volume = Volume(voxels, header.affine)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if apart := disagreement(header):
        raise InputError(f"{path}: expected one position in space, {apart}; set the code of the wrong one to 0")
    return volume


def _axes(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spacing, and the unit vectors of the array axes as columns."""
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    return spacing_mm, affine[:3, :3] / np.maximum(spacing_mm, 1e-9)

"""A CT series as a volume in HU."""

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from hlfd.errors import InputError
from hlfd.io.dicom import _geometry
from hlfd.io.dicom._header import Frame
from hlfd.io.dicom._library import library, quiet
from hlfd.io.dicom._tree import Item, opened, read_bytes
from hlfd.io.dicom.series import Series, choose, in_order, scan
from hlfd.volume import Volume

AIR_HU, METAL_HU = -1024.0, 3071.0
MAX_VOXELS = 2**31
DECODERS = {
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
}
"""Which of several is asked: the faster one, and the same one everywhere."""
UNITS = ("OD", "MGML", "Z_EFF", "ED", "EDW", "PCT")  # defined terms: anything else may be anything


@dataclass(frozen=True, eq=False)
class DicomImage:
    """A CT volume and the series it came from.

    Attributes:
        volume: HU (float32) of shape (columns, rows, slices).
        series: what a SEG made on the volume refers to.
    """

    volume: Volume
    series: Series


def read_series(path: str | Path, series: str | None = None) -> DicomImage:
    """A CT series as a volume in HU.

    Slices are ordered by position along their normal; spacing comes from the positions; each slice has its own rescale.
    Padding outside the scanner's field, where it lies outside -1024 to 3071 HU, becomes air (-1024).

    Args:
        path: folder (with the folders in it), zip or file.
        series: key, UID or number of the series, if there are several.

    Raises:
        InputError: no CT series or several, slices missing, doubled or at unequal distances, no position, a file that
            can't be decoded (it is named), values that are not HU.
    """
    chosen = choose(scan(path), path, series)
    try:
        return DicomImage(read_volume(chosen), chosen)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_volume(series: Series) -> Volume:
    """The voxels of a series that `list_series` found; see `read_series`. HU, float32, (columns, rows, slices)."""
    require_readable(series)
    columns, rows, slices = series.shape
    voxels = np.empty((slices, rows, columns), dtype=np.float32)
    wanted: dict[Item, list[tuple[Frame, int]]] = defaultdict(list)
    for k, frame in enumerate(series.frames):
        wanted[frame.item].append((frame, k))
    for item, file in opened(sorted(wanted, key=in_order)):
        _read_object(item, file, wanted[item], voxels)
    return Volume(voxels.transpose(2, 1, 0), series.affine)


def require_readable(series: Series) -> None:
    """Raise `InputError` for a series whose headers say that `read_volume` would refuse it."""
    for problem in problems(series):
        if problem.error:
            raise InputError(f"series {series.key}: {problem.text}")
    if math.prod(series.shape) > MAX_VOXELS:
        raise InputError(f"series {series.key}: claims {series.shape} voxels, refused above {MAX_VOXELS}")


def problems(series: Series) -> list[_geometry.Problem]:
    """What is wrong or worth knowing about a series, by its headers."""
    found = [_geometry.Problem("damaged-file", f"{text}, among the series' files", True) for text in series.damaged]
    found += _geometry.problems(series.frames)
    if text := next(filter(None, (frame.overclaim for frame in series.frames)), ""):
        found.append(_geometry.Problem("damaged-file", text, True))
    return found + _rescale(series.frames)


def _rescale(frames: tuple[Frame, ...]) -> list[_geometry.Problem]:
    missing = [frame for frame in frames if frame.rescale is None]
    if missing:
        text = f"{missing[0].item} has no RescaleSlope and RescaleIntercept: its values are not known to be HU"
        return [_geometry.Problem("no-rescale", text, True)]
    for frame in frames:
        slope, intercept = frame.rescale or (0.0, 0.0)
        if slope == 0 or not np.isfinite((slope, intercept)).all():
            text = f"{frame.item}: expected a finite, non-zero rescale slope and intercept, got {slope}, {intercept}"
            return [_geometry.Problem("no-rescale", text, True)]
        if frame.units not in ("", "HU", "HU_MOD", "US"):
            units = frame.units if frame.units in UNITS else "of another kind"
            text = f"expected values in HU, {frame.item} has RescaleType {units}"
            return [_geometry.Problem("not-hu", text, True)]
    kinds = sorted({frame.rescale for frame in frames if frame.rescale})
    if len(kinds) > 1:
        text = f"rescale differs from slice to slice ({len(kinds)} kinds): each slice is rescaled by its own"
        return [_geometry.Problem("rescale-differs", text, False)]
    return []


def _read_object(item: Item, file: IO[bytes], wanted: list[tuple[Frame, int]], voxels: np.ndarray) -> None:
    pydicom, decoding = library(), library("pydicom.pixels")
    try:
        with quiet():
            data = pydicom.dcmread(read_bytes(item, file), force=True)
            padding = _padding(data)
            indices = [frame.index for frame, _ in wanted]
            decoder = DECODERS.get(str(data.file_meta.get("TransferSyntaxUID")), "")
            frames = decoding.iter_pixels(data, raw=True, indices=indices, decoding_plugin=decoder)
            for (frame, k), stored in zip(wanted, frames, strict=True):
                if stored.shape != voxels.shape[1:]:
                    raise ValueError(f"a frame of shape {stored.shape}")
                slope, intercept = frame.rescale or (1.0, 0.0)
                np.multiply(stored, slope, out=voxels[k], casting="unsafe", dtype=np.float64)
                voxels[k] += np.float32(intercept)
                _fill(voxels[k], stored, padding)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # damaged pixels make the decoders raise anything
        raise InputError(f"{item}: {_reason(error)}") from None


def _padding(data: Any) -> tuple[float, float] | None:
    """Lowest and highest stored value that stands for no measurement."""
    value = data.get("PixelPaddingValue")
    if value is None or isinstance(value, bytes):
        return None
    limit = data.get("PixelPaddingRangeLimit")
    limit = value if limit is None or isinstance(limit, bytes) else limit
    return min(float(value), float(limit)), max(float(value), float(limit))


def _fill(hu: np.ndarray, stored: np.ndarray, padding: tuple[float, float] | None) -> None:
    """Padding becomes air; where the header's padding value is a HU that tissue may have, it is believed to be that."""
    if padding is None:
        return
    empty = (stored >= padding[0]) & (stored <= padding[1])
    empty &= (hu < AIR_HU) | (hu > METAL_HU)
    hu[empty] = AIR_HU


def _reason(error: Exception) -> str:
    """What a decoder says, on one line and without what it quotes: that may be a value of the header."""
    text = " ".join(str(error).split())
    if "missing dependencies" in text or "Transfer Syntax UID' value" in text:  # one that pydicom has a name for
        return f"its compression can't be read here ({text[:120]}): pip install hlfd[dicom]"
    said = re.sub(r"(?<!\w)(['\"]).*?\1(?!\w)", "...", text.rpartition("all available plugins: ")[2])
    return f"expected whole pixel data, they can't be decoded: {said[:160] or type(error).__name__}"

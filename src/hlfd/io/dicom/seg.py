"""DICOM SEG in: segments with their names, and their masks on the grid of an image."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from hlfd.errors import InputError
from hlfd.io.dicom import codes
from hlfd.io.dicom._geometry import LPS_TO_RAS, OFF_MM
from hlfd.io.dicom._header import Frame, Header, frames_of
from hlfd.io.dicom._library import library, quiet
from hlfd.io.dicom._tree import Item, opened, read_bytes
from hlfd.io.dicom.series import Series, Tree, scan
from hlfd.volume import Volume


@dataclass(frozen=True)
class Segment:
    """What a segment is.

    Attributes:
        number: in its object, from 1.
        label: as its maker called it.
        category, type: meanings of its codes, for example ``Anatomical Structure`` and ``Kidney``.
        code: of the type, ``SCT:64033007``.
        region: the organ a lesion lies in, empty if it isn't said.
    """

    number: int
    label: str
    category: str
    type: str
    code: str
    region: str = ""

    def means(self, name: str) -> bool:
        """Whether ``name`` is its label, its type's meaning or code, or another word for it."""
        return codes.same(name, self.label, self.type, self.code, self.region)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Segments on the grid of an image. What no frame covers is empty.

    Attributes:
        segments: in the order of their numbers.
        grid: the image's.
    """

    segments: tuple[Segment, ...]
    grid: Volume
    _parts: Mapping[int, Sequence[tuple[tuple[slice, ...], np.ndarray]]] = field(repr=False)

    def mask(self, number: int) -> np.ndarray:
        """The voxels of a segment: boolean, in the shape of the grid."""
        mask = np.zeros(self.grid.shape, dtype=bool)
        for place, part in self._parts.get(number, ()):
            mask[place] |= part
        return mask

    def labels(self, values: Mapping[int, int]) -> Volume:
        """A label map (uint8) of segment number -> value; where segments overlap, the one named last counts."""
        voxels = np.zeros(self.grid.shape, dtype=np.uint8)
        for number, value in values.items():
            for place, part in self._parts.get(number, ()):
                voxels[place][part] = value
        return self.grid.like(voxels)


def read_seg(path: str | Path, grid: Volume) -> Segmentation:
    """Read a SEG (BINARY, FRACTIONAL from one half, or LABELMAP) onto the grid of the image it was made on.

    Args:
        path: the file; or a folder or zip that holds one SEG.
        grid: the image, in any orientation. Frames are placed by their positions.

    Raises:
        InputError: no SEG or several, a frame that doesn't lie on the grid, damaged pixels.
    """
    found = scan(path).segmentations
    if len(found) != 1:
        raise InputError(f"{path}: expected one DICOM SEG, got {len(found)}")
    return read_segmentation(found[0], grid)


def read_segmentation(header: Header, grid: Volume) -> Segmentation:
    """Read a SEG that `scan` found; see `read_seg`."""
    for item, file in opened([header.item]):
        try:
            with quiet():
                return _read(item, file, grid)
        except InputError:
            raise
        except MemoryError:
            raise
        except Exception as error:  # a damaged object makes pydicom raise anything, and quote it
            raise InputError(f"{item}: expected a whole DICOM SEG, it can't be read ({type(error).__name__})") from None
    raise AssertionError


def referring(tree: Tree) -> dict[Series, list[Header]]:
    """The SEG objects made on each series, by the series' UID or, where that was stripped, by its slices'.

    One that refers to no series, or to several stacks under one UID, is in none of the lists.
    """
    by_uid: dict[str, list[Series]] = defaultdict(list)
    by_slice: dict[str, Series] = {}
    for series in tree.series:
        by_uid[series.key.partition("-")[0]].append(series)
        by_slice.update(dict.fromkeys((frame.uid for frame in series.frames), series))
    found: dict[Series, list[Header]] = defaultdict(list)
    for header in tree.segmentations:
        those = {by_slice[reference] for reference in header.references if reference in by_slice}
        those |= {stacks[0] for uid, stacks in by_uid.items() if uid in header.references and len(stacks) == 1}
        for series in those:
            found[series].append(header)
    return dict(found)


def _read(item: Item, file: IO[bytes], grid: Volume) -> Segmentation:
    data = library().dcmread(read_bytes(item, file))
    segments = tuple(sorted((_segment(one) for one in data.SegmentSequence), key=lambda segment: segment.number))
    numbers = {segment.number for segment in segments}
    kind = str(data.get("SegmentationType") or "BINARY")
    half = float(data.get("MaximumFractionalValue") or 1) / 2
    parts: dict[int, list[tuple[tuple[slice, ...], np.ndarray]]] = {number: [] for number in sorted(numbers)}
    frames = frames_of(item, data, "", item.size)
    if text := frames[0].overclaim:
        raise InputError(text)
    for frame, values in zip(frames, _pixels(data), strict=True):
        if kind == "LABELMAP":
            present = numbers & set(np.unique(values).tolist())
            masks = {number: values == number for number in present}
        else:
            masks = {_number(data, frame.index): values > 0 if kind == "BINARY" else values >= half}
        for number, mask in masks.items():
            if number not in numbers:
                raise InputError(f"{item}: frame {frame.index + 1} belongs to segment {number}, which there is not")
            if mask.any():
                parts[number].append(_placed(item, frame, mask, grid))
    return Segmentation(segments, grid, parts)


def _pixels(data: Any) -> Iterator[np.ndarray]:
    """The frames, one at a time."""
    if int(data.BitsAllocated) != 1 or data.file_meta.TransferSyntaxUID.is_compressed:
        yield from library("pydicom.pixels").iter_pixels(data, raw=True)
        return
    # pydicom 3.0.2 cuts frames of one-bit pixels wrongly, one by one, where they don't end with a byte.
    packed, size = np.frombuffer(data.PixelData, dtype=np.uint8), int(data.Rows) * int(data.Columns)
    for start in range(0, int(data.get("NumberOfFrames") or 1) * size, size):
        bits = np.unpackbits(packed[start // 8 : -(-(start + size) // 8)], bitorder="little")
        yield bits[start % 8 : start % 8 + size].reshape(int(data.Rows), int(data.Columns))


def _segment(data: Any) -> Segment:
    category, kind = data.SegmentedPropertyCategoryCodeSequence[0], data.SegmentedPropertyTypeCodeSequence[0]
    region = data.get("AnatomicRegionSequence")
    value = kind.get("CodeValue") or kind.get("LongCodeValue") or ""
    return Segment(
        number=int(data.SegmentNumber),
        label=str(data.get("SegmentLabel") or ""),
        category=str(category.get("CodeMeaning") or ""),
        type=str(kind.get("CodeMeaning") or ""),
        code=f"{kind.get('CodingSchemeDesignator') or ''}:{value}",
        region=str(region[0].get("CodeMeaning") or "") if region else "",
    )


def _number(data: Any, index: int) -> int:
    groups = data.get("PerFrameFunctionalGroupsSequence"), data.get("SharedFunctionalGroupsSequence")
    for group in (groups[0][index] if groups[0] else None, groups[1][0] if groups[1] else None):
        sequence = group.get("SegmentIdentificationSequence") if group is not None else None
        if sequence:
            return int(sequence[0].ReferencedSegmentNumber)
    raise ValueError("a frame of no segment")


def _placed(item: Item, frame: Frame, mask: np.ndarray, grid: Volume) -> tuple[tuple[slice, ...], np.ndarray]:
    """Where in the grid a frame (rows, columns) lies, cut to what it marks, and that part along the grid's axes."""
    if frame.position_mm is None or frame.directions is None or frame.pixel_mm is None:
        raise InputError(f"{item}: frame {frame.index + 1} has no position, orientation or spacing")
    plane = np.zeros((4, 3))  # (column, row, 1) -> world
    plane[:3, :2] = np.array(frame.directions).reshape(2, 3).T * frame.pixel_mm[::-1]
    plane[:3, 2], plane[3, 2] = frame.position_mm, 1
    to_grid = (np.linalg.inv(grid.affine) @ LPS_TO_RAS @ plane)[:3]
    axes = np.abs(to_grid[:, :2]).argmax(axis=0)
    exact = np.zeros((3, 3))
    exact[axes, (0, 1)] = np.sign(to_grid[axes, (0, 1)])
    exact[:, 2] = np.rint(to_grid[:, 2])
    rows, columns = mask.shape
    corners = np.array([[i, j, 1] for i in (0, columns - 1) for j in (0, rows - 1)]).T
    off_mm = float(np.linalg.norm(grid.affine[:3, :3] @ ((to_grid - exact) @ corners), axis=0).max())
    if axes[0] == axes[1] or off_mm > OFF_MM:
        raise InputError(
            f"{item}: frame {frame.index + 1} doesn't lie on the image's grid: a corner is {off_mm:.2f} mm off"
        )
    (first_row, last_row), (first_column, last_column) = (_extent(mask, axis) for axis in (1, 0))
    part = mask[first_row : last_row + 1, first_column : last_column + 1].T
    ends = (exact @ np.array([[first_column, first_row, 1], [last_column, last_row, 1]]).T).astype(int)
    low, high = ends.min(axis=1), ends.max(axis=1)
    if (low < 0).any() or (high >= grid.shape).any():
        raise InputError(f"{item}: frame {frame.index + 1} marks voxels outside the image")
    part = np.flip(part, tuple(axis for axis in (0, 1) if exact[axes[axis], axis] < 0))
    part = part if axes[0] < axes[1] else part.T
    through = 3 - int(axes.sum())
    return tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True)), np.expand_dims(part, through).copy()


def _extent(mask: np.ndarray, over: int) -> tuple[int, int]:
    at = np.flatnonzero(mask.any(axis=over))
    return int(at[0]), int(at[-1])

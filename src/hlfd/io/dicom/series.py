"""The CT series in a folder, a zip or a file: found by their headers alone."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hlfd.errors import InputError
from hlfd.io.dicom import _geometry
from hlfd.io.dicom._header import Frame, Header, read_header
from hlfd.io.dicom._library import hashed, quiet
from hlfd.io.dicom._tree import Item, items, opened
from hlfd.processes import worker_pool
from hlfd.progress import Advance


@dataclass(frozen=True, eq=False, repr=False)
class Series:
    """A stack of parallel CT slices, in the order of their positions.

    Attributes:
        key: names the series without identifying anybody: eight digits of its UID's hash, and ``-1``, ``-2`` where one
            UID holds several stacks.
        modality: always ``CT``.
        number: SeriesNumber; not unique.
        patient: stands for the patient's ID, a hash; of the study where there is no ID.
        frames: the slices.
        copies: files that are there twice and were left out.
        damaged: files among the others that can't be read, with the reason.
    """

    key: str
    modality: str
    number: int | None
    patient: str
    frames: tuple[Frame, ...]
    copies: int = 0
    damaged: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Number of slices."""
        return len(self.frames)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices: the shape of the volume."""
        return self.frames[0].columns, self.frames[0].rows, len(self.frames)

    @property
    def affine(self) -> np.ndarray:
        """Index (column, row, slice) to world position in mm, RAS+. Sheared if the gantry was tilted."""
        return _geometry.affine(self.frames)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres, mm: between columns, rows and slices, the last from their positions."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files in slice order, each once; the zip for what lies in one."""
        return tuple(dict.fromkeys(frame.item.path for frame in self.frames))

    def __repr__(self) -> str:
        return f"Series({self})"

    def __str__(self) -> str:
        shape, spacing = (" x ".join(f"{n:g}" for n in row) for row in (self.shape, np.round(self.spacing_mm, 2)))
        return f"{self.key} ({self.modality}, {self.images} images, {shape}, {spacing} mm)"


@dataclass(frozen=True, eq=False)
class Tree:
    """What a folder, a zip or a file holds.

    Attributes:
        series: CT series, by key.
        segmentations: headers of SEG objects, each once.
        aside: how many objects of which other kind.
        damaged: files that are DICOM by name, place or content and can't be read, with the reason.
    """

    series: tuple[Series, ...]
    segmentations: tuple[Header, ...]
    aside: Counter[str]
    damaged: tuple[str, ...]


MANY = 4000
"""Files from which on it is worth starting processes to read their headers."""


def scan(path: str | Path, advance: Advance | None = None, workers: int = 1) -> Tree:
    """Read all headers in a folder and the folders in it, in zips, or in one file; no pixels.

    Files that aren't DICOM and DICOMDIRs are passed over, unless they are called like the slices they lie among;
    localizers, other modalities and reports are counted.

    Args:
        path: folder, zip or file.
        advance: called after each file, or each few hundred where processes read them.
        workers: processes for a large tree. More than one needs a main module that can be imported.

    Raises:
        InputError: no such path, or a zip that is damaged, climbs out of its folder or is a bomb.
        OSError: a worker was killed.
    """
    files = items(path)
    side_by_side = workers > 1 and len(files) >= MANY
    headers = _headers_by_part(files, advance, workers) if side_by_side else _headers(files, advance)
    images, localizers = list[Header](), list[Header]()
    for header in headers:
        if header.kind == "image":
            (localizers if any(frame.localizer for frame in header.frames) else images).append(header)
    damaged = [header for header in headers if header.kind == "damaged"] + _lost(headers, images)
    aside = Counter(header.what for header in headers if header.kind == "aside")
    aside += Counter({"localizer": len(localizers)})
    groups: dict[tuple[str, ...], list[Header]] = defaultdict(list)
    for header in images:
        # Files stripped of their series' UID belong together if they lie together.
        groups[(header.series,) if header.series else ("", header.study, header.item.folder)].append(header)
    found: list[Series] = []
    for group in groups.values():
        found += _series(group, damaged)
    found.sort(key=lambda series: series.key)
    segmentations: dict[str, Header] = {}
    for header in headers:
        if header.kind == "seg":
            segmentations.setdefault(header.uid, header)
    return Tree(tuple(found), tuple(segmentations.values()), aside, tuple(f"{h.item} {h.what}" for h in damaged))


def _lost(headers: Iterable[Header], images: Iterable[Header]) -> list[Header]:
    """What was a slice once: no DICOM, but among slices and called like one of them."""
    slices = {(image.item.folder, _pattern(image.item.name)) for image in images}
    return [h for h in headers if h.kind == "foreign" and (h.item.folder, _pattern(h.item.name)) in slices]


def _pattern(name: str) -> str:
    """A file's name without its numbers, which may be hexadecimal."""
    return re.sub(r"[0-9A-Fa-f]*\d[0-9A-Fa-f]*", "0", name)


def _headers(files: Sequence[Item], advance: Advance | None = None) -> list[Header]:
    headers: list[Header] = []
    with quiet():
        for item, file in opened(files):
            header = read_header(item, file)
            if header is not None:
                headers.append(header)
            if advance is not None:
                advance()
    return headers


def _headers_by_part(files: Sequence[Item], advance: Advance | None, workers: int) -> list[Header]:
    headers: list[Header] = []
    parts = [files[first : first + MANY // 8] for first in range(0, len(files), MANY // 8)]
    with worker_pool(workers) as pool:
        for part, found in zip(parts, pool.map(_headers, parts), strict=True):
            headers += found
            if advance is not None:
                advance(len(part))
    return headers


def list_series(path: str | Path) -> list[Series]:
    """The CT series in a folder, the folders in it, a zip or a file, from their headers alone.

    Raises:
        InputError: as `scan`, or there is none.
    """
    return list(_require(scan(path), path))


def choose(tree: Tree, path: str | Path, series: str | None = None) -> Series:
    """The one series of a tree, or the one that is named by key, by series instance UID or by series number.

    Raises:
        InputError: there is none, there are several, or none or several of that name; all are listed.
    """
    found = _require(tree, path)
    if series is not None:
        uid = hashed(series)
        named = [s for s in found if series == s.key]
        named = named or [s for s in found if uid == s.key.partition("-")[0]]
        named = named or [s for s in found if series == str(s.number)]
        named = named or [s for s in found if series == s.key.partition("-")[0]]
        if not named:
            # A UID must not come back in an error: it is somebody's.
            shown = f" '{series}'" if len(series) <= 10 else ""
            raise InputError(f"{path}: holds no series{shown}; there are {_listed(found)}")
        found = tuple(named)
    if len(found) > 1:
        raise InputError(f"{path}: expected one CT series, got {len(found)}; choose one by its key: {_listed(found)}")
    return next(iter(found))


def _require(tree: Tree, path: str | Path) -> tuple[Series, ...]:
    if tree.series:
        return tree.series
    if tree.damaged:
        raise InputError(f"{path}: expected a CT series, got none; {tree.damaged[0]}")
    aside = dict(tree.aside) | ({"SEG": len(tree.segmentations)} if tree.segmentations else {})
    if aside:
        listed = ", ".join(f"{count} {what}" for what, count in sorted(aside.items()))
        raise InputError(f"{path}: expected a CT series, got only other DICOM objects: {listed}")
    raise InputError(f"{path}: expected DICOM files of a CT series, found none")


def _listed(found: Sequence[Series]) -> str:
    return "; ".join(map(str, found[:8])) + (f"; and {len(found) - 8} more" if len(found) > 8 else "")


def _series(headers: Sequence[Header], damaged: Sequence[Header]) -> list[Series]:
    """The stacks of slices under one series UID."""
    first = headers[0]
    frames, copies = _without_copies(frame for header in headers for frame in header.frames)
    uids = sorted(frame.uid for frame in frames)
    key = first.series or hashed(uids[0])
    folders = {header.item.folder for header in headers}
    near = tuple(f"{bad.item} {bad.what}" for bad in damaged if bad.item.folder in folders)
    stacks = _stacks(frames)
    one = Series(key, "CT", first.number, first.patient or first.study or key, (), copies, near)
    if len(stacks) == 1:
        return [replace(one, frames=stacks[0])]
    return [replace(one, key=f"{key}-{n}", frames=stack) for n, stack in enumerate(stacks, 1)]


def _without_copies(frames: Iterable[Frame]) -> tuple[list[Frame], int]:
    """Each instance once, though its file may lie in two places. Two that differ in their position are no copies."""
    kept: dict[tuple[object, ...], Frame] = {}
    total = 0
    for frame in frames:
        total += 1
        kept.setdefault((frame.uid, frame.index, frame.position_mm, frame.number), frame)
    return list(kept.values()), total - len(kept)


def _stacks(frames: Sequence[Frame]) -> list[tuple[Frame, ...]]:
    """Slices that are parallel and of one size; those at the same positions told apart by acquisition or time."""
    planes: list[list[Frame]] = []
    for frame in frames:
        for plane in planes:
            if _parallel(plane[0], frame):
                plane.append(frame)
                break
        else:
            planes.append([frame])
    stacks: list[tuple[Frame, ...]] = []
    for plane in planes:
        stack = _geometry.ordered(plane)
        parts: dict[tuple[str, ...], list[Frame]] = defaultdict(list)
        for frame in stack:
            parts[frame.stack].append(frame)
        if len(parts) > 1 and _twice(stack) and not any(_twice(part) for part in parts.values()):
            stacks += [tuple(parts[name]) for name in sorted(parts)]
        else:
            stacks.append(stack)
    return sorted(stacks, key=len, reverse=True)


def _parallel(one: Frame, other: Frame) -> bool:
    if (one.rows, one.columns) != (other.rows, other.columns):
        return False
    pairs = ((one.directions, other.directions), (one.pixel_mm, other.pixel_mm))
    return all(a is None or b is None or a == b or np.allclose(a, b, rtol=0, atol=1e-3) for a, b in pairs)


def _twice(frames: Sequence[Frame]) -> bool:
    return any(problem.code == "duplicate-position" for problem in _geometry.problems(frames))


def in_order(item: Item) -> tuple[str, str]:
    """Sort key that keeps the members of a zip together."""
    return str(item.path), item.member or ""

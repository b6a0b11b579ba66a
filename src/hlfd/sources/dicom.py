"""DICOM series in folders and zips, labels as DICOM SEG among them or as NIfTI beside them."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hlfd.cases import Case, DataSource
from hlfd.errors import InputError, UndeclaredError, complain
from hlfd.io import dicom, nifti
from hlfd.io.files import files_below
from hlfd.labels import BACKGROUND, Labels, LabelValues, RegionNames, Task, for_task, from_names
from hlfd.progress import progress
from hlfd.sources import _layouts
from hlfd.volume import Volume

_SAYS_LABEL = re.compile(r"[-_. ]*(segmentation|seg|labels?|masks?)$", re.IGNORECASE)


def build(
    root: Path,
    *,
    task: Task = "both",
    labels: LabelValues | None = None,
    regions: RegionNames | None = None,
    segments: dict[str, int] | None = None,
    label_folder: Path | None = None,
    stray_segs: Literal["refuse", "leave_out"] = "refuse",
    several_segs: Literal["refuse", "merge"] = "refuse",
    organ: str = "kidney",
    organ_value: int = 1,
    tumor_value: int | None = 2,
    ignore: tuple[int, ...] = (),
    window_hu: tuple[float, float] = _layouts.ABDOMEN_HU,
) -> DataSource:
    """DICOM: a tree of CT series or a zip, labelled by DICOM SEG in it or by NIfTI.

    Args:
        root: folder or zip; patients in folders of their own or mixed.
        task: what to learn: ``tumor``, ``organ`` (with all that is in it) or ``both``: every label.
        labels: name -> value, or values, instead of what follows. Segments of that name, type or code get the value.
        regions: name -> names of the labels it is made of.
        segments: name, type or code of a segment -> value, instead of the labels' names. Later ones lie over earlier
            ones; segments that are not named are background.
        label_folder: NIfTI label maps from there alone, none from the tree. A label map goes by the name of the series'
            folder or zip, the case's id or the series' key, with or without ``_segmentation``, ``_seg``, ``_label``,
            ``_mask``.
        stray_segs: SEG objects that refer to no series there, or to several stacks of one: an error, or left out.
        several_segs: SEG objects of one series are read together. Where two of them mark the same voxels with one label
            (two readers, two versions), that is an error, or both count.
        organ: the organ's name in tables, which its segment goes by too.
        organ_value, tumor_value: values in NIfTI label maps.
        ignore: further values that count as background.
        window_hu: HU mapped to [-1, 1].

    Ids are made of hashes of the patient's ID and the series' UID. Headers are read once, here. Series without labels
    are cases without labels.
    """
    values: LabelValues = {BACKGROUND: ignore, organ: organ_value}
    values |= {} if tumor_value is None else {"tumor": tumor_value}
    if tumor_value is None and labels is None and task != "organ":
        raise InputError(f"task '{task}' needs a tumour label and this source has none: use task 'organ'")
    values = values if labels is None else labels
    meaning = for_task(from_names(values, regions), task)
    if segments is None:
        segments = {n: v if isinstance(v, int) else v[0] for n, v in values.items() if n != BACKGROUND}
    if unknown := {name: value for name, value in segments.items() if value not in meaning.raw}:
        raise InputError(f"segments: expected values among {sorted(meaning.raw)}, got {unknown}")
    tree = _scan(root)
    series = {f"{one.patient}_{one.key}": one for one in tree.series}
    files, passed_over = _nifti_labels(root, label_folder, series)
    refer = {} if label_folder is not None else dicom.referring(tree)
    objects = {name: refer[one] for name, one in series.items() if one in refer}
    used = {header.item for headers in objects.values() for header in headers}
    stray = [] if label_folder is not None else [h.item for h in tree.segmentations if h.item not in used]
    for item in stray if stray_segs == "refuse" else ():
        complain(
            f"{item}: a SEG that refers to no series here, or to several stacks of one: add the series, take it away, "
            "or set source.stray_segs to leave_out"
        )
    cases: list[Case] = []
    for name, one in sorted(series.items()):
        if name in files and name in objects:
            complain(
                f"series {one.key}: has a NIfTI label map and a DICOM SEG ({files[name]} and {objects[name][0].item}): "
                "give the folder of the label maps as 'label_folder', or take them away"
            )
        label = (files[name],) if name in files else tuple(header.item.path for header in objects.get(name, ()))
        cases.append(Case(name, one.patient, one.files, tuple(dict.fromkeys(label)) or None))
    labelled = {case.id for case in cases if case.label is not None}
    reader = _Reader(meaning, dict(segments), series, objects, merge=several_segs == "merge")
    return DataSource(
        "dicom",
        cases,
        meaning,
        window_hu,
        reader.image,
        reader.label,
        _notes(root, objects, stray, [path for path, names in passed_over.items() if not labelled.issuperset(names)]),
        read_grid=reader.grid,
    )


@dataclass(frozen=True)
class _Reader:
    """What reads the cases. Unlike a closure it can be sent to other processes: these needn't look for files."""

    labels: Labels
    values: Mapping[str, int]
    series: Mapping[str, dicom.Series]
    objects: Mapping[str, Sequence[dicom.Header]]
    merge: bool

    def image(self, case: Case) -> Volume:
        return dicom.read_volume(self.series[case.id])

    def grid(self, case: Case) -> Volume:
        dicom.require_readable(self.series[case.id])
        return _grid(self.series[case.id])

    def label(self, case: Case) -> Volume:
        if case.label is None:
            raise InputError(f"case {case.id}: has no label file")
        grid = _grid(self.series[case.id])
        if case.id in self.objects:
            label, where = self._segments(case, grid), f"case {case.id}"
        else:
            where = str(case.label[0])
            label = nifti.read_label(case.label[0]).with_axes_of(grid)  # NIfTI converters turn the rows around
            grid.require_same_grid(label, f"{where} against series {self.series[case.id].key}")
        return Volume(self.labels.to_classes(label.voxels, where), grid.affine)

    def _segments(self, case: Case, grid: Volume) -> Volume:
        voxels, found = np.zeros(grid.shape, dtype=np.uint16), False
        headers = self.objects[case.id]
        parts = [dicom.read_segmentation(header, grid) for header in headers]
        for name, value in self.values.items():
            marked: list[tuple[dicom.Header, np.ndarray]] = []
            for header, part in zip(headers, parts, strict=True):
                numbers = [segment.number for segment in part.segments if segment.means(name)]
                if not numbers:
                    continue
                found, mask = True, np.zeros(grid.shape, dtype=bool)
                for number in numbers:
                    mask |= part.mask(number)
                voxels[mask] = value
                for other, before in () if self.merge else marked:
                    if shared := int(np.count_nonzero(mask & before)):
                        raise InputError(
                            f"case {case.id}: '{name}' is in {other.item} and in {header.item}, {shared} voxels in "
                            "both: expected it once; take one of them away, or set source.several_segs to merge"
                        )
                marked.append((header, mask))
        if not found:
            present = sorted({f"'{segment.label}'" for part in parts for segment in part.segments})
            wanted = ", ".join(f"'{name}'" for name in self.values)
            raise UndeclaredError(f"case {case.id}: expected a segment {wanted}, its SEG has {', '.join(present)}")
        return grid.like(voxels)


_trees: dict[tuple[Path, tuple[dicom.Item, ...]], dicom.Tree] = {}


def tree_of(root: Path, workers: int = 1) -> dicom.Tree:
    """All headers below the root, read with progress, and again only when its files are others.

    A study builds its source many times. ``workers`` as for `hlfd.io.dicom.scan`.
    """
    key = root, tuple(dicom.items(root))
    if key not in _trees:
        with progress("reading DICOM headers", len(key[1])) as advance:
            tree = dicom.scan(root, advance, workers)
        while len(_trees) > 1:
            del _trees[next(iter(_trees))]
        _trees[key] = tree
    return _trees[key]


def _scan(root: Path) -> dicom.Tree:
    tree = tree_of(root)
    if not tree.series:
        dicom.choose(tree, root)  # says what there is instead
    return tree


def _grid(series: dicom.Series) -> Volume:
    return Volume(np.broadcast_to(np.uint8(0), series.shape), series.affine)


def _notes(
    root: Path, objects: Mapping[str, Sequence[dicom.Header]], stray: Sequence[dicom.Item], passed_over: Sequence[Path]
) -> tuple[str, ...]:
    several = sum(len(headers) > 1 for headers in objects.values())
    said = [f"{several} series have several SEG objects, whose segments are read together"] if several else []
    said += [f"{len(stray)} SEG objects refer to no series here and are left out"] if stray else []
    packed = sum(item.member is not None and bool(nifti.suffix_of(Path(item.name))) for item in dicom.items(root))
    said += [f"{packed} NIfTI files in zips are not read: unpack label maps beside the series"] if packed else []
    if passed_over:
        grid = "lie with a series without labels, on another grid, and are not taken for label maps"
        more = " and others" if len(passed_over) > 1 else ""
        said.append(f"{len(passed_over)} NIfTI files {grid}: {passed_over[0].name}{more}")
    return tuple(said)


def _nifti_labels(
    root: Path, apart: Path | None, series: Mapping[str, dicom.Series]
) -> tuple[dict[str, Path], dict[Path, list[str]]]:
    """Label maps by case: files that say they are one before others, a series' name before a place, the nearest series
    of that name, and the one on whose grid it lies. What doesn't say it is a label map may be something else: then it
    is passed over, with the cases beside which it lies.
    """
    folder = root if apart is None else _layouts.require_folder(apart)
    files = [path for path in files_below(folder) if nifti.suffix_of(path)] if folder.is_dir() else []
    folders = {name: _folders(root, one) for name, one in series.items()}
    called = {name: {name, one.key} | folders[name] | _homes(root, one) for name, one in series.items()}
    wanted: list[tuple[bool, bool, Path, list[str]]] = []
    for path in files:
        stem = _layouts.stem(path)
        plain = apart is None and _SAYS_LABEL.search(stem) is None
        names = [name for name in series if _SAYS_LABEL.sub("", stem) in called[name]]
        placed = not names
        if placed:  # it lies with the slices of one series, or over them
            names = [name for name, one in series.items() if any(path.parent in file.parents for file in one.files)]
        shared = {name: len(folders[name].intersection(path.relative_to(folder).parent.parts)) for name in names}
        nearest = [name for name in names if shared[name] == max(shared.values())]
        wanted.append((plain, placed, path, nearest))
    found: dict[str, Path] = {}
    passed_over: dict[Path, list[str]] = {}
    for plain, placed, path, near in sorted(wanted):
        names = near
        if len(names) > 1 or any(name in found for name in names) or (plain and placed):
            try:
                names = _lying_on(path, {name: series[name] for name in near})
            except InputError as error:
                complain(str(error))
                continue
        taken = len(names) == 1 and found.get(names[0])
        if plain and (not names or (taken and _SAYS_LABEL.search(_layouts.stem(taken)))):
            passed_over[path] = near
            continue
        if len(names) != 1:
            what = "no series it belongs to" if not names else f"{len(names)} series it may belong to"
            complain(f"{path}: has {what}: expected it under the name of a series' folder, case id or key")
        elif taken:
            complain(f"{path}: belongs to series {series[names[0]].key} as {taken} does")
        else:
            found[names[0]] = path
    return found, passed_over


def _folders(root: Path, series: dicom.Series) -> set[str]:
    """Names of the folders below the root that a series lies in."""
    return {part for file in series.files for part in _below(root, file).parent.parts}


def _homes(root: Path, series: dicom.Series) -> set[str]:
    """Names of the root and of the zips that a series lies in."""
    zips = {file.stem for file in series.files if file.suffix.lower() == ".zip"}
    return {root.stem if root.is_file() else root.name} | zips


def _below(root: Path, file: Path) -> Path:
    return file.relative_to(root) if file.is_relative_to(root) else Path(file.name)


def _lying_on(path: Path, series: Mapping[str, dicom.Series]) -> list[str]:
    """Names of the series on whose grid a label map lies."""
    label, names = nifti.read_grid(path), list[str]()
    for name, one in series.items():
        grid = _grid(one)
        with suppress(InputError):
            grid.require_same_grid(label.with_axes_of(grid), "")
            names.append(name)
    return names

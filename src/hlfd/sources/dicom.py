"""DICOM series in folders and zips, labels as DICOM SEG among them or as NIfTI beside them."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from hlfd.cases import Case, DataSource
from hlfd.errors import InputError, complain
from hlfd.io import dicom, nifti
from hlfd.labels import Labels, Task, organ_and_tumor
from hlfd.progress import progress
from hlfd.volume import Volume

_SAYS_LABEL = re.compile(r"[-_. ]*(segmentation|seg|labels?|masks?)$", re.IGNORECASE)


def build(
    root: Path,
    *,
    task: Task = "both",
    organ: str = "kidney",
    organ_value: int = 1,
    tumor_value: int | None = 2,
    ignore: tuple[int, ...] = (),
    segments: Mapping[str, int] | None = None,
    labels: Path | None = None,
    window_hu: tuple[float, float] = (-200.0, 300.0),
) -> DataSource:
    """DICOM: a tree of CT series or a zip, labelled by DICOM SEG or NIfTI.

    Args:
        root: folder or zip; patients in folders of their own or mixed.
        task: what to learn: ``tumor``, ``organ`` (with its tumour) or ``both``.
        organ: the organ's name, which its segment goes by too.
        organ_value, tumor_value: values in NIfTI label maps, and what segments become.
        ignore: further values that count as background.
        segments: name, type or code of a segment -> value, later ones over earlier ones; by default
            ``{organ: organ_value, "tumor": tumor_value}``. Segments not named are background.
        labels: folder of NIfTI label maps, instead of the labels in the tree. They go by the name of the series'
            folder or zip, the case's id or the series' key, with or without ``_segmentation``, ``_seg``, ``_label``,
            ``_mask``.
        window_hu: HU mapped to [-1, 1].

    Ids are made of hashes of the patient's ID and the series' UID. Headers are read once, here. Series without labels
    are cases without labels.
    """
    tree = _scan(root)
    meaning = organ_and_tumor(task, organ, organ_value, tumor_value, ignore)
    if segments is None:
        segments = {organ: organ_value, **({"tumor": tumor_value} if tumor_value is not None else {})}
    if unknown := {name: value for name, value in segments.items() if value not in meaning.raw}:
        raise InputError(f"segments: expected values among {sorted(meaning.raw)}, got {unknown}")
    series = {f"{one.patient}_{one.key}": one for one in tree.series}
    files = _nifti_labels(root, labels, series)
    objects = {} if labels is not None else _seg_labels(tree, series)
    cases: list[Case] = []
    for name, one in sorted(series.items()):
        if name in files and name in objects:
            complain(
                f"series {one.key}: has a NIfTI label map and a DICOM SEG ({files[name]} and {objects[name][0].item}): "
                "give the folder of the label maps as 'labels', or take them away"
            )
        label = (files[name],) if name in files else tuple(header.item.path for header in objects.get(name, ()))
        cases.append(Case(name, one.patient, one.files, tuple(dict.fromkeys(label)) or None))
    reader = _Reader(meaning, dict(segments), series, objects)
    return DataSource("dicom", cases, meaning, window_hu, reader.image, reader.label)


@dataclass(frozen=True)
class _Reader:
    """What reads the cases. Unlike a closure it can be sent to other processes: these needn't look for files."""

    labels: Labels
    values: Mapping[str, int]
    series: Mapping[str, dicom.Series]
    objects: Mapping[str, Sequence[dicom.Header]]

    def image(self, case: Case) -> Volume:
        return dicom.read_volume(self.series[case.id])

    def label(self, case: Case) -> Volume:
        if case.label is None:
            raise InputError(f"case {case.id}: has no label file")
        grid = _grid(self.series[case.id])
        if case.id in self.objects:
            label, where = self._segments(case, grid), f"case {case.id}"
        else:
            label, where = _onto(grid, nifti.read_label(case.label[0])), str(case.label[0])
            grid.require_same_grid(label, f"{where} against series {self.series[case.id].key}")
        return Volume(self.labels.to_classes(label.voxels, where), grid.affine)

    def _segments(self, case: Case, grid: Volume) -> Volume:
        voxels = np.zeros(grid.shape, dtype=np.uint8)
        present: list[str] = []
        found = False
        parts = [dicom.read_segmentation(header, grid) for header in self.objects[case.id]]
        for name, value in self.values.items():
            for part in parts:
                for segment in part.segments:
                    if segment.means(name):
                        found = True
                        voxels[part.mask(segment.number)] = value
        present = sorted({f"'{segment.label}'" for part in parts for segment in part.segments})
        if not found:
            wanted = ", ".join(f"'{name}'" for name in self.values)
            raise InputError(f"case {case.id}: expected a segment {wanted}, its SEG has {', '.join(present)}")
        return grid.like(voxels)


def _scan(root: Path) -> dicom.Tree:
    files = dicom.items(root)
    with progress("reading DICOM headers", len(files)) as advance:
        tree = dicom.scan(root, advance)
    if not tree.series:
        dicom.choose(tree, root)  # says what there is instead
    return tree


def _grid(series: dicom.Series) -> Volume:
    return Volume(np.broadcast_to(np.uint8(0), series.shape), series.affine)


def _onto(grid: Volume, label: Volume) -> Volume:
    """The label map with its axes flipped and permuted to those of the grid: NIfTI converters turn the rows around."""
    turn = nib.orientations.io_orientation(np.linalg.inv(grid.affine) @ label.affine)
    voxels = nib.orientations.apply_orientation(label.voxels, turn)
    return Volume(voxels, label.affine @ nib.orientations.inv_ornt_aff(turn, label.shape))


def _seg_labels(tree: dicom.Tree, series: Mapping[str, dicom.Series]) -> dict[str, list[dicom.Header]]:
    """The SEG objects that refer to each series, by the series' UID or, where that was stripped, by its slices'."""
    by_uid: dict[str, list[str]] = defaultdict(list)
    by_slice: dict[str, str] = {}
    for name, one in series.items():
        by_uid[one.key.partition("-")[0]].append(name)
        by_slice.update(dict.fromkeys((frame.uid for frame in one.frames), name))
    found: dict[str, list[dicom.Header]] = defaultdict(list)
    for header in tree.segmentations:
        names = {by_slice[reference] for reference in header.references if reference in by_slice}
        for reference in header.references:
            if len(by_uid.get(reference, ())) == 1:
                names.add(by_uid[reference][0])
        for name in sorted(names):
            found[name].append(header)
    return dict(found)


def _nifti_labels(root: Path, labels: Path | None, series: Mapping[str, dicom.Series]) -> dict[str, Path]:
    folder = labels if labels is not None else root
    if labels is not None and not labels.is_dir():
        raise InputError(f"{labels}: no such folder")
    files = sorted(p for p in folder.rglob("*") if p.name.endswith(nifti.SUFFIXES)) if folder.is_dir() else []
    found: dict[str, Path] = {}
    for path in files:
        stem = _SAYS_LABEL.sub("", path.name.removesuffix(".gz").removesuffix(".nii"))
        names = [name for name, one in series.items() if stem in _names(root, name, one)]
        if not names:  # it lies with the slices of one series, or over them
            names = [name for name, one in series.items() if any(path.parent in file.parents for file in one.files)]
        if len(names) > 1:
            label = nifti.read_grid(path)
            names = [name for name in names if _fits(_grid(series[name]), label)]
        if len(names) != 1:
            what = "no series it belongs to" if not names else f"{len(names)} series it may belong to"
            complain(f"{path}: has {what}: expected it under the name of a series' folder, case id or key")
        elif names[0] in found:
            complain(f"{path}: belongs to series {series[names[0]].key} as {found[names[0]]} does")
        else:
            found[names[0]] = path
    return found


def _names(root: Path, name: str, series: dicom.Series) -> set[str]:
    folders = {part for file in series.files for part in _below(root, file).parent.parts}
    zips = {file.stem for file in series.files if file.suffix.lower() == ".zip"}
    return {name, series.key, root.stem if root.is_file() else root.name} | folders | zips


def _below(root: Path, file: Path) -> Path:
    return file.relative_to(root) if file.is_relative_to(root) else Path(file.name)


def _fits(grid: Volume, label: Volume) -> bool:
    try:
        grid.require_same_grid(_onto(grid, label), "")
    except InputError:
        return False
    return True

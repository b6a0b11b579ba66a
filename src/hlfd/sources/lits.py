"""LiTS17 layout: ``volume-N.nii`` and ``segmentation-N.nii``, in one folder or in the batches they come in."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np

from hlfd.cases import Case, DataSource
from hlfd.errors import InputError, complain
from hlfd.io import nifti
from hlfd.io.files import files_below
from hlfd.labels import LabelValues, RegionNames, Task, for_task, from_names
from hlfd.sources import _layouts
from hlfd.volume import Volume

LAYOUT = "volume-0.nii, segmentation-0.nii, there or in folders below"
IRCAD = range(28, 48)
"""Volumes that are patients of 3D-IRCADb-01. They were published with an identity as affine, so that their spacing is
lost (github.com/PatrickChrist/LITS-CHALLENGE/issues/14)."""

_NAME = re.compile(r"(?P<case>(test-)?volume-(?P<number>\d+))(?i:\.nii(\.gz)?)$")
_LABEL = re.compile(r"segmentation-(?P<number>\d+)(?i:\.nii(\.gz)?)$")


def recognises(root: Path) -> bool:
    """Whether there are volumes or segmentations by number, but those of data laid out otherwise: below a
    ``dataset.json``, or with a folder ``labels`` in which label maps have the volumes' names.
    """
    if not root.is_dir():
        return False
    files = list[Path]()
    with suppress(InputError):  # a folder that can't be read is said where the data are
        files += files_below(root)
    named = [path for path in files if _NAME.match(path.name) or _LABEL.match(path.name)]
    others = {path.parent.parent for path in named if path.parent.name == "labels" and _NAME.match(path.name)}
    others |= {path.parent for path in files if path.name == "dataset.json"}
    return any(others.isdisjoint(path.parents) for path in named)


def build(
    root: Path,
    *,
    task: Task = "both",
    labels: LabelValues | None = None,
    regions: RegionNames | None = None,
    unknown_spacing: Literal["leave_out", "keep"] = "leave_out",
    spacing_mm: dict[str, tuple[float, float, float]] | None = None,
) -> DataSource:
    """LiTS17: liver = 1, tumour = 2; volumes 28 to 47 come without their spacing.

    Args:
        root: the folder with ``volume-N.nii`` (or ``.nii.gz``), or with the folders they are in. ``test-volume-N`` are
            cases without labels.
        task: what to learn: ``tumor``, ``organ`` (with its tumour) or ``both``.
        labels: name -> value, or values, in the segmentations, instead of ``{liver: 1, tumor: 2}``.
        regions: name -> names of the labels it is made of; default: the liver contains its tumour.
        unknown_spacing: volumes 28 to 47 whose affine is an identity: ``leave_out``, or ``keep``, with pixels of 1 mm,
            so that no distance or volume of them is right.
        spacing_mm: ``volume-N`` -> true spacing along the axes of such a volume, mm, which is then used.

    HU window -40..160 (HLFD paper). Volumes without a segmentation are cases without labels.
    """
    files = list(files_below(_layouts.require_folder(root)))
    segmentations = _once(files, _LABEL, "number")
    images = _once(files, _NAME, "case")
    cases: list[Case] = []
    for name, image in sorted(images.items(), key=lambda item: _layouts.by_number(item[0])):
        label = None if name.startswith("test-") else segmentations.pop(name.removeprefix("volume-"), None)
        cases.append(Case(name, name, (image,), (label,) if label else None))
    for number, path in segmentations.items():
        complain(f"{path.parent}: segmentation-{number} has no volume-{number} beside it")
    if not cases:
        raise InputError(f"{root}: expected volume-N.nii and segmentation-N.nii, found none")
    given = spacing_mm or {}
    for name in given:
        if name not in images:
            raise InputError(f"spacing_mm: there is no {name} in {root}")
    unknown = {case.id for case in cases if case.id not in given and _lost_its_spacing(case)}
    notes: tuple[str, ...] = ()
    if unknown:
        what = "are left out (source.unknown_spacing=keep)" if unknown_spacing == "leave_out" else "count as 1 mm"
        notes = (
            f"{len(unknown)} of volumes 28 to 47 have an identity as affine: their spacing is unknown, they {what}",
        )
    if unknown_spacing == "leave_out":
        cases = [case for case in cases if case.id not in unknown]

    def placed(case: Case, volume: Volume) -> Volume:
        if case.id not in given:
            return volume
        if not np.array_equal(volume.affine[:3, :3], np.eye(3)):
            raise InputError(
                f"spacing_mm: {case.id} has a spacing, {volume.spacing_mm} mm; expected an identity affine"
            )
        return Volume(volume.voxels, volume.affine @ np.diag([*given[case.id], 1.0]))

    declared = for_task(from_names(labels or {"liver": 1, "tumor": 2}, regions), task)
    return _layouts.nifti_source("lits", cases, declared, (-40.0, 160.0), placed=placed, notes=notes)


def _once(files: list[Path], pattern: re.Pattern[str], key: str) -> dict[str, Path]:
    """Files by what the pattern finds. Raises `InputError` for two of one name."""
    found: dict[str, Path] = {}
    for path in files:
        match = pattern.match(path.name)
        if match is None:
            continue
        first = found.setdefault(match[key], path)
        if first != path:
            complain(f"{path}: expected each volume once, got {first} too")
    return found


def _lost_its_spacing(case: Case) -> bool:
    if case.id.startswith("test-") or int(case.id.removeprefix("volume-")) not in IRCAD:
        return False
    try:
        affine = nifti.read_grid(case.image[0]).affine
    except InputError:  # will be said where the case is read
        return False
    # Where neither sform nor qform counts, nibabel mirrors the first axis of an identity.
    return bool(np.array_equal(np.abs(affine[:3, :3]), np.eye(3)))

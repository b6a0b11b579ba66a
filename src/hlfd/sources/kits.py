"""KiTS layout: ``ROOT/case_00000/imaging.nii.gz`` and ``segmentation.nii.gz``; KiTS19, KiTS21 and KiTS23."""

import os
from pathlib import Path
from typing import Literal

from hlfd.cases import Case, DataSource
from hlfd.errors import InputError, complain
from hlfd.labels import LabelValues, RegionNames, Task, for_task, from_names, organ_and_tumor
from hlfd.sources import _layouts

LAYOUT = "case_00000/imaging.nii.gz, segmentation.nii.gz or aggregated_MAJ_seg.nii.gz"
MAJORITY = "aggregated_MAJ_seg"
Year = Literal[2019, 2021, 2023]


def recognises(root: Path) -> bool:
    """Whether there are cases in folders of their own, or the folder is one of them."""
    return any(map(_is_case, _folders(root)))


def build(
    root: Path,
    *,
    task: Task = "both",
    year: Year | None = None,
    segmentation: str | None = None,
    labels: LabelValues | None = None,
    regions: RegionNames | None = None,
    organ: str = "kidney",
    organ_value: int = 1,
    tumor_value: int | None = 2,
    ignore: tuple[int, ...] = (),
) -> DataSource:
    """KiTS19, KiTS21, KiTS23: a folder a case; kidney = 1, tumour = 2, and from 2021 cyst = 3.

    Args:
        root: the folder of the ``case_*`` folders, what holds it as ``data`` or ``dataset``, or one case folder itself.
        task: what to learn: ``tumor``, ``organ`` (with all that is in it) or ``both``: every label.
        year: of the challenge; None: 2021 if there is ``aggregated_MAJ_seg.nii.gz``, 2023 if there are ``instances``
            beside a segmentation or ``kits23.json``, else 2019. From 2021 the regions are kidney_and_mass, mass (tumour
            and cyst) and tumor.
        segmentation: name of the label files; None: ``aggregated_MAJ_seg`` in 2021, else ``segmentation``.
        labels: name -> value, or values, in the segmentations, instead of the year's and of what follows.
        regions: name -> names of the labels it is made of, instead of the year's.
        organ: the organ's name in tables; other data in this layout may hold another one.
        organ_value, tumor_value: values in the segmentations.
        ignore: further values that count as background.

    HU window -200..300 (HLFD paper). Folders without a segmentation are cases without labels.
    """
    folders = _folders(_layouts.require_folder(root))
    year = year or _year(root, folders)
    wanted = segmentation or (MAJORITY if year == 2021 else "segmentation")
    cases: list[Case] = []
    for folder in folders:
        image, label = _layouts.existing(folder, "imaging"), _layouts.existing(folder, wanted)
        if image is None and label is None:
            continue
        if image is None:
            complain(f"{folder}: has a segmentation and no imaging.nii.gz")
            continue
        name = os.path.basename(os.path.abspath(folder))  # not resolved: a link goes by its own name
        cases.append(Case(name, name, (image,), (label,) if label else None))
    if not cases:
        raise InputError(f"{root}: expected folders with imaging.nii.gz and {wanted}.nii.gz, found none")
    if labels is None and regions is None and (year == 2019 or tumor_value is None):
        declared = organ_and_tumor(task, organ, organ_value, tumor_value, ignore)
    else:
        values: LabelValues = {"background": ignore, organ: organ_value}
        values |= {} if tumor_value is None else {"tumor": tumor_value}
        if year != 2019:
            values["cyst"] = 3
            hierarchy: RegionNames = {f"{organ}_and_mass": (organ, "tumor", "cyst"), "mass": ("tumor", "cyst")}
            if labels is None:
                regions = regions or {**hierarchy, "tumor": "tumor"}
        declared = for_task(from_names(labels or values, regions), task)
    return _layouts.nifti_source("kits", cases, declared, (-200.0, 300.0))


def _folders(root: Path) -> list[Path]:
    """Folders that can be cases: the root itself, or those in it, or in its ``data`` or ``dataset``."""
    if not root.is_dir():
        return []
    if _has(root, "imaging"):
        return [root]
    for home in (root, root / "data", root / "dataset"):
        folders = sorted(p for p in home.iterdir() if p.is_dir()) if home.is_dir() else []
        if any(map(_is_case, folders)):
            return folders
    return []


def _is_case(folder: Path) -> bool:
    return any(_layouts.stem(path) in ("imaging", "segmentation", MAJORITY) for path in _layouts.nifti_files(folder))


def _has(folder: Path, stem: str) -> bool:
    return _layouts.existing(folder, stem) is not None


def _year(root: Path, folders: list[Path]) -> Year:
    if any(_has(folder, MAJORITY) for folder in folders):
        return 2021
    described = any((home / "kits23.json").is_file() for home in (root, root / "data", root / "dataset"))
    return 2023 if described or any((folder / "instances").is_dir() for folder in folders) else 2019

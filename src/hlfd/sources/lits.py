"""LiTS17 layout: ``ROOT/volume-N.nii`` and ``segmentation-N.nii``."""

from pathlib import Path

from hlfd.cases import Case, DataSource
from hlfd.errors import InputError, complain
from hlfd.io import nifti
from hlfd.labels import Task, organ_and_tumor
from hlfd.sources import _layouts


def build(root: Path, *, task: Task = "both") -> DataSource:
    """LiTS17: files side by side, liver = 1, tumour = 2.

    Args:
        root: the folder with ``volume-N.nii`` (or ``.nii.gz``).
        task: what to learn: ``tumor``, ``organ`` (with its tumour) or ``both``.

    HU window -40..160 (HLFD paper). Volumes without a segmentation are cases without labels.
    """
    _layouts.require_folder(root)
    volumes = (p for p in root.glob("volume-*") if p.name.endswith(nifti.SUFFIXES))
    images = sorted(volumes, key=lambda p: _layouts.by_number(p.name.split(".")[0]))
    cases: list[Case] = []
    for image in images:
        number = image.name.split(".")[0].removeprefix("volume-")
        label = _layouts.existing(root, f"segmentation-{number}")
        if any(case.id == f"volume-{number}" for case in cases):
            complain(f"{root}: expected each volume once, got volume-{number} as .nii and as .nii.gz")
            continue
        cases.append(Case(f"volume-{number}", f"volume-{number}", (image,), (label,) if label else None))
    orphans = {p.name.split(".")[0].removeprefix("segmentation-") for p in root.glob("segmentation-*.nii*")}
    orphans -= {case.id.removeprefix("volume-") for case in cases}
    for number in sorted(orphans):
        complain(f"{root}: segmentation-{number} has no volume-{number} beside it")
    if not cases:
        raise InputError(f"{root}: expected volume-N.nii and segmentation-N.nii, found none")
    return _layouts.nifti_source("lits", cases, organ_and_tumor(task, "liver"), (-40.0, 160.0))

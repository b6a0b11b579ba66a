"""KiTS19 layout: ``ROOT/case_00000/imaging.nii.gz`` and ``segmentation.nii.gz``."""

from pathlib import Path

from hlfd.cases import Case, DataSource
from hlfd.errors import InputError, complain
from hlfd.labels import Task, organ_and_tumor
from hlfd.sources import _layouts


def build(
    root: Path,
    *,
    task: Task = "both",
    organ: str = "kidney",
    organ_value: int = 1,
    tumor_value: int | None = 2,
    ignore: tuple[int, ...] = (),
) -> DataSource:
    """KiTS19: a folder a case, kidney = 1, tumour = 2.

    Args:
        root: the folder of the ``case_*`` folders, or one case folder itself.
        task: what to learn: ``tumor``, ``organ`` (with its tumour) or ``both``.
        organ: the organ's name in tables; other data in this layout may hold another one.
        organ_value, tumor_value: values in ``segmentation.nii.gz``.
        ignore: further values that count as background.

    HU window -200..300 (HLFD paper). Folders without a segmentation are cases without labels.
    """
    _layouts.require_folder(root)
    folders = [root] if _layouts.existing(root, "imaging") else sorted(p for p in root.iterdir() if p.is_dir())
    cases: list[Case] = []
    for folder in folders:
        image, label = _layouts.existing(folder, "imaging"), _layouts.existing(folder, "segmentation")
        if image is None and label is None:
            continue
        if image is None:
            complain(f"{folder}: has a segmentation and no imaging.nii.gz")
            continue
        name = folder.resolve().name
        cases.append(Case(name, name, (image,), (label,) if label else None))
    if not cases:
        raise InputError(f"{root}: expected folders with imaging.nii.gz and segmentation.nii.gz, found none")
    labels = organ_and_tumor(task, organ, organ_value, tumor_value, ignore)
    return _layouts.nifti_source("kits", cases, labels, (-200.0, 300.0))

"""What the NIfTI sources share: a list of pairs, read with the checks that every pair gets."""

import re
from pathlib import Path

from hlfd.cases import Case, DataSource
from hlfd.errors import InputError
from hlfd.io import nifti
from hlfd.labels import Labels
from hlfd.volume import Volume


def require_folder(root: Path) -> Path:
    """``root`` if it is a folder, else `InputError`."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    return root


def nifti_source(name: str, cases: list[Case], labels: Labels, window_hu: tuple[float, float]) -> DataSource:
    """A source of NIfTI pairs: image and label map of each case lie on one grid, or reading the label is an error."""

    def read_image(case: Case) -> Volume:
        return nifti.read_image(case.image[0])

    def read_label(case: Case) -> Volume:
        if case.label is None:
            raise InputError(f"case {case.id}: has no label file")
        path = case.label[0]
        label = nifti.read_label(path)
        nifti.read_grid(case.image[0]).require_same_grid(label, f"{path} against {case.image[0].name}")
        return Volume(labels.to_classes(label.voxels, str(path)), label.affine)

    return DataSource(name, cases, labels, window_hu, read_image, read_label)


def existing(folder: Path, stem: str) -> Path | None:
    """``folder/stem.nii.gz`` or ``folder/stem.nii``, whichever exists."""
    return next((folder / (stem + s) for s in nifti.SUFFIXES if (folder / (stem + s)).is_file()), None)


def by_number(text: str) -> tuple[int, str]:
    """Sort key: ``volume-2`` before ``volume-10``."""
    digits = re.findall(r"\d+", text)
    return (int(digits[-1]) if digits else -1, text)

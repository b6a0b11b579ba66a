"""Which files of two folders belong to one case: flat, in KiTS's folders, or called as LiTS and submissions are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from hlfd.errors import InputError
from hlfd.io import nifti

_IN_FOLDERS = ("segmentation", "aggregated_MAJ_seg")
"""Label maps of KiTS19 and KiTS23, and of KiTS21, whose case is the folder's name."""
_CALLED = ((r"^(test-)?segmentation-(?=\d)", r"\1volume-"), (r"^prediction_(?=\d)", "case_"))
"""LiTS: volume-7 and segmentation-7 are one case; KiTS: a submission calls case_00210 prediction_00210."""


@dataclass(frozen=True)
class Files:
    """The files of one case."""

    case: str
    prediction: Path
    reference: Path
    probabilities: Path | None = None


def pair_files(predictions: Path, references: Path, probabilities: Path | None = None) -> list[Files]:
    """The files of every case, in the order of their names.

    Raises:
        InputError: no such folder, no label maps, a case without a prediction, a prediction without a reference.
    """
    predicted, real = _cases(predictions), _cases(references)
    if not real:
        raise InputError(
            f"{references}: expected label maps, CASE.nii.gz, CASE/segmentation.nii.gz or "
            "CASE/aggregated_MAJ_seg.nii.gz, found none"
        )
    missing = [case for case in real if case not in predicted]
    if missing:
        raise InputError(f"{predictions}: no prediction for {len(missing)} of {len(real)} cases: {_some(missing)}")
    extra = [case for case in predicted if case not in real]
    if extra:
        raise InputError(f"{references}: no reference for {len(extra)} of the predictions: {_some(extra)}")
    sure = _cases(probabilities) if probabilities is not None else {}
    if probabilities is not None and (missing := [case for case in real if case not in sure]):
        raise InputError(f"{probabilities}: no probabilities for {len(missing)} cases: {_some(missing)}")
    return [Files(case, predicted[case], real[case], sure.get(case)) for case in real]


def _cases(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    flat = {path: path.name.removesuffix(s) for path in folder.iterdir() if (s := nifti.suffix_of(path))}
    if any(re.match(r"(test-)?segmentation-\d", stem) for stem in flat.values()):  # LiTS: the volumes are scans
        flat = {path: stem for path, stem in flat.items() if not re.match(r"(test-)?volume-\d", stem)}
    inside = {path: path.parent.name for name in _IN_FOLDERS for path in folder.glob(f"*/{name}.nii*")}
    found: dict[str, Path] = {}
    for path, name in sorted({**flat, **inside}.items()):
        if not path.is_file() or not nifti.suffix_of(path) or path.name.startswith("imaging."):
            continue
        case = reduce(lambda known, rule: re.sub(*rule, known), _CALLED, name)
        if case in found:
            raise InputError(f"{folder}: expected each case once, got {found[case].name} and {path.name}")
        found[case] = path
    return found


def _some(cases: Sequence[str]) -> str:
    return ", ".join(cases[:5]) + (", ..." if len(cases) > 5 else "")

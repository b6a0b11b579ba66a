"""What the NIfTI sources share: a list of pairs, read with the checks that every pair gets."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hlfd.cases import Case, DataSource
from hlfd.errors import InputError, nearest, unreadable
from hlfd.io import nifti
from hlfd.io.files import no_such
from hlfd.labels import Labels
from hlfd.volume import Volume

ABDOMEN_HU = (-160.0, 240.0)
"""Window of sources that don't say which organ they are about: soft tissue, level 40, width 400."""


def require_folder(root: Path) -> Path:
    """``root`` if it is a folder, else `InputError`."""
    if not root.is_dir():
        raise no_such(root)
    return root


def nifti_source(
    name: str,
    cases: list[Case],
    labels: Labels,
    window_hu: tuple[float, float],
    *,
    channel: int | None = None,
    placed: Callable[[Case, Volume], Volume] = lambda _, volume: volume,
    notes: tuple[str, ...] = (),
    splits: Path | None = None,
    test: frozenset[str] = frozenset(),
) -> DataSource:
    """A source of NIfTI pairs: image and label map of each case lie on one grid, or reading the label is an error.

    Args:
        channel: which one of an image's fourth axis, if it has one.
        placed: puts a case's image, or label map, where it should lie.
        notes, splits, test: of the `DataSource`.
    """

    def read_image(case: Case) -> Volume:
        return placed(case, nifti.read_image(case.image[0], channel, compact=True))

    def read_label(case: Case) -> Volume:
        if case.label is None:
            raise InputError(f"case {case.id}: has no label file")
        path = case.label[0]
        label = nifti.read_label(path)
        nifti.read_grid(case.image[0], channel).require_same_grid(label, f"{path} against {case.image[0].name}")
        return placed(case, Volume(labels.to_classes(label.voxels, str(path)), label.affine))

    return DataSource(name, cases, labels, window_hu, read_image, read_label, notes, splits, test)


def existing(folder: Path, name: str) -> Path | None:
    """``folder/name.nii.gz`` or ``folder/name.nii``, whichever exists."""
    usual = (path for suffix in nifti.SUFFIXES if (path := folder / (name + suffix)).is_file())
    return next(usual, None) or max((path for path in nifti_files(folder) if stem(path) == name), default=None)


def nifti_files(folder: Path) -> list[Path]:
    """The NIfTI files of a folder in the order of their names, without hidden ones; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if nifti.suffix_of(p) and p.name[0] != "." and p.is_file())


def stem(path: Path) -> str:
    """The name without ``.nii`` or ``.nii.gz``, in capitals or not."""
    suffix = nifti.suffix_of(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def by_number(text: str) -> tuple[int, str]:
    """Sort key: ``volume-2`` before ``volume-10``."""
    digits = re.findall(r"\d+", text)
    return (int(digits[-1]) if digits else -1, text)


def read_description(root: Path) -> dict[str, Any]:
    """``dataset.json`` of a folder. Raises `InputError` if it is missing or no mapping in JSON."""
    path = require_folder(root) / "dataset.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file, which says what the labels mean")
    try:
        found = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise unreadable(path, "JSON", error) from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a mapping, got {type(found).__name__}")
    return found


def channel_index(where: Path, names: Any, wanted: int | str, window_hu: tuple[float, float] | None) -> int:
    """The number of a channel that ``{"0": "CT", ...}`` names.

    Raises:
        InputError: no such channel; one that is no CT, for which no window is given.
    """
    if not isinstance(names, dict) or not names:
        raise InputError(f'{where}: expected the names of the channels, {{"0": "CT"}}, got {names!r}')
    known = {str(key): str(name) for key, name in names.items()}
    by_name = {name: key for key, name in known.items()}
    key = by_name.get(wanted, wanted) if isinstance(wanted, str) else str(wanted)
    if key not in known:
        raise InputError(f"{where}: there is no channel {wanted!r}{nearest(str(wanted), [*known, *by_name])}")
    if "ct" not in known[key].lower() and window_hu is None:
        raise InputError(f"{where}: channel {key} is '{known[key]}', expected CT; for another, set source.window_hu")
    return int(key)

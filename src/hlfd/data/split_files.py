"""Split files: ours, and nnU-Net's ``splits_final.json``."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from hlfd.data.splits import PARTS, UNLABELLED, Split, make_splits
from hlfd.errors import InputError, nearest
from hlfd.io.files import write_json


def write_splits(path: Path, splits: list[Split]) -> None:
    """Write a file that `read_splits` reads."""
    write_json(path, {"version": 1, "folds": [asdict(split) for split in splits]})


def read_splits(path: Path, patients: Iterable[str], unlabelled: Iterable[str] = ()) -> list[Split]:
    """Read a split file: ``{"folds": [{"train": [...], "validation": [...], "test": [...]}, ...]}``.

    A fold may also list ``unlabelled`` patients.

    Args:
        patients: those with labels.
        unlabelled: those without, who can only be ``unlabelled``.

    Raises:
        InputError: not such a file, an unknown patient, a patient in two parts, an empty part, a patient without labels
            in a part that needs them.
    """
    labelled = set(patients)
    known = labelled.union(unlabelled)
    found = _read(path)
    try:
        splits = [_split(fold) for fold in found["folds"]]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: expected {_OURS}, got {error!r}") from None
    for split in splits:
        for part in PARTS:
            if not getattr(split, part):
                raise InputError(f"{path}: {part} is empty")
        for patient in (p for part in (*PARTS, UNLABELLED) for p in getattr(split, part)):
            if patient not in known:
                raise InputError(f"{path}: there is no patient '{patient}' in the data{nearest(patient, known)}")
            if patient not in labelled and patient not in split.unlabelled:
                raise InputError(f"{path}: patient '{patient}' has no labels, it can only be {UNLABELLED}")
    return splits


def is_nnunet(path: Path) -> bool:
    """Whether it is a list of folds, as nnU-Net writes it. Raises `InputError` for a file that is no JSON."""
    return isinstance(_read(path), list)


def read_nnunet_splits(
    path: Path, patient_of: Mapping[str, str], *, held_out: Collection[str] = (), **drawn: Any
) -> list[Split]:
    """Read nnU-Net's ``splits_final.json``: ``[{"train": [CASE, ...], "val": [CASE, ...]}, ...]``.

    nnU-Net trains to the end and reports on ``val``, so that ``val`` is the test set here, and the patients to choose
    a checkpoint by are drawn from ``train``. Of data with test patients of their own, ``val`` is the validation set.

    Args:
        patient_of: case -> patient, of the cases with labels.
        held_out: the data's own test patients.
        drawn: seed, validation, labelled, unlabelled and volumes as in `make_splits`.

    Raises:
        InputError: not such a file, an unknown case, a patient in two parts, an empty part.
    """
    splits: list[Split] = []
    for number, fold in enumerate(_read(path)):
        try:
            train, val = ({_patient(case, patient_of) for case in fold[part]} for part in ("train", "val"))
            if not train or not val:
                raise InputError("expected cases in train and in val, got none in one of them")
            if train & val:
                raise InputError(f"patient {min(train & val)} is both in train and in val")
            if both := (train | val).intersection(held_out):
                raise InputError(f"patient {min(both)} is both in {'train' if both & train else 'val'} and in test")
            parts: dict[str, Any] = {"held_out": held_out, "validation": val} if held_out else {"held_out": val}
            splits += make_splits(train | val, test=0, **(drawn | parts))
        except InputError as error:
            raise InputError(f"{path}: fold {number}: {error}") from None
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: fold {number}: expected {_NNUNET}, got {error!r}") from None
    if not splits:
        raise InputError(f"{path}: expected folds, got none")
    return splits


_OURS = '{"folds": [{"train": [...], "validation": [...], "test": [...]}]}'
_NNUNET = '{"train": [CASE, ...], "val": [CASE, ...]}'


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected {_OURS}, got {error!r}") from None


def _split(fold: dict[str, Any]) -> Split:
    parts = {part: fold[part] for part in PARTS} | {UNLABELLED: fold.get(UNLABELLED, [])}
    for part, listed in parts.items():
        if not isinstance(listed, list) or not all(isinstance(p, str) for p in cast(list[Any], listed)):
            raise InputError(f"{part}: expected a list of patients, got {listed!r}")
    return Split(**{part: tuple(listed) for part, listed in parts.items()})


def _patient(case: Any, patient_of: Mapping[str, str]) -> str:
    if case not in patient_of:
        raise InputError(f"there is no case '{case}' with labels in the data{nearest(str(case), patient_of)}")
    return patient_of[case]

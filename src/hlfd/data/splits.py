"""Train, validation and test: by patient, seeded, written down."""

import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from hlfd.errors import InputError, nearest
from hlfd.io.files import write_json

PARTS, UNLABELLED = ("train", "validation", "test"), "unlabelled"


@dataclass(frozen=True)
class Split:
    """Patients of each part. No patient is in two of them.

    Attributes:
        train, validation, test: patients with labels.
        unlabelled: patients to distil on without their labels, which they may not even have.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    unlabelled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parts = [(name, set(getattr(self, name))) for name in (*PARTS, UNLABELLED)]
        for i, (name, patients) in enumerate(parts):
            for other, others in parts[i + 1 :]:
                if patients & others:
                    raise InputError(f"patient {min(patients & others)} is both in {name} and in {other}")


def make_splits(
    patients: Iterable[str],
    *,
    seed: int,
    validation: float,
    test: float,
    folds: int | None = None,
    labelled: float | None = None,
    unlabelled: Iterable[str] = (),
) -> list[Split]:
    """Shuffle the patients with ``seed`` and cut them.

    Args:
        patients: those with labels.
        validation, test: a share below 1, or a number of patients.
        folds: cut into this many test sets instead of one (``test`` is then not used); each patient is tested once.
        labelled: a share below 1, or a number, of training patients whose labels are used; the others join
            ``unlabelled``.
        unlabelled: patients without labels, the same in every fold.

    Returns:
        one split, or one a fold.

    Raises:
        InputError: too few patients for the folds or the parts, or for ``labelled``.
    """
    order = sorted(set(patients))
    random.Random(seed).shuffle(order)

    def count(share: float) -> int:
        return round(share * len(order)) if share < 1 else int(share)

    if folds is None:
        tests = [order[: max(count(test), 1)]]
    else:
        if not 2 <= folds <= len(order):
            raise InputError(f"folds: expected 2 to {len(order)} (the number of patients), got {folds}")
        tests = [order[fold::folds] for fold in range(folds)]
    splits: list[Split] = []
    for held_out in tests:
        rest = [p for p in order if p not in set(held_out)]
        n = max(count(validation), 1)
        if len(rest) <= n:
            raise InputError(
                f"{len(order)} patients are too few for {len(held_out)} to test, {n} to validate and one to train"
            )
        train = rest[n:]
        kept = len(train)
        if labelled is not None:
            kept = max(round(labelled * len(train)), 1) if labelled < 1 else int(labelled)
        if kept > len(train):
            raise InputError(f"labelled: expected at most {len(train)}, the number of training patients, got {kept}")
        without = (*unlabelled, *train[kept:])
        splits.append(Split(*(tuple(sorted(part)) for part in (train[:kept], rest[:n], held_out, without))))
    return splits


def inner_splits(split: Split, folds: int, seed: int) -> list[Split]:
    """Splits for as many teachers, each of which leaves out its share of the training patients.

    Every training patient is in ``test`` of exactly one split, the one whose teacher has not seen it. Validation is
    that of ``split`` for all; its test patients are in none.

    Raises:
        InputError: fewer training patients than folds.
    """
    order = list(split.train)
    if len(order) < folds:
        raise InputError(f"{len(order)} training patients are too few for {folds} teachers that each leave some out")
    random.Random(seed).shuffle(order)
    parts = [order[k::folds] for k in range(folds)]
    return [Split(tuple(sorted(set(order) - set(part))), split.validation, tuple(sorted(part))) for part in parts]


def write_splits(path: Path, splits: list[Split]) -> None:
    """Write a file that `read_splits` reads."""
    write_json(path, {"version": 1, "folds": [asdict(split) for split in splits]})


def _split(fold: dict[str, Any]) -> Split:
    parts = {part: fold[part] for part in PARTS} | {UNLABELLED: fold.get(UNLABELLED, [])}
    for part, listed in parts.items():
        if not isinstance(listed, list) or not all(isinstance(p, str) for p in cast(list[Any], listed)):
            raise InputError(f"{part}: expected a list of patients, got {listed!r}")
    return Split(**{part: tuple(listed) for part, listed in parts.items()})


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
    try:
        folds = json.loads(path.read_text())["folds"]
        splits = [_split(fold) for fold in folds]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'{path}: expected {{"folds": [{{"train": [...], "validation": [...], "test": [...]}}]}}, got {error!r}'
        ) from None
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

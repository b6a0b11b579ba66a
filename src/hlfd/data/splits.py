"""Train, validation and test: by patient, seeded, written down."""

import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from hlfd.errors import InputError, nearest
from hlfd.io.files import write_json

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Patients of each part. No patient is in two of them."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        parts = [(name, set(getattr(self, name))) for name in PARTS]
        for i, (name, patients) in enumerate(parts):
            for other, others in parts[i + 1 :]:
                if patients & others:
                    raise InputError(f"patient {min(patients & others)} is both in {name} and in {other}")


def make_splits(
    patients: Iterable[str], *, seed: int, validation: float, test: float, folds: int | None = None
) -> list[Split]:
    """Shuffle the patients with ``seed`` and cut them.

    Args:
        validation, test: a share below 1, or a number of patients.
        folds: cut into this many test sets instead of one (``test`` is then not used); each patient is tested once.

    Returns:
        one split, or one a fold.
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
        splits.append(Split(tuple(sorted(rest[n:])), tuple(sorted(rest[:n])), tuple(sorted(held_out))))
    return splits


def write_splits(path: Path, splits: list[Split]) -> None:
    """Write a file that `read_splits` reads."""
    write_json(path, {"version": 1, "folds": [asdict(split) for split in splits]})


def read_splits(path: Path, patients: Iterable[str]) -> list[Split]:
    """Read a split file: ``{"folds": [{"train": [...], "validation": [...], "test": [...]}, ...]}``.

    Raises:
        InputError: not such a file, an unknown patient, a patient in two parts, an empty part.
    """
    known = set(patients)
    try:
        folds = json.loads(path.read_text())["folds"]
        splits = [Split(*(tuple(fold[part]) for part in PARTS)) for fold in folds]
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
            for patient in getattr(split, part):
                if patient not in known:
                    raise InputError(f"{path}: there is no patient '{patient}' in the data{nearest(patient, known)}")
    return splits

"""Train, validation and test: by patient, seeded."""

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hlfd.data.store import Store, StoredCase
from hlfd.errors import InputError

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

    @property
    def patients(self) -> tuple[str, ...]:
        """Of all parts."""
        return self.train + self.validation + self.test + self.unlabelled


def make_splits(
    patients: Iterable[str],
    *,
    seed: int,
    validation: float | Collection[str],
    test: float,
    folds: int | None = None,
    labelled: float | None = None,
    unlabelled: Iterable[str] = (),
    volumes: Mapping[str, float] | None = None,
    held_out: Collection[str] = (),
) -> list[Split]:
    """Shuffle the patients with ``seed`` and cut them.

    Args:
        patients: those with labels.
        validation, test: a share below 1, or a number of patients; for validation also the patients themselves.
        folds: cut into this many test sets instead of one (``test`` is then not used); each patient is tested once.
        labelled: a share below 1, or a number, of training patients whose labels are used; the others join
            ``unlabelled``.
        unlabelled: patients without labels, the same in every fold.
        volumes: patient -> volume of tumour in any unit, 0 where there is none; each part then gets its share of small
            tumours, of large ones and of patients without any.
        held_out: patients that the data set itself keeps for testing; they are the test set, ``test`` is not used.

    Returns:
        one split, or one a fold.

    Raises:
        InputError: too few patients for the folds or the parts, or for ``labelled``; ``folds`` of data with a test set
            of their own.
    """
    order = sorted(set(patients).difference(held_out))
    random.Random(seed).shuffle(order)
    chance = random.Random(seed)
    if volumes is not None:
        order.sort(key=lambda patient: -volumes[patient])  # stable: those without a tumour stay shuffled

    def take(those: list[str], n: int) -> list[str]:
        return those[:n] if volumes is None else _spread(those, n, chance)

    def count(share: float) -> int:
        return round(share * len(order)) if share < 1 else int(share)

    if held_out:
        if folds is not None:
            raise InputError(
                f"folds: the data come with {len(held_out)} test patients of their own, so there is one split; "
                "set split.from_source to false to cut folds of all patients"
            )
        tests = [sorted(held_out)]
    elif folds is None:
        tests = [take(order, max(count(test), 1))]
    else:
        if not 2 <= folds <= len(order):
            raise InputError(f"folds: expected 2 to {len(order)} (the number of patients), got {folds}")
        if volumes is not None:  # those of like volume go to different folds
            for start in range(0, len(order), folds):
                order[start : start + folds] = chance.sample(alike := order[start : start + folds], len(alike))
        tests = [order[fold::folds] for fold in range(folds)]
    splits: list[Split] = []
    for tested in tests:
        rest = [p for p in order if p not in set(tested)]
        n = max(count(validation), 1) if isinstance(validation, float | int) else len(validation)
        if len(rest) <= n:
            raise InputError(
                f"{len(order)} patients are too few for {len(tested)} to test, {n} to validate and one to train"
            )
        validated = take(rest, n) if isinstance(validation, float | int) else sorted(validation)
        train = [p for p in rest if p not in set(validated)]
        kept = len(train)
        if labelled is not None:
            kept = max(round(labelled * len(train)), 1) if labelled < 1 else int(labelled)
        if kept > len(train):
            raise InputError(f"labelled: expected at most {len(train)}, the number of training patients, got {kept}")
        chosen = take(train, kept)
        without = (*unlabelled, *(p for p in train if p not in set(chosen)))
        splits.append(Split(*(tuple(sorted(part)) for part in (chosen, validated, tested, without))))
    return splits


def _spread(order: list[str], n: int, chance: random.Random) -> list[str]:
    """``n`` patients, one from each of as many stretches of ``order``."""
    ends = [round(k * len(order) / n) for k in range(n + 1)]
    return [chance.choice(order[a:b]) for a, b in pairwise(ends)] if n <= len(order) else order


def tumor_volumes(store: Store, classes: Collection[int]) -> dict[str, float]:
    """Patient -> mm³ of these classes in the prepared stacks, over all cases with labels."""
    volumes: dict[str, float] = defaultdict(float)
    for case in store.cases.values():
        if case.labelled:
            voxel_mm3 = abs(float(np.linalg.det(case.geometry.affine[:3, :3])))
            volumes[case.patient] += voxel_mm3 * float(case.counts[:, list(classes)].sum())
    return dict(volumes)


def require_distinct(store: Store, split: Split) -> None:
    """Raise `InputError` if two patients in different parts of a split have the same scan, voxel for voxel."""
    part_of = {patient: name for name in (*PARTS, UNLABELLED) for patient in getattr(split, name)}
    first: dict[str, StoredCase] = {}
    for case in store.cases.values():
        if case.patient not in part_of:
            continue
        other = first.setdefault(case.image_sha256, case)
        parts = part_of[other.patient], part_of[case.patient]
        if parts[0] != parts[1]:
            raise InputError(
                f"case {other.id} in {parts[0]} and case {case.id} in {parts[1]} are the same scan: take one of them "
                "out, or give both to one patient (source.patient_of)"
            )


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

"""Job: all that decides one run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hlfd.data.splits import PARTS, UNLABELLED, Split
from hlfd.data.store import Store
from hlfd.errors import InputError
from hlfd.labels import Labels
from hlfd.machine import Machine
from hlfd.sections import Method, Plugin, TeacherSection, TrainingSection
from hlfd.training.teachers import Opened


@dataclass(frozen=True)
class Job:
    """All that decides one run.

    Attributes:
        folder: the run folder.
        network: the plug-in to train.
        method: the distillation method, or None for a network that learns from labels alone.
        teachers: only for methods with terms.
        unseen_only: a patient is taught only by teachers that did not learn from it.
        data: name of the data set, for `patient_keys`.
        cache: folder of teacher caches; None: none is kept.
        machine: on what it runs; not part of the settings.
    """

    folder: Path
    network: Plugin
    training: TrainingSection
    store: Store
    split: Split
    labels: Labels
    data: str
    seed: int
    method: Method | None = None
    teachers: tuple[TeacherSection, ...] = ()
    unseen_only: bool = False
    cache: Path | None = None
    machine: Machine = field(default_factory=Machine)

    @property
    def unlabelled(self) -> tuple[str, ...] | None:
        """Patients to distil on without labels; None: none, and no case without labels."""
        return self.split.unlabelled if self.training.unlabelled_share and self.teachers else None

    @property
    def method_options(self) -> dict[str, Any] | None:
        """The method as a recipe would write it, without what it is called there."""
        return self.method and self.method.model_dump(mode="json", exclude_defaults=True, exclude={"run_name"})

    def settings(self, teachers: Sequence[Opened]) -> dict[str, Any]:
        """What must be equal for a run to be continued."""
        patients = (*self.split.train, *self.split.validation, *(self.unlabelled or ()))
        return {
            "network": self.network.model_dump(),
            "method": self.method_options,
            "training": self.training.model_dump(exclude={"cache", "diagnose_every"}),
            "seed": self.seed,
            "data": self.data,
            "labels": {"names": list(self.labels.names), "raw": sorted(self.labels.raw.items())},
            "preprocess": self.store.preprocess.model_dump(mode="json"),
            "split": {part: list(getattr(self.split, part)) for part in PARTS}
            | {UNLABELLED: list(self.unlabelled or ())},
            "cases": self.store.digest(patients),
            "teachers": [
                {
                    **t.section.model_dump(mode="json", exclude={"model", "learned_from"}),
                    "sha256": t.sha256,
                    "learned_from": sorted(t.learned_from),
                }
                for t in teachers
            ],
            "unseen_only": self.unseen_only,
            "processes": self.machine.processes,  # each takes `batch_size` samples to a step
        }


def require_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `InputError` where the settings of a run on record differ from these, naming the first that does."""
    for key, new in now.items():
        sides = [before.get(key, new), new]
        if sides[0] != sides[1]:
            if all(isinstance(side, dict) for side in sides):  # what differs is enough
                keys = [k for k in {**sides[0], **sides[1]} if sides[0].get(k) != sides[1].get(k)]
                sides = [{k: side.get(k) for k in keys} for side in sides]
            old, got = (json.dumps(side)[:200] for side in sides)
            raise InputError(
                f"{folder}: holds a run with another {key}; choose another output or remove it "
                f"(expected {old}, got {got})"
            )

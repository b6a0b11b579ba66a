"""The teachers' own heads: fitted before a student trains, and kept under the name of what they depend on."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import safetensors
import safetensors.torch
import torch
from filelock import FileLock

from hlfd.distill.teaching import Teaching
from hlfd.errors import unreadable
from hlfd.io.files import write_atomic
from hlfd.progress import console
from hlfd.training.job import Job
from hlfd.training.loaders import Loaders
from hlfd.training.logs import CsvLog
from hlfd.training.module import Batch, TrainingModule
from hlfd.training.teachers import Opened


class Heads:
    """The heads of a job's teachers.

    Their weights follow from teacher, data and how they are fitted, not from the student or its seed: the students of a
    study, and the trials of a search, share them, and so the cache of what they say.
    """

    def __init__(self, job: Job, teachers: Sequence[Opened], lessons: Teaching, loaders: Loaders):
        self.lessons, self.loaders, self.steps = lessons, loaders, job.training.head_steps
        depends = _depends_on(job, teachers, lessons)
        name = _hash(depends)
        # Not of the weights: a teacher that differs by rounding alone gets heads that do.
        self.seed = int(_hash({key: depends[key] for key in depends if key not in ("identities", "teachers")})[:8], 16)
        folder = None if job.training.cache == "never" else job.cache
        self.path = None if folder is None else folder / f"heads-{name}.safetensors"

    def take(self) -> bool:
        """Take those that were fitted before, or find that there are none to fit; whether all are ready."""
        heads = self.lessons.heads()
        if heads and not self.lessons.heads_are_fitted:
            if self.path is None or not self.path.exists():
                return False
            try:
                kept = safetensors.torch.load_file(self.path)
            except safetensors.SafetensorError as error:
                raise unreadable(self.path, "the teacher's fitted heads, or no file", error) from None
            for name, head in heads.items():
                head.load_state_dict({part: kept[f"{name}.{part}"] for part in head.state_dict()})
        self.lessons.freeze_heads()
        return True

    def fit(self, module: TrainingModule, device: torch.device, log: CsvLog | None = None) -> None:
        """Fit the heads before the student trains, unless they were before.

        Every process does so on the batches of all, or takes what the first one fitted. Logged at the steps before 0
        as ``head.TERM``.
        """
        if self.take():
            return
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock") if self.path is not None else nullcontext():
            if self.take():  # from another process, meanwhile
                return
            started = time.perf_counter()
            self._fit(module, device, log)
            module.head_seconds += time.perf_counter() - started
            if self.path is not None:
                heads = self.lessons.heads().items()
                weights = {f"{name}.{k}": v.contiguous() for name, head in heads for k, v in head.state_dict().items()}
                write_atomic(self.path, safetensors.torch.save(weights))

    def _fit(self, module: TrainingModule, device: torch.device, log: CsvLog | None) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for head in self.lessons.heads().values():
                head.reset()
        module.place_teachers(device)
        console.print(f"fitting the teacher's heads, {self.steps} steps", highlight=False)
        total = self.steps * len(self.lessons.teachers)
        for step, losses in enumerate(self.lessons.fit_heads(lambda: self._batches(module, device))):
            if log is not None and (step % 10 == 0 or step == total - 1):
                log.log_metrics(losses, step - total)

    def _batches(self, module: TrainingModule, device: torch.device) -> Iterator[Batch]:
        done, loader = 0, self.loaders.whole_batches(self.seed)
        while True:
            for batch in loader:
                image, target, position = (tensor.to(device) for tensor in batch)
                step = (image, target, position)
                ready = module.prepare_batch(step, done, self.seed)
                yield ready.teacher, ready.target, module.patients_of(step)
                done += 1
                if done == self.steps:
                    return


def _hash(depends: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


def _depends_on(job: Job, teachers: Sequence[Opened], lessons: Teaching) -> dict[str, Any]:
    settings, training, augment = job.settings(teachers), job.training, job.training.augmentation
    return {
        "terms": {name: row["teacher"] for name, row in lessons.table().items() if f"0.{name}" in lessons.heads()},
        "identities": [teacher.identity for teacher in teachers],
        **{key: settings[key] for key in ("teachers", "unseen_only", "data", "labels", "preprocess")},
        "patients": [*job.split.train, *(job.unlabelled or ())],
        "unlabelled": list(job.unlabelled or ()),
        "cases": job.store.digest((*job.split.train, *(job.unlabelled or ()))),
        "training": training.model_dump(
            include={"head_steps", "samples_per_epoch", "rare_share", "unlabelled_share", "teacher_precision"}
        ),
        "batch": training.batch_size * job.machine.processes,
        "augment": [augment.turns, augment.spatial, augment.intensity == "both"],
    }

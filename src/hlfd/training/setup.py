"""Setup: a job made ready for its first step: teachers opened, terms built, heads fitted, caches open."""

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import safetensors.torch
import torch

from hlfd.data.augment import orientations
from hlfd.data.preprocess import GridOptions
from hlfd.data.samples import Samples
from hlfd.distill.dry_run import times
from hlfd.distill.features import Tapped
from hlfd.errors import InputError
from hlfd.io.files import write_atomic
from hlfd.progress import console
from hlfd.sections import TrainingSection
from hlfd.segmenter import build_network
from hlfd.training.cache import KnowledgeCache
from hlfd.training.job import Job
from hlfd.training.loaders import Loaders
from hlfd.training.logs import CsvLog
from hlfd.training.module import Batch, TrainingModule
from hlfd.training.teachers import check_leakage, open_teacher, teaching


def precision_of(training: TrainingSection) -> Any:
    """Lightning's name of the precision that ``precision`` stands for on this machine."""
    gpu = torch.cuda.is_available()
    automatic = ("bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed") if gpu else "32-true"
    return {"auto": automatic, "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[training.precision]


def require_fitting(name: str, network: Tapped, preprocess: GridOptions) -> None:
    """Raise `InputError` for patches that a network's strides don't divide; prediction pads, training does not."""
    if preprocess.patch is None:
        return
    strides = [max(tap.along(network.dims)[axis] for tap in network.info().values()) for axis in range(network.dims)]
    if any(n % stride for n, stride in zip(preprocess.patch, strides, strict=True)):
        raise InputError(
            f"preprocess.patch: network '{name}' needs multiples of {times(strides)}, got {times(preprocess.patch)}"
        )


class Setup:
    """What a run and the building of its cache have in common.

    Attributes:
        teachers: opened, and checked for leakage.
        settings: what must be equal for a run to be continued.

    Raises:
        InputError: a teacher doesn't fit the job.
    """

    def __init__(self, job: Job):
        self.job = job
        self.teachers = [open_teacher(section, job.data, job.store.patients) for section in job.teachers]
        for teacher in self.teachers:
            check_leakage(teacher, job.data, job.split)
        self.settings: dict[str, Any] = json.loads(json.dumps(job.settings(self.teachers)))

    def build(self) -> TrainingModule:
        """Student, teachers and terms; the same random weights for the same settings."""
        job = self.job
        pl.seed_everything(job.seed, workers=True, verbose=False)
        network = build_network(
            job.network.name,
            job.network.options,
            job.labels.classes,
            in_channels=job.store.preprocess.channels,
            dims=job.store.preprocess.dims,
        )
        require_fitting(job.network.name, network, job.store.preprocess)
        self.train = Samples(job.store, job.split.train, job.unlabelled)
        self.validation = Samples(job.store, job.split.validation, once=True)
        lessons = teaching(
            network,
            job.method,
            self.teachers,
            preprocess=job.store.preprocess,
            labels=job.labels,
            data=job.data,
            patients=self.train.patients,
            unseen_only=job.unseen_only,
            unlabelled=bool(job.unlabelled),
            bf16=job.training.teacher_precision == "bf16",
        )
        self.loaders = Loaders(job, self.train, self.validation)
        return TrainingModule(
            network,
            lessons,
            job.labels,
            self.train,
            self.validation,
            job.training,
            job.seed,
            compile=job.machine.compile,
        )

    def fit_heads(self, module: TrainingModule, device: torch.device, log: CsvLog | None = None) -> None:
        """Fit the teachers' own heads before the student trains, or take those that the same settings fitted before.

        Logged at the steps before 0 as ``head.TERM``.
        """
        lessons, steps = module.teaching, module.settings.head_steps
        if not lessons.has_heads:
            lessons.freeze_heads()
            return
        kept = self._heads_file()
        if kept is not None and kept.exists():
            lessons.load_state_dict(safetensors.torch.load_file(kept), strict=False)
            lessons.freeze_heads()
            return
        started = time.perf_counter()
        module.place_teachers(device)
        console.print(f"fitting the teacher's heads, {steps} steps", highlight=False)
        total = steps * len(lessons.teachers)
        for step, losses in enumerate(lessons.fit_heads(lambda: self._batches(module, device, steps))):
            if log is not None and (step % 10 == 0 or step == total - 1):
                log.log_metrics(losses, step - total)
        module.add_seconds(time.perf_counter() - started)
        if kept is not None:
            heads = {k: v.contiguous() for k, v in lessons.state_dict().items() if ".teacher_head." in k}
            write_atomic(kept, safetensors.torch.save(heads))

    def _heads_file(self) -> Path | None:
        if self.job.cache is None or self.job.training.cache == "never":
            return None
        name = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]
        return self.job.cache / f"heads-{name}.safetensors"

    def _batches(self, module: TrainingModule, device: torch.device, steps: int) -> Iterator[Batch]:
        done, loader = 0, self.loaders.train_dataloader(0, 1)
        while True:
            for batch in loader:
                image, target, position = (tensor.to(device) for tensor in batch)
                step = (image, target, position)
                ready = module.prepare_batch(step, done)
                yield ready.teacher, ready.target, module.patients_of(step)
                done += 1
                if done == steps:
                    return

    def why_live(self, module: TrainingModule) -> str | None:
        """Why the teachers must run at every step; None: what they know can be kept."""
        endless, whole = self.job.training.augmentation.endless, module.teaching.whole_features()
        if endless:
            return f"augment.{endless}: every image is new to the teacher"
        return (
            f"{', '.join(whole)}: needs whole feature maps of the teacher, which are too large to keep"
            if whole
            else None
        )

    def keep_knowledge(self, module: TrainingModule) -> list[KnowledgeCache]:
        """Answer for the teachers from a cache each, where the method's terms allow it; the caches, to be closed.

        Raises:
            InputError: the recipe requires a cache, and a term can't be served from one.
        """
        job, lessons = self.job, module.teaching
        if job.training.cache == "never" or not lessons.teachers or job.cache is None:
            return []
        message = self.why_live(module)
        if message:
            if job.training.cache == "require":
                raise InputError(f"student_training.cache: require: {message}; set it to auto or never")
            console.print(f"no teacher cache: {message}", highlight=False)
            return []
        turns = orientations(self.train.plane, turns=job.training.augmentation.turns)
        addresses = [f"{address}:{turn}" for address in module.addresses for turn in turns]
        caches: list[KnowledgeCache] = []
        for k, opened in enumerate(self.teachers):
            teacher, distiller = lessons.pair(k)
            meta = {
                "teacher": opened.sha256,
                "view": repr(teacher.view),
                "preprocess": job.store.preprocess.model_dump_json(),
                "classes": ", ".join(job.labels.names),
                "precision": "bf16" if teacher.bf16 else precision_of(job.training),
            }
            name = hashlib.sha256(repr(sorted(meta.items())).encode()).hexdigest()[:16]
            path = job.cache / f"{name}.sqlite"
            caches.append(KnowledgeCache(path, teacher, distiller, meta=meta, addresses=addresses))
        lessons.keep(caches)
        return caches

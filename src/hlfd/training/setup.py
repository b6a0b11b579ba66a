"""Setup: a job made ready for its first step: teachers opened, terms built, heads fitted, caches open."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning.pytorch as pl
import torch

from hlfd.data.augment import orientations
from hlfd.data.preprocess import GridOptions
from hlfd.data.rows import ENCODING
from hlfd.data.samples import Samples
from hlfd.distill.dry_run import dry_run, times
from hlfd.distill.features import Tapped
from hlfd.distill.teaching import Teaching
from hlfd.distill.terms import sizes
from hlfd.errors import InputError
from hlfd.machine import computes_bf16
from hlfd.progress import console
from hlfd.sections import TrainingSection
from hlfd.segmenter import build_network
from hlfd.training.cache import KnowledgeCache
from hlfd.training.heads import Heads
from hlfd.training.job import Job
from hlfd.training.loaders import Loaders
from hlfd.training.module import TrainingModule
from hlfd.training.teachers import check_leakage, open_teacher, teaching


def precision_of(training: TrainingSection) -> Any:
    """Lightning's name of the precision that ``precision`` stands for on this machine."""
    gpu = torch.cuda.is_available()
    automatic = ("bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed") if gpu else "32-true"
    return {"auto": automatic, "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[training.precision]


def autocast(training: TrainingSection, device: torch.device) -> AbstractContextManager[Any]:
    """The precision of a training step, outside of one."""
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision_of(training))
    return nullcontext() if kind is None else torch.autocast(device.type, kind)


def require_fitting(name: str, network: Tapped, preprocess: GridOptions) -> None:
    """Raise `InputError` for patches that a network's strides don't divide; prediction pads, training does not."""
    if preprocess.patch is None:
        return
    strides = [max(tap.along(network.dims)[axis] for tap in network.info().values()) for axis in range(network.dims)]
    if any(n % stride for n, stride in zip(preprocess.patch, strides, strict=True)):
        raise InputError(
            f"preprocess.patch: network '{name}' needs multiples of {times(strides)}, got {times(preprocess.patch)}"
        )


SPARE = 0.9
"""The share of the free disk that the caches may take."""


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
        """Student, teachers and terms; the same random weights for the same settings.

        Raises:
            InputError: networks, teachers and terms that don't fit, or a cache is required and can't be had.
        """
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
        if job.training.cache == "require" and lessons.teachers and (message := self.why_live(lessons)):
            raise InputError(f"student_training.cache: require: {message}; set it to auto or never")
        if lessons.teachers and job.training.teacher_precision == "bf16" and not computes_bf16():
            console.print("teacher_precision: bf16: this processor has no instructions for it, and will be slower")
        self.loaders = Loaders(job, self.train, self.validation)
        self.heads = Heads(job, self.teachers, lessons, self.loaders)
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

    def why_live(self, lessons: Teaching) -> str | None:
        """Why the teachers must run at every step; None: what they know can be kept."""
        message = self.job.training.why_live(lessons.whole_features())
        return message or ("there is no folder to keep it in" if self.job.cache is None else None)

    def keep_knowledge(self, module: TrainingModule) -> list[KnowledgeCache]:
        """Answer for the teachers from a cache each, where the method's terms allow it; the caches, to be closed.

        Raises:
            InputError: too little disk; a cache that can't be written, and lacks answers.
        """
        job, lessons = self.job, module.teaching
        if job.training.cache == "never" or not lessons.teachers:
            return []
        message = self.why_live(lessons)
        if message or job.cache is None:
            console.print(f"no teacher cache: {message}", highlight=False)
            return []
        self.heads.take()
        turns = orientations(self.train.plane, turns=job.training.augmentation.turns)
        patients = self.train.patient_of()
        caches: list[KnowledgeCache] = []
        for k, opened in enumerate(self.teachers):
            teacher, distiller = lessons.pair(k)
            meta = {
                **opened.identity,
                "view": repr(teacher.view),
                "preprocess": job.store.preprocess.model_dump_json(),
                "classes": ", ".join(job.labels.names),
                "precision": "bf16" if teacher.bf16 else precision_of(job.training),
                "encoding": ENCODING,
            }
            name = hashlib.sha256(repr(sorted(meta.items())).encode()).hexdigest()[:16]
            taught = (lessons.get_buffer("shares")[patients, k] > 0).tolist()
            addresses = [f"{a}:{t}" for a, may in zip(module.addresses, taught, strict=True) if may for t in turns]
            path = job.cache / f"{name}.sqlite"
            caches.append(KnowledgeCache(path, teacher, distiller, meta=meta, addresses=addresses, timed=lessons.time))
        try:
            self._require_room(module, caches)
        except BaseException:
            close(caches)
            raise
        lessons.keep(caches)
        return caches

    def student_sizes(self, network: Tapped) -> dict[str, tuple[int, ...]]:
        """Spatial sizes of the student's taps for a sample, from a dry run."""
        channels, *shape = self.train[0][0].shape
        found, _ = dry_run(
            network, lambda n, image: sizes(n(image)), in_channels=channels, dims=network.dims, sizes=[tuple(shape)]
        )
        return found

    def _require_room(self, module: TrainingModule, caches: Sequence[KnowledgeCache]) -> None:
        """Ask about a few samples, write nothing, and say what all will take."""
        probes = [self.train[len(self.train) * k // 4] for k in range(4)]
        image, target = torch.stack([probe[0] for probe in probes]), torch.stack([probe[1] for probe in probes])
        student = self.student_sizes(module.network)
        needed = sum(cache.bytes_to_come(image, student, target) for cache in caches)
        if not needed:
            return
        folder = caches[0].rows.path.parent
        free = shutil.disk_usage(folder).free
        console.print(f"teacher cache: about {needed / 2**20:,.0f} MiB to come in {folder}", highlight=False)
        if needed > SPARE * free:
            raise InputError(
                f"{folder}: the teacher cache would need about {needed / 2**20:,.0f} MiB, "
                f"{free / 2**20:,.0f} MiB are free: make room, or set student_training.cache: never"
            )


def close(caches: Sequence[KnowledgeCache]) -> None:
    """Give the files back."""
    for cache in caches:
        cache.rows.close()

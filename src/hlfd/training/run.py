"""train and distill: one run in one folder, resumable, ending in a Segmenter."""

import json
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader

from hlfd import plugins
from hlfd.data.samples import EpochSampler, SliceDataset
from hlfd.data.splits import Split
from hlfd.data.store import Store
from hlfd.distill.distiller import Distiller
from hlfd.distill.features import Features, FrozenTeacher
from hlfd.errors import InputError
from hlfd.io.files import write_json
from hlfd.labels import Labels
from hlfd.progress import console
from hlfd.recipe import Plugin, TrainingSection
from hlfd.segmenter import Segmenter, build_network, patient_keys
from hlfd.training.checkpoints import AtomicCheckpointIO
from hlfd.training.logs import CsvLog, read_curves
from hlfd.training.module import Batch, TrainingModule
from hlfd.training.progress import TrainingProgress

MODEL, LAST = "model", "last.ckpt"


@dataclass(frozen=True)
class Job:
    """All that decides one run.

    Attributes:
        folder: the run folder.
        network: the plug-in to train.
        method: the distillation method, or None for a network that learns from labels alone.
        teacher: model folder; only for methods with terms.
        data: name of the data set, for `patient_keys`.
    """

    folder: Path
    network: Plugin
    training: TrainingSection
    store: Store
    split: Split
    labels: Labels
    data: str
    seed: int
    method: Plugin | None = None
    teacher: Path | None = None

    def settings(self) -> dict[str, Any]:
        """What must be equal for a run to be continued."""
        return {
            "network": self.network.model_dump(),
            "method": self.method.model_dump() if self.method else None,
            "training": self.training.model_dump(),
            "seed": self.seed,
            "data": self.data,
            "labels": {"names": list(self.labels.names), "raw": sorted(self.labels.raw.items())},
            "preprocess": self.store.preprocess.model_dump(mode="json"),
            "split": {part: list(getattr(self.split, part)) for part in ("train", "validation", "test")},
            "cases": self.store.digest((*self.split.train, *self.split.validation)),
            "teacher": _weights_of(self.teacher) if self.teacher else None,
        }


def run(job: Job) -> Path:
    """Train; continue an interrupted run of the same settings; return at once if it is finished.

    Returns:
        the model folder inside the run folder.

    Raises:
        InputError: the folder holds a run of other settings, or the teacher doesn't fit the job.
        KeyboardInterrupt: stopped by the user; the same call continues.
    """
    settings = json.loads(json.dumps(job.settings()))
    record = job.folder / "run.json"
    if record.exists():
        _require_same(job.folder, json.loads(record.read_text())["settings"], settings)
        if (job.folder / MODEL / "model.json").exists():
            console.print(f"{job.folder}: already trained", highlight=False)
            return job.folder / MODEL
    write_json(record, {"settings": settings})

    pl.seed_everything(job.seed, workers=True, verbose=False)
    network = build_network(job.network.name, job.network.options, job.labels.classes)
    teacher, distiller = _teaching(job, network)
    datasets = [SliceDataset(job.store, patients) for patients in (job.split.train, job.split.validation)]
    module = TrainingModule(network, distiller, teacher, job.labels, len(job.split.validation), job.training, job.seed)
    sampler = EpochSampler(
        datasets[0].holds_rarest(),
        samples=job.training.samples_per_epoch,
        rare_share=job.training.rare_share,
        seed=job.seed,
    )
    loader = DataLoader(
        datasets[0], job.training.batch_size, sampler=sampler, drop_last=len(sampler) >= job.training.batch_size
    )
    validation = DataLoader(datasets[1], job.training.batch_size)
    checkpoint = job.folder / "checkpoints" / LAST
    resume = checkpoint if checkpoint.exists() else None
    done = int(torch.load(resume, weights_only=True, map_location="cpu")["global_step"]) if resume else 0
    log = CsvLog(job.folder / "metrics.csv", before_step=done if resume else None)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer, best = _trainer(job, log)
    if resume is None:
        _fit_heads(module, loader, log, trainer.strategy.root_device)
    else:
        console.print(f"{job.folder}: continuing after {done} steps", highlight=False)
        module.distiller.freeze_heads()
    _fit(trainer, module, loader, validation, resume)
    return _export(job, module, best)


def _teaching(job: Job, network: Any) -> tuple[FrozenTeacher | None, Distiller]:
    if job.method is None:
        return None, Distiller([])
    student_taps = network.info()
    teacher, teacher_taps = None, student_taps
    if job.teacher is not None:
        model = Segmenter.load(job.teacher)
        check_teacher(model, job)
        teacher, teacher_taps = FrozenTeacher(model.network), model.network.info()
    given = {"classes": job.labels.classes, **job.method.options}
    distiller = Distiller(plugins.load("methods", job.method.name, student_taps, teacher_taps, **given))
    if distiller.needs_teacher and teacher is None:
        raise InputError(f"method '{job.method.name}' needs a teacher: train one first, or name its model folder")
    return (teacher if distiller.needs_teacher else None), distiller


def check_teacher(teacher: Segmenter, job: Job) -> None:
    """A teacher must see the same images, know the same classes, and not know the student's test patients."""
    if teacher.labels.names != job.labels.names:
        raise InputError(f"teacher and student have different classes: {teacher.labels.names} and {job.labels.names}")
    if teacher.preprocess != job.store.preprocess:
        raise InputError(
            f"teacher and student see different images: {teacher.preprocess!r} and {job.store.preprocess!r}"
        )
    leaked = teacher.learned_from & patient_keys(job.data, job.split.test)
    if leaked:
        raise InputError(
            f"the teacher learned from {len(leaked)} of the {len(job.split.test)} test patients: "
            "use the split it was trained with, or another teacher"
        )


def _ignore_advice() -> None:
    """Lightning's advice that doesn't fit these runs."""
    for advice in (
        ".*does not have many workers.*",  # slices come from compressed chunks in microseconds
        ".*number of training batches.*smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", advice)


def _trainer(job: Job, log: CsvLog) -> tuple[pl.Trainer, ModelCheckpoint]:
    gpu = torch.cuda.is_available()
    automatic = ("bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed") if gpu else "32-true"
    precision: Any = {"auto": automatic, "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[
        job.training.precision
    ]
    folder = job.folder / "checkpoints"
    each: Any = {"enable_version_counter": False, "save_on_train_epoch_end": False}
    best = ModelCheckpoint(folder, "best", monitor="val/dice", mode="max", **each)
    # Not save_last: that writes only when the best improves, and a run would continue from there. After `best`, whose
    # state it holds.
    last = ModelCheckpoint(folder, Path(LAST).stem, **each)
    trainer = pl.Trainer(
        max_epochs=job.training.epochs,
        accelerator="auto" if gpu else "cpu",
        devices=1,
        precision=precision,
        logger=[log, TensorBoardLogger(job.folder, "tensorboard", version="")],
        callbacks=[best, last, TrainingProgress(job.folder.name)],
        plugins=[AtomicCheckpointIO()],
        check_val_every_n_epoch=min(job.training.validate_every, job.training.epochs),
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=job.folder,
    )
    return trainer, best


def _fit_heads(module: TrainingModule, loader: DataLoader[Any], log: CsvLog, device: torch.device) -> None:
    """Fit the teacher's own heads before the student trains; logged at the steps before 0 as ``head.TERM``."""
    steps = module.settings.head_steps
    if not module.distiller.heads():
        return
    teacher = module.teacher
    assert teacher is not None
    started = time.perf_counter()
    module.place_teacher(device)
    module.distiller.to(device)

    def batches() -> Iterator[tuple[Features, Tensor]]:
        done = 0
        while True:
            for batch in loader:
                image, target = module.prepare_batch(_as_batch(batch, device), done)
                yield teacher(image), target
                done += 1
                if done == steps:
                    return

    console.print(f"fitting the teacher's heads, {steps} steps", highlight=False)
    for step, losses in enumerate(module.distiller.fit_heads(batches())):
        if step % 10 == 0 or step == steps - 1:
            log.log_metrics(losses, step - steps)
    module.add_seconds(time.perf_counter() - started)


def _as_batch(batch: Any, device: torch.device) -> Batch:
    image, target, patient = (tensor.to(device) for tensor in batch)
    return image, target, patient


def _fit(trainer: pl.Trainer, module: TrainingModule, loader: Any, validation: Any, resume: Path | None) -> None:
    with warnings.catch_warnings():
        _ignore_advice()
        try:
            trainer.fit(module, loader, validation, ckpt_path=resume, weights_only=True)
        except SystemExit:  # Lightning's way to end after Ctrl-C
            raise KeyboardInterrupt from None


def _export(job: Job, module: TrainingModule, best: ModelCheckpoint) -> Path:
    state = torch.load(best.best_model_path, weights_only=True, map_location="cpu")["state_dict"]
    module.cpu().load_state_dict(state)
    # What the teacher learned from has reached the student through it.
    inherited = Segmenter.load(job.teacher).learned_from if job.teacher else frozenset[str]()
    curve = read_curves(job.folder / "metrics.csv").get("val/dice", [])
    facts = {
        "method": job.method.model_dump() if job.method else None,
        "seed": job.seed,
        "best_validation_dice": float(best.best_model_score) if best.best_model_score is not None else None,
        "validations": len(curve),
        "steps": module.trainer.global_step,
        "train_seconds": round(module.seconds, 1),
        "patients": {part: len(getattr(job.split, part)) for part in ("train", "validation", "test")},
        "training": job.training.model_dump(),
    }
    model = Segmenter(
        module.network,
        job.network.name,
        job.network.options,
        job.store.preprocess,
        job.labels,
        patient_keys(job.data, (*job.split.train, *job.split.validation)) | inherited,
        facts,
    )
    return model.save(job.folder / MODEL)


def _weights_of(model: Path) -> str:
    try:
        return json.loads((model / "model.json").read_text())["weights_sha256"]
    except (OSError, ValueError, KeyError):
        raise InputError(f"{model}: expected a model folder with model.json and model.safetensors") from None


def _require_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key, value in now.items():
        if key in before and before[key] != value:
            raise InputError(
                f"{folder}: holds a run with another {key}; choose another output or remove it "
                f"(expected {json.dumps(before.get(key))[:200]}, got {json.dumps(value)[:200]})"
            )

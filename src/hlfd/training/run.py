"""train and distill: one run in one folder, resumable, ending in a Segmenter."""

import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from hlfd.data.samples import EpochSampler, SliceDataset
from hlfd.data.splits import PARTS, UNLABELLED, Split
from hlfd.data.store import Store
from hlfd.errors import InputError
from hlfd.io.files import write_json
from hlfd.labels import Labels
from hlfd.progress import console
from hlfd.sections import Method, Plugin, TeacherSection, TrainingSection
from hlfd.segmenter import Segmenter, build_network, patient_keys
from hlfd.training.checkpoints import AtomicCheckpointIO
from hlfd.training.logs import CsvLog, read_curves
from hlfd.training.module import Batch, TrainingModule
from hlfd.training.progress import TrainingProgress
from hlfd.training.teachers import Opened, check_leakage, open_teacher, teaching

MODEL, LAST = "model", "last.ckpt"


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
            "training": self.training.model_dump(),
            "seed": self.seed,
            "data": self.data,
            "labels": {"names": list(self.labels.names), "raw": sorted(self.labels.raw.items())},
            "preprocess": self.store.preprocess.model_dump(mode="json"),
            "split": {part: list(getattr(self.split, part)) for part in PARTS}
            | {UNLABELLED: list(self.unlabelled or ())},
            "cases": self.store.digest(patients),
            "teachers": [
                {**t.section.model_dump(mode="json", exclude={"model"}), "sha256": t.sha256} for t in teachers
            ],
            "unseen_only": self.unseen_only,
        }


def run(job: Job) -> Path:
    """Train; continue an interrupted run of the same settings; return at once if it is finished.

    Returns:
        the model folder inside the run folder.

    Raises:
        InputError: the folder holds a run of other settings, or the teacher doesn't fit the job.
        KeyboardInterrupt: stopped by the user; the same call continues.
    """
    teachers = [open_teacher(section, job.data, job.store.patients) for section in job.teachers]
    for teacher in teachers:
        check_leakage(teacher, job.data, job.split)
    settings = json.loads(json.dumps(job.settings(teachers)))
    record = job.folder / "run.json"
    if record.exists():
        _require_same(job.folder, json.loads(record.read_text())["settings"], settings)
        if (job.folder / MODEL / "model.json").exists():
            console.print(f"{job.folder}: already trained", highlight=False)
            return job.folder / MODEL
    write_json(record, {"settings": settings})

    pl.seed_everything(job.seed, workers=True, verbose=False)
    network = build_network(job.network.name, job.network.options, job.labels.classes)
    datasets = [
        SliceDataset(job.store, job.split.train, job.unlabelled),
        SliceDataset(job.store, job.split.validation),
    ]
    lessons = teaching(
        network,
        job.method,
        teachers,
        preprocess=job.store.preprocess,
        labels=job.labels,
        data=job.data,
        patients=datasets[0].patients,
        unseen_only=job.unseen_only,
        unlabelled=bool(job.unlabelled),
    )
    module = TrainingModule(network, lessons, job.labels, len(job.split.validation), job.training, job.seed)
    sampler = EpochSampler(
        datasets[0].holds_rarest(),
        samples=job.training.samples_per_epoch,
        rare_share=job.training.rare_share,
        seed=job.seed,
        labelled=datasets[0].labelled,
        unlabelled_share=job.training.unlabelled_share if job.unlabelled is not None else 0.0,
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
        module.teaching.freeze_heads()
    _fit(trainer, module, loader, validation, resume)
    return _export(job, module, best, teachers)


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
    if not module.teaching.has_heads:
        module.teaching.freeze_heads()
        return
    started = time.perf_counter()
    module.place_teachers(device)

    def batches() -> Iterator[Batch]:
        done = 0
        while True:
            for batch in loader:
                step = _as_batch(batch, device)
                yield *module.prepare_batch(step, done), step[2]
                done += 1
                if done == steps:
                    return

    console.print(f"fitting the teacher's heads, {steps} steps", highlight=False)
    total = steps * len(module.teaching.teachers)
    for step, losses in enumerate(module.teaching.fit_heads(batches)):
        if step % 10 == 0 or step == total - 1:
            log.log_metrics(losses, step - total)
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


def _export(job: Job, module: TrainingModule, best: ModelCheckpoint, teachers: Sequence[Opened]) -> Path:
    state = torch.load(best.best_model_path, weights_only=True, map_location="cpu")["state_dict"]
    module.cpu().load_state_dict(state)
    # What the teacher learned from has reached the student through it.
    inherited = frozenset[str]().union(*(teacher.learned_from for teacher in teachers))
    curve = read_curves(job.folder / "metrics.csv").get("val/dice", [])
    facts = {
        "method": job.method_options,
        "seed": job.seed,
        "best_validation_dice": float(best.best_model_score) if best.best_model_score is not None else None,
        "validations": len(curve),
        "steps": module.trainer.global_step,
        "train_seconds": round(module.seconds, 1),
        "patients": {part: len(getattr(job.split, part)) for part in PARTS},
        "unlabelled_patients": len(job.unlabelled or ()),
        "teachers": [teacher.pretrained.description for teacher in teachers],
        "terms": module.teaching.table(),
        "training": job.training.model_dump(),
    }
    model = Segmenter(
        module.network,
        job.network.name,
        job.network.options,
        job.store.preprocess,
        job.labels,
        patient_keys(job.data, (*job.split.train, *job.split.validation, *(job.unlabelled or ()))) | inherited,
        facts,
    )
    return model.save(job.folder / MODEL)


def _require_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key, value in now.items():
        if key in before and before[key] != value:
            raise InputError(
                f"{folder}: holds a run with another {key}; choose another output or remove it "
                f"(expected {json.dumps(before.get(key))[:200]}, got {json.dumps(value)[:200]})"
            )

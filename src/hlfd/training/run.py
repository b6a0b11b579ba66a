"""train and distill: one run in one folder, resumable, ending in a Segmenter."""

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from hlfd.data.augment import orientations
from hlfd.data.splits import PARTS
from hlfd.errors import InputError
from hlfd.io.files import write_json
from hlfd.machine import Machine, first_process, keep_freed_memory, require_started
from hlfd.progress import console, progress
from hlfd.segmenter import Segmenter, patient_keys
from hlfd.training.cache import KnowledgeCache
from hlfd.training.checkpoints import AtomicCheckpointIO
from hlfd.training.job import Job, require_same
from hlfd.training.loaders import Loaders
from hlfd.training.logs import CsvLog, read_curves
from hlfd.training.module import LOG_EVERY, TrainingModule, rank_seed
from hlfd.training.profile import PartsProfiler
from hlfd.training.progress import TrainingProgress
from hlfd.training.setup import Setup, autocast, close, precision_of
from hlfd.training.teachers import Opened

MODEL, LAST = "model", "last.ckpt"


def run(job: Job) -> Path:
    """Train; continue an interrupted run of the same settings; return at once if it is finished.

    Returns:
        the model folder inside the run folder.

    Raises:
        InputError: the folder holds a run of other settings, or the teacher doesn't fit the job.
        KeyboardInterrupt: stopped by the user; the same call continues.
    """
    ready(job.machine)
    setup = Setup(job)
    record = job.folder / "run.json"
    if record.exists():
        require_same(job.folder, json.loads(record.read_text())["settings"], setup.settings)
        if (job.folder / MODEL / "model.json").exists():
            console.print(f"{job.folder}: already trained", highlight=False)
            return job.folder / MODEL
    module = setup.build()
    checkpoint = job.folder / "checkpoints" / LAST
    resume = checkpoint if checkpoint.exists() else None
    if resume is not None:
        module.load_heads(resume)
    caches = setup.keep_knowledge(module)
    try:
        write_json(record, {"settings": setup.settings})  # now that nothing of the job is refused any more
        done = int(torch.load(resume, weights_only=True, map_location="cpu")["global_step"]) if resume else 0
        log = CsvLog(job.folder / "metrics.csv", before_step=done if resume else None)
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        trainer, best, parts = _trainer(job, log, module)
        if resume is not None:
            console.print(f"{job.folder}: continuing after {done} steps", highlight=False)
        else:
            with trainer.profiler.profile("heads"):  # pyright: ignore[reportAttributeAccessIssue]
                setup.heads.fit(module, trainer.strategy.root_device, log)
        _fit(trainer, module, setup.loaders, resume)
    finally:
        close(caches)
    if trainer.is_global_zero:
        with trainer.profiler.profile("export"):  # pyright: ignore[reportAttributeAccessIssue]
            _export(job, module, best, setup.teachers)
        if parts is not None:
            parts.report(job.folder / "profile.json", module.batches)
    trainer.strategy.barrier()  # whoever reads the model next finds it
    return job.folder / MODEL


def build_cache(job: Job) -> list[Path]:
    """Ask the teachers of a job about every slice in every orientation, so that training need not; can be continued.

    Returns:
        the files.

    Raises:
        InputError: the method has no terms, or some that need whole feature maps; too little disk.
    """
    if job.training.cache == "never":
        raise InputError("student_training.cache: expected auto or require, to keep a teacher's answers, got never")
    ready(job.machine)
    setup = Setup(job)
    module = setup.build()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    caches = setup.keep_knowledge(module)
    if not caches:
        nobody = f"method '{job.method.name if job.method else 'seg'}'"
        why = (module.teaching.teachers and setup.why_live(module.teaching)) or nobody
        raise InputError(f"{why}: there is nothing to keep of a teacher")
    try:
        setup.heads.fit(module, device)
        _ask_all(job, setup, module, caches, device)
    finally:
        close(caches)
    return [cache.rows.path for cache in caches]


def _ask_all(
    job: Job, setup: Setup, module: TrainingModule, caches: Sequence[KnowledgeCache], device: torch.device
) -> None:
    module.to(device)
    module.place_teachers(device)
    student = setup.student_sizes(module.network)
    missing = {address for cache in caches for address in cache.missing(student)}
    loader = DataLoader(setup.train, job.training.batch_size)
    turns = orientations(setup.train.plane, turns=job.training.augmentation.turns)
    with progress("teacher cache", len(loader) * len(turns)) as advance:
        for batch in loader:
            for turn in turns:
                image, target, position = (tensor.to(device) for tensor in batch)
                moved = module.turned((image, target, position), torch.full((len(image),), turn))
                if moved.addresses and missing.intersection(moved.addresses):
                    patients = module.patients_of((image, target, position))
                    with torch.no_grad(), autocast(job.training, device):
                        module.teaching.learn(moved.teacher, student, moved.target, patients, moved.addresses)
                advance()


def ready(machine: Machine) -> None:
    """Set up this process for a machine; a process that isn't the first says nothing.

    Raises:
        InputError: there are fewer GPUs, or there have been started other processes, than the machine is said to have.
    """
    require_started(machine)
    gpus = torch.cuda.device_count()
    if 0 < gpus < machine.devices:
        raise InputError(f"--devices {machine.devices}: expected as many GPUs, PyTorch sees {gpus}")
    if machine.threads:
        torch.set_num_threads(machine.threads)
    keep_freed_memory()
    console.quiet = not first_process()


def _spacing_range_mm(job: Job) -> list[list[float]] | None:
    """Least and largest spacing of the training patients' own slices, rows and columns; None: their files have none."""
    spacing = np.array(
        [
            np.linalg.norm(case.geometry.affine[:3, :3], axis=0) * case.geometry.resampled / case.geometry.upright
            for case in job.store.cases.values()
            if case.patient in job.split.train
        ]
    )
    if (spacing == 1).all():  # images without a spacing have this one
        return None
    return np.stack([spacing.min(0), spacing.max(0)], 1).tolist()


def _ignore_advice() -> None:
    """Lightning's advice that doesn't fit these runs."""
    for advice in (
        ".*does not have many workers.*",  # slices come from compressed chunks in microseconds
        ".*number of training batches.*smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", advice)


def _trainer(job: Job, log: CsvLog, module: TrainingModule) -> tuple[pl.Trainer, ModelCheckpoint, PartsProfiler | None]:
    gpu, machine = torch.cuda.is_available(), job.machine
    folder = job.folder / "checkpoints"
    each: Any = {"enable_version_counter": False, "save_on_train_epoch_end": False}
    best = ModelCheckpoint(folder, "best", monitor="val/dice", mode="max", **each)
    # Not save_last: that writes only when the best improves, and a run would continue from there. After `best`, whose
    # state it holds.
    last = ModelCheckpoint(folder, Path(LAST).stem, **each)
    parts = PartsProfiler() if machine.profile else None
    loggers = [log, TensorBoardLogger(job.folder, "tensorboard", version="")]
    if parts is not None:
        for logger in loggers:
            parts.time(logger)
    several = machine.processes > 1
    trainer = pl.Trainer(
        max_epochs=job.training.epochs,
        accelerator="auto" if gpu else "cpu",
        devices=machine.devices,
        num_nodes=machine.nodes,
        # Terms that have stopped, and teachers that may not teach a batch, leave heads without a gradient.
        strategy=("ddp_find_unused_parameters_true" if module.teaching.teachers else "ddp") if several else "auto",
        sync_batchnorm=several and gpu,  # PyTorch has none for the CPU
        use_distributed_sampler=False,  # it would count some validation slices twice
        precision=precision_of(job.training),
        accumulate_grad_batches=job.training.accumulate,
        logger=loggers,
        callbacks=[best, last, TrainingProgress(job.folder.name)],
        plugins=[AtomicCheckpointIO()],
        check_val_every_n_epoch=min(job.training.validate_every, job.training.epochs),
        log_every_n_steps=LOG_EVERY,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=job.folder,
        profiler=parts,
    )
    if several and not gpu and any(isinstance(m, _BatchNorm) for m in module.network.modules()):
        console.print("batch norm: each process takes the statistics of its own batch", highlight=False)
    return trainer, best, parts


def _fit(trainer: pl.Trainer, module: TrainingModule, loaders: Loaders, resume: Path | None) -> None:
    with warnings.catch_warnings():
        _ignore_advice()
        try:
            trainer.fit(module, datamodule=loaders, ckpt_path=resume, weights_only=True)
        except SystemExit:  # Lightning's way to end after Ctrl-C
            raise KeyboardInterrupt from None


def _export(job: Job, module: TrainingModule, best: ModelCheckpoint, teachers: Sequence[Opened]) -> None:
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
        "head_seconds": round(module.head_seconds, 1),
        "patients": {part: len(getattr(job.split, part)) for part in PARTS},
        "unlabelled_patients": len(job.unlabelled or ()),
        "teachers": [teacher.pretrained.description for teacher in teachers],
        "terms": module.teaching.table(),
        "training": job.training.model_dump(),
        "training_spacing_mm": _spacing_range_mm(job),
        "rank_seeds": [rank_seed(job.seed, 0, rank, module.ranks) for rank in range(module.ranks)],
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
    model.save(job.folder / MODEL)

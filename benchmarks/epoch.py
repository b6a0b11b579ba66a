"""Whole epochs of training on real CT slices: student alone, with a live teacher, and with what it knows in a cache.

    .venv/bin/python benchmarks/epoch.py [--size 384] [--slices 32] [--steps 16] [--rounds 3] [--profile]
        [--json FILE]

Slices of ../shared/data/msd_liver_slices (8-bit, 256 x 256, resized to --size), liver; everything that `hlfd distill`
does: loading, augmentation, losses, gradient readings, logging, validation on two patients; an epoch has --steps steps
of 8 slices. The teacher's heads are fitted before and are not counted, nor is the export. The teacher is first
trained for --teacher-epochs, so that what is kept compresses as it does in use. The ways take turns; medians. Gradients
are read in the first step and in every fiftieth: of short epochs that is a larger share than of a training's.

The cache: bytes for a slice in all eight orientations, and the time to build it beside an epoch with a live teacher.
How both grow with the patients: --slices 32, then 128.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hlfd import Recipe
from hlfd.data.samples import Samples
from hlfd.data.splits import Split
from hlfd.machine import Machine
from hlfd.sections import Method, Plugin, TeacherSection, TrainingSection
from hlfd.segmenter import Segmenter
from hlfd.study.steps import Workspace
from hlfd.training.job import Job
from hlfd.training.run import build_cache, run

BATCH = 8
DATA = Path(__file__).parents[2] / "shared" / "data" / "msd_liver_slices"


def plugin(name: str) -> Plugin:
    kind, _, width = name.partition(":")
    return Plugin(name=kind, **({"width": int(width)} if width else {}))


def split_of(workspace: Workspace, slices: int) -> Split:
    """Two patients to validate on, and as many to train on as have at least ``slices`` slices."""
    patients = sorted(workspace.patients)
    train: list[str] = []
    while not train or len(Samples(workspace.store, train)) < slices:
        train.append(patients[2 + len(train)])
    return Split(train=tuple(train), validation=tuple(patients[:2]), test=tuple(patients[-2:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=384, help="pixels an axis")
    parser.add_argument("--slices", type=int, default=32, help="training slices, at least")
    parser.add_argument("--steps", type=int, default=16, help="of a student's epoch, 8 slices each")
    parser.add_argument("--teacher", default="unet:32", help="NAME:WIDTH")
    parser.add_argument("--teacher-epochs", type=int, default=2)
    parser.add_argument("--students", nargs="+", default=["unet_mobilenetv2"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loader-workers", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="also say what each run spent its time on")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"{DATA}: not there; this benchmark needs real slices")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(options: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    recipe = Recipe(
        name="epoch",
        output=root,
        source={"name": "slices", "root": DATA, "task": "organ", "organ": "liver"},
        preprocess={"size": [options.size] * 2},
        teacher={"name": "unet"},
        student={"name": "unet"},
        methods=[{"name": "seg"}],
    )
    workspace = Workspace(recipe)
    split = split_of(workspace, options.slices)
    slices = len(Samples(workspace.store, split.train))

    def job(name: str, network: str, method: str | None, kept: str, epochs: int = 1) -> Job:
        return Job(
            folder=root / name,
            network=plugin(network),
            training=TrainingSection(
                epochs=epochs,
                validate_every=epochs,
                samples_per_epoch=options.steps * BATCH if method else None,
                batch_size=BATCH,
                cache=kept,
                lr=1e-3,
                head_steps=4,
            ),
            store=workspace.store,
            split=split,
            labels=workspace.source.labels,
            data=workspace.data_name,
            seed=0,
            method=Method.model_validate({"name": method}) if method else None,
            teachers=(TeacherSection(model=teacher),) if method not in (None, "seg") else (),
            cache=root / "cache",
            machine=Machine(loader_workers=options.loader_workers, profile=options.profile),
        )

    teacher = root / "teacher" / "model"
    run(job("teacher", options.teacher, None, "never", epochs=options.teacher_epochs))
    dice = Segmenter.load(teacher).facts["best_validation_dice"]
    print(
        f"{len(split.train)} patients, {slices} slices of {options.size} x {options.size}, "
        f"{torch.get_num_threads()} threads; teacher "
        f"{options.teacher}, validation Dice {dice:.2f} after {options.teacher_epochs} epochs"
    )
    rows: list[dict[str, Any]] = []
    for student in options.students:
        rows += _student(job, student, options, slices, root)
    return rows


def _student(job: Any, student: str, options: argparse.Namespace, slices: int, root: Path) -> list[dict[str, Any]]:
    started = time.perf_counter()
    files = build_cache(replace(job(f"{student} cache", student, "hlfd", "require"), cache=root / f"{student} cache"))
    building = time.perf_counter() - started
    size = sum(path.stat().st_size for path in files)
    times: dict[str, list[float]] = {"alone": [], "cached": [], "live": []}
    seen = 0  # slices in an epoch
    for round_ in range(options.rounds):
        for way, method, kept in (("alone", "seg", "never"), ("cached", "hlfd", "require"), ("live", "hlfd", "never")):
            one = job(f"{student} {way} {round_}", student, method, kept)
            run(replace(one, cache=root / f"{student} cache"))
            facts = Segmenter.load(one.folder / "model").facts
            times[way].append(facts["train_seconds"])
            seen = facts["steps"] * BATCH
    rows: list[dict[str, Any]] = []
    for way, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["alone"], strict=True))
        seconds = statistics.median(values)
        rows.append({"size": options.size, "student": student, "way": way, "seconds": seconds, "ratio": ratio})
        rows[-1]["ms_a_slice"] = 1000 * seconds / seen
        print(
            f"{student:17} {way:8} {seconds:8.1f} s an epoch, {rows[-1]['ms_a_slice']:5.0f} ms a slice  "
            f"{ratio:6.2f} x alone",
            flush=True,
        )
    live = statistics.median(times["live"]) * slices / seen  # as if it saw each slice once, as building does
    mib = size / slices / 2**20
    rows.append({"size": options.size, "student": student, "cache_mib": mib, "building": building, "live": live})
    print(f"{student:17} cache    {mib:8.2f} MiB a slice in 8 orientations")
    print(f"{student:17} building {building:8.1f} s, {building / 8 / live:.2f} live epochs an orientation", flush=True)
    return rows


if __name__ == "__main__":
    main()

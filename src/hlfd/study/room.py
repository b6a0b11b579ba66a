"""room: whether the disk can hold what a recipe will write, before the first step of it."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hlfd.data.augment import ORIENTATIONS
from hlfd.data.rows import encode
from hlfd.distill.distiller import Distiller
from hlfd.distill.frozen import FrozenTeacher
from hlfd.distill.terms import sizes
from hlfd.errors import InputError
from hlfd.progress import console
from hlfd.sections import ALONE, Plugin
from hlfd.segmenter import build_network
from hlfd.study import steps
from hlfd.study.cells import Cell, Ledger

CHECKPOINT = 3 * 4
"""Bytes a parameter: itself and Adam's two moments, in float32."""
RESULTS = 16 * 2**20
"""Bytes of label maps, figures and the report; not measured for each data set, so that a full disk is not cut fine."""


def require(workspace: steps.Workspace, cells: Sequence[Cell]) -> None:
    """Say how much the cells that are not done will write, if the data are prepared, and refuse what has no room.

    Counted are checkpoints (the best, the last, and the one being written), models, the prepared data (about what the
    files of the source hold), results, and the teacher's answers that are kept, as large as an untrained teacher's.

    Raises:
        InputError: less is free on the disk of the recipe's folder.
    """
    recipe, ledger = workspace.recipe, Ledger(workspace.recipe.folder)
    left = [cell for cell in cells if not ledger.done(cell)]
    if not left:
        return
    prepared = (recipe.folder / "store" / "store.json").exists()
    needed = {"checkpoints and models": _runs(workspace, left), "results": RESULTS}
    if prepared:
        needed["teacher cache"] = _cache(workspace, left)
    else:
        needed["prepared data"] = sum(
            _size(file) for case in workspace.source.cases for file in (*case.image, *(case.label or ()))
        )
    total, free = sum(needed.values()), shutil.disk_usage(_standing(recipe.folder)).free
    parts = ", ".join(f"{name} {mib(size)}" for name, size in needed.items() if size)
    if total > free:
        raise InputError(
            f"{recipe.folder}: about {mib(total)} MiB are to be written ({parts}), {mib(free)} MiB are free: "
            "make room, or choose another output"
        )
    if prepared:
        console.print(f"disk: about {mib(total)} of {mib(free)} MiB ({parts})", highlight=False)


def mib(size: float) -> str:
    """Bytes as MiB, rounded up."""
    return f"{math.ceil(size / 2**20):,}"


def _runs(workspace: steps.Workspace, cells: Sequence[Cell]) -> int:
    recipe, largest, total = workspace.recipe, 0, 0
    classes = workspace.source.labels.classes
    for cell in cells:
        if cell.kind == "teacher":
            folders = [] if recipe.teacher_models else steps.teacher_folders(workspace, cell.fold)
            parameters, runs = _parameters(recipe.teacher, classes) if folders else 0, [f.parent for f in folders]
        else:
            assert cell.network is not None
            parameters, runs = _parameters(cell.network, classes), [recipe.folder / cell.name]
        kept = parameters * (2 * CHECKPOINT + 4)
        if cell.kind == "search" and recipe.study and recipe.study.search:  # its trials keep no checkpoints
            kept = parameters * (2 * CHECKPOINT + 4 * recipe.study.search.trials)
        total += sum(max(0, kept - _size(run)) for run in runs)
        largest = max(largest, parameters * CHECKPOINT)
    return total + largest


def _parameters(network: Plugin, classes: int) -> int:
    return sum(p.numel() for p in build_network(network.name, network.options, classes).parameters())


@torch.no_grad()
def _cache(workspace: steps.Workspace, cells: Sequence[Cell]) -> int:
    """Bytes of what an untrained teacher says of one slice, compressed, times the slices and orientations."""
    recipe, store, classes = workspace.recipe, workspace.store, workspace.source.labels.classes
    if recipe.teacher_models or recipe.student_training.cache == "never":
        return 0  # of a teacher from elsewhere it is known, and checked, when it is opened
    turns = ORIENTATIONS if recipe.student_training.augment else 1
    rows: dict[tuple[int, str], float] = {}
    network = build_network(recipe.teacher.name, recipe.teacher.options, classes)
    if (network.in_channels, network.dims) != (1, 2):
        return 0
    teacher = FrozenTeacher(network)
    for cell in cells:
        if cell.method is None or cell.method.name == ALONE or cell.network is None:
            continue
        split = workspace.split(cell.fold)
        cases = [case for case in store.cases.values() if case.patient in {*split.train, *split.unlabelled}]
        slices = sum(case.shape[0] for case in cases)
        images, targets = store.slices(next(case.id for case in cases if case.labelled))
        middle = len(images) // 2
        image = torch.from_numpy(np.asarray(images[middle : middle + 1])).float()[:, None]
        student = build_network(cell.network.name, cell.network.options, classes).eval()
        distiller = Distiller(cell.method.build(student.info(), teacher.info(), classes))
        distiller.freeze_heads()
        if distiller.whole_features():
            continue
        seen = sizes(student(image))
        target = torch.from_numpy(np.asarray(targets[middle : middle + 1])).long()
        known = distiller.knowledge(teacher(image), seen, target)
        codes = distiller.codes(known, seen)
        for key, values in known.items():
            rows[cell.fold, key] = len(encode(values[0].float().numpy(), codes[key])) * slices * turns
    return round(sum(rows.values()))


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


def _standing(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    folder = folder.resolve()
    return folder if folder.exists() else _standing(folder.parent)

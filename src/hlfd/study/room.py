"""room: whether the disk can hold what a recipe will write, before the first step of it."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hlfd.data.augment import ORIENTATIONS
from hlfd.data.rows import encode
from hlfd.data.samples import Samples
from hlfd.distill.distiller import Distiller
from hlfd.distill.features import Tapped
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
    for cell in cells:
        if cell.kind == "teacher":
            folders = [] if recipe.teacher_models else steps.teacher_folders(workspace, cell.fold)
            network, runs = recipe.teacher if folders else None, [f.parent for f in folders]
        else:
            network, runs = cell.network, [recipe.folder / cell.name]
        parameters = sum(p.numel() for p in _built(workspace, network).parameters()) if network else 0
        kept = parameters * (2 * CHECKPOINT + 4)
        if cell.kind == "search" and recipe.study and recipe.study.search:  # its trials keep no checkpoints
            kept = parameters * (2 * CHECKPOINT + 4 * recipe.study.search.trials)
        total += sum(max(0, kept - _size(run)) for run in runs)
        largest = max(largest, parameters * CHECKPOINT)
    return total + largest


def _built(workspace: steps.Workspace, network: Plugin) -> Tapped:
    shown, classes = workspace.recipe.preprocess, workspace.source.labels.classes
    return build_network(network.name, network.options, classes, in_channels=shown.channels, dims=shown.dims)


@torch.no_grad()
def _cache(workspace: steps.Workspace, cells: Sequence[Cell]) -> int:
    """Bytes of what an untrained teacher says of one image, compressed, times the images and orientations."""
    recipe = workspace.recipe
    training = recipe.student_training
    if recipe.teacher_models or training.cache == "never" or training.augmentation.endless:
        return 0  # of a teacher from elsewhere it is known, and checked, when it is opened
    turns = ORIENTATIONS if training.augmentation.turns else 1
    rows: dict[tuple[int, str], float] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same estimate at every call
        teacher = FrozenTeacher(_built(workspace, recipe.teacher))
    for cell in cells:
        if cell.method is None or cell.method.name == ALONE or cell.network is None:
            continue
        split, student = workspace.split(cell.fold), _built(workspace, cell.network).eval()
        samples = Samples(workspace.store, split.train, split.unlabelled if workspace.uses_unlabelled else None)
        distiller = Distiller(cell.method.build(student.info(), teacher.info(), student.classes))
        if distiller.whole_features():
            continue
        image, target, _ = samples[int(np.flatnonzero(samples.labelled)[samples.labelled.sum() // 2])]
        seen = sizes(student(image[None]))
        known = distiller.knowledge(teacher(image[None]), seen, target[None])
        codes = distiller.codes(known, seen)
        for key, values in known.items():
            rows[cell.fold, key] = len(encode(values[0].float().numpy(), codes[key])) * len(samples) * turns
    return round(sum(rows.values()))


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


def _standing(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    folder = folder.resolve()
    return folder if folder.exists() else _standing(folder.parent)

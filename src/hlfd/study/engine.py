"""The engine of a study: does every cell once, in this process or several, on one machine or several."""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hlfd.errors import InputError
from hlfd.progress import console, progress
from hlfd.recipe import Recipe, from_values
from hlfd.sections import Method
from hlfd.study import preflight, room, search, steps
from hlfd.study.cells import Cell, Ledger, chosen, plan
from hlfd.study.lock import claim, hold

POLL_S = 2.0
"""Pause between two looks at cells that other processes hold."""


def ready(recipe: Recipe, workers: int | None = None, only: str | None = None) -> steps.Workspace:
    """The recipe's data, prepared, after all was checked that can be checked before a training.

    Raises:
        InputError: a recipe that can't be run, a folder with another study, a disk that is too full for the cells.
    """
    ledger, cells = Ledger(recipe.folder), chosen(plan(recipe), only)
    ledger.require_same(recipe)
    if recipe.study and recipe.study.search:
        search.check([m for m in recipe.methods if m.name != "seg"], recipe.study.search)
    workspace = steps.Workspace(recipe, workers)
    with hold(recipe.folder / "cells" / "data.lock"):  # of several processes that begin together, one prepares
        for fold in recipe.folds:
            workspace.split(fold)  # a split that can't be is said before hours of work
        for network in recipe.study.students.values() if recipe.study else ():
            preflight.check(workspace.of(recipe.model_copy(update={"student": network})))
        preflight.check(workspace)
        room.require(workspace, cells)
        ledger.open(recipe)  # now that nothing is refused any more
        _ = workspace.store
    room.require(workspace, cells)  # now that the slices are counted
    return workspace


def run(recipe: Recipe, *, only: str | None = None, jobs: int = 1, workers: int | None = None) -> steps.Workspace:
    """Do all cells of a recipe that are not done, or those that ``only`` matches with what they need.

    Args:
        jobs: processes that do cells side by side.
        workers: processes that prepare the data; None: one a core.

    Raises:
        InputError: as `ready`, and what a cell raises.
        ChildProcessError: a process of several failed or was killed; the line says where to read why.
    """
    cells = chosen(plan(recipe), only)
    workspace = ready(recipe, workers, only)
    if jobs == 1:
        work(workspace, cells)
    else:
        _side_by_side(workspace, cells, only, jobs)
    return workspace


def work(workspace: steps.Workspace, cells: Sequence[Cell]) -> None:
    """Do cells until all are done, each by whoever holds its lock."""
    ledger, told = Ledger(workspace.recipe.folder), False
    while left := [cell for cell in cells if not ledger.done(cell)]:
        undone = {cell.name for cell in left}
        if not any(_try(workspace, ledger, cell) for cell in left if not undone.intersection(cell.needs)):
            if not told:
                console.print(f"waiting: {len(left)} cells are held by other processes, or wait for theirs")
                told = True
            time.sleep(POLL_S)


def _try(workspace: steps.Workspace, ledger: Ledger, cell: Cell) -> bool:
    """Do the cell unless another process holds it; whether anything is different now."""
    with claim(ledger.lock(cell)) as mine:
        if mine and not ledger.done(cell):
            started = time.perf_counter()
            files, facts = _do(workspace, ledger, cell)
            ledger.write(cell, files, seconds=round(time.perf_counter() - started, 1), **facts)
        return mine


def _do(workspace: steps.Workspace, ledger: Ledger, cell: Cell) -> tuple[list[Path], dict[str, Any]]:
    recipe = workspace.recipe
    if cell.kind == "teacher":
        evaluated = [_evaluate(workspace, cell, model, folder) for model, folder in _teachers(workspace, cell.fold)]
        return evaluated, {}
    assert cell.method is not None and cell.network is not None
    own = workspace.of(recipe.model_copy(update={"student": cell.network, "seed": cell.seed}))
    folder = recipe.folder / cell.name
    if cell.kind == "search":
        assert recipe.study is not None and recipe.study.search is not None
        found = search.run(own, cell.fold, cell.method, recipe.study.search, folder)
        return [folder / "trials.json"] if found["trials"] else [], found
    method = searched(ledger, cell)
    model = steps.train_student(own, cell.fold, method, folder=folder)
    options = method.model_dump(mode="json", exclude_defaults=True, exclude={"run_name", "terms"})
    return [_evaluate(workspace, cell, model, folder)], {"method": options}


def searched(ledger: Ledger, cell: Cell) -> Method:
    """The cell's method, with the weights that its search found."""
    assert cell.method is not None
    method = cell.method
    for name in cell.needs:
        best = (ledger.record(Cell(name, "search", cell.fold)) or {}).get("best")
        if best:
            method = search.with_options(method, best)
    return method


def _teachers(workspace: steps.Workspace, fold: int) -> list[tuple[Path, Path]]:
    """Model and run folder of the teachers: trained now, or the recipe's own where they can be measured."""
    recipe = workspace.recipe
    if not recipe.teacher_models:
        return [(model, model.parent) for model in steps.train_teachers(workspace, fold)]
    found: list[tuple[Path, Path]] = []
    for k, section in enumerate(recipe.teacher_models):
        name = "teacher" if len(recipe.teacher_models) == 1 else f"teacher-{k}"
        model = section.model / "model" if (section.model / "model" / "model.json").is_file() else section.model
        if (model / "model.json").is_file() and section.classes is None:
            found.append((model, workspace.folder(fold) / name))
        else:
            console.print(f"{section.model}: not one of ours with the recipe's classes; it teaches, unmeasured")
    return found


def _evaluate(workspace: steps.Workspace, cell: Cell, model: Path, folder: Path) -> Path:
    steps.evaluate(model, workspace, "test", cell.fold, folder)
    return folder / "evaluation.json"


def _side_by_side(workspace: steps.Workspace, cells: Sequence[Cell], only: str | None, jobs: int) -> None:
    recipe, ledger = workspace.recipe, Ledger(workspace.recipe.folder)
    logs = recipe.folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    values = json.dumps(recipe.model_dump(mode="json", by_alias=True))
    threads = max(1, (os.cpu_count() or 1) // jobs)
    running = [
        context.Process(target=_worker, args=(values, only, logs / f"{os.getpid()}-{k}.log", threads))
        for k in range(jobs)
    ]
    total = len(cells)
    for process in running:
        process.start()
    try:
        with progress("cells", total) as advance:
            seen = 0
            while sum(process.is_alive() for process in running):  # not any(): who is asked is buried if dead
                done = sum(ledger.done(cell) for cell in cells)
                advance(done - seen)
                seen = done
                running[0].join(0.5) if running[0].is_alive() else time.sleep(0.5)
            advance(sum(ledger.done(cell) for cell in cells) - seen)
    except BaseException:
        for process in running:
            process.terminate()
        raise
    finally:
        for process in running:
            process.join()
    failed = [k for k, process in enumerate(running) if process.exitcode]
    if failed and not all(ledger.done(cell) for cell in cells):
        log = logs / f"{os.getpid()}-{failed[0]}.log"
        code, lines = running[failed[0]].exitcode or 0, log.read_text().strip().splitlines() if log.exists() else []
        last = lines[-1].removeprefix("hlfd: ").removesuffix("; what is finished stays") if lines else "no message"
        if code < 0:
            last = f"a process was killed by signal {-code}, perhaps for lack of memory"
        raise (InputError if code == 2 else ChildProcessError)(f"{last}; the whole is in {log}")


def _worker(values: str, only: str | None, log: Path, threads: int) -> None:
    """A process of several: as many threads as are its share, and its messages to a file of its own."""
    import torch

    torch.set_num_threads(threads)
    with log.open("w", buffering=1) as file, _messages_to(file.fileno()):
        recipe = from_values(json.loads(values), "study")
        try:
            work(steps.Workspace(recipe), chosen(plan(recipe), only))
        except InputError as error:
            print(f"hlfd: {error}", file=sys.stderr, flush=True)
            sys.exit(2)
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            print(f"hlfd: {error.strerror or error}{where}; what is finished stays", file=sys.stderr, flush=True)
            sys.exit(1)


@contextmanager
def _messages_to(handle: int) -> Any:
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    yield
    sys.stdout.flush()
    sys.stderr.flush()

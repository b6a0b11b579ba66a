"""From data to report: all cells of a recipe, then their figures. What is done is kept, so the same call continues."""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from hlfd.errors import InputError
from hlfd.io.files import write_atomic, write_json
from hlfd.machine import processor
from hlfd.progress import console
from hlfd.recipe import Recipe, dump, read
from hlfd.report.build import write_report
from hlfd.segmenter import versions
from hlfd.study import collect, engine, steps
from hlfd.study.cells import Ledger, plan
from hlfd.study.findings import findings
from hlfd.study.lock import hold
from hlfd.study.pictures import report_data


def compare(recipe: Recipe, workers: int | None = None) -> dict[str, Any]:
    """Prepare, train the teacher, train the student with each method, evaluate, report.

    Returns:
        the contents of ``results.json``, which stands beside ``report.html`` in the recipe's folder.
    """
    found = study(recipe, workers=workers)
    assert found is not None
    return found


def study(
    recipe: Recipe, *, only: str | None = None, jobs: int = 1, workers: int | None = None
) -> dict[str, Any] | None:
    """As `compare`, for every seed, student and fold; see `hlfd.study.engine.run` for the arguments.

    Returns:
        the contents of ``results.json``: of the models all of whose seeds and folds are done. None if there is none.
    """
    started = time.perf_counter()
    workspace = engine.run(recipe, only=only, jobs=jobs, workers=workers)
    return _conclude(workspace, time.perf_counter() - started)


def _conclude(workspace: steps.Workspace, seconds: float) -> dict[str, Any] | None:
    recipe = workspace.recipe
    runs, missing = collect.collect(workspace)
    if missing:
        console.print(f"{len(missing)} cells are to come: {', '.join(missing[:6])}{', ...' * (len(missing) > 6)}")
    if not runs:
        return None
    with hold(recipe.folder / "cells" / "results.lock"):
        results = {
            "models": collect.model_rows(runs, workspace),
            **findings(runs),
            "missing": missing,
            "seconds": round(max(seconds, spent(recipe)), 1),
            "versions": versions(),
            "machine": _machine(),
        }
        write_atomic(recipe.folder / "recipe.yaml", dump(recipe))
        write_json(recipe.folder / "results.json", results)
        write_report(report_data(workspace, results, runs), recipe.folder / "report.html")
    console.print(
        f"results: {recipe.folder / 'results.json'}\nreport:  {recipe.folder / 'report.html'}", highlight=False
    )
    return results


def _machine() -> dict[str, Any]:
    """On what the costs were measured."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def spent(recipe: Recipe) -> float:
    """Seconds that all cells took, in whichever call and process.

    A cell's record counts the call that ended it; what was trained before an interruption stands in its models.
    """
    ledger, total = Ledger(recipe.folder), 0.0
    for cell in plan(recipe):
        if record := ledger.record(cell):
            models = (recipe.folder / cell.name).rglob("model/model.json")
            facts = [json.loads(path.read_text())["facts"] for path in models]
            trained = sum(fact.get(part, 0.0) for fact in facts for part in ("train_seconds", "head_seconds"))
            total += max(record["seconds"], trained)
    return total


def rebuild_report(folder: Path) -> Path:
    """Write ``report.html`` again from the runs of a finished comparison or study."""
    workspace, results = finished(folder)
    runs, _ = collect.collect(workspace)
    names = [model["name"] for model in results["models"]]
    runs = [run for run in runs if run.name in names]
    if [run.name for run in runs] != names:
        raise InputError(f"{folder}: runs of {', '.join(set(names).difference(r.name for r in runs))} are missing")
    return write_report(report_data(workspace, results, runs), folder / "report.html")


def finished(folder: Path) -> tuple[steps.Workspace, dict[str, Any]]:
    """The workspace and the contents of ``results.json`` of a finished comparison or study."""
    results = finished_results(folder)
    return steps.Workspace(read(_require(folder / "recipe.yaml"), [f"output={folder}"])), results


def finished_results(folder: Path) -> dict[str, Any]:
    """Contents of ``results.json``. Raises `InputError` if there is none, or it can't be read."""
    path = _require(folder / "results.json")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error}); run the comparison or study again") from None


def _require(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the folder of a finished demo, comparison or study")
    return path

"""compare: a recipe from data to report. What is done already is kept, so the same call continues."""

import json
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hlfd.cost import ms_per_slice, multiply_adds
from hlfd.errors import InputError
from hlfd.evaluation.protocols import CaseResult, read_evaluation, summarize
from hlfd.evaluation.statistics import mean_interval
from hlfd.io.files import write_atomic, write_json
from hlfd.progress import console
from hlfd.recipe import Recipe, dump, read
from hlfd.report.build import write_report
from hlfd.segmenter import Segmenter, versions
from hlfd.study import preflight, steps
from hlfd.study.pictures import report_data


@dataclass(frozen=True)
class ModelRuns:
    """One model of the comparison, over all folds.

    Attributes:
        folders: fold -> run folder.
        cases: test results of all folds; each patient is tested once.
    """

    name: str
    folders: dict[int, Path]
    cases: list[CaseResult]


def compare(recipe: Recipe, workers: int | None = None) -> dict[str, Any]:
    """Prepare, train the teacher, train the student with each method, evaluate, report.

    Returns:
        the contents of ``results.json``, which stands beside ``report.html`` in the recipe's folder.
    """
    started = time.perf_counter()
    workspace = steps.Workspace(recipe, workers)
    for fold in recipe.folds:
        workspace.split(fold)  # a split that can't be is said before hours of work
    preflight.check(workspace)
    folders: dict[str, dict[int, Path]] = defaultdict(dict)
    cases: dict[str, list[CaseResult]] = defaultdict(list)
    for fold in recipe.folds:
        models = []
        if not recipe.teacher_models:
            models += steps.train_teachers(workspace, fold)
        for method in recipe.methods:
            models.append(steps.train_student(workspace, fold, method))
        for model in models:
            run = model.parent
            folders[run.name][fold] = run
            cases[run.name] += steps.evaluate(model, workspace, "test", fold, run)
    runs = [ModelRuns(name, folders[name], cases[name]) for name in folders]
    results = {
        "models": _rows(runs, workspace, recipe),
        "differences": _differences(runs),
        "seconds": round(time.perf_counter() - started, 1),
        "versions": versions(),
    }
    write_atomic(recipe.folder / "recipe.yaml", dump(recipe))
    write_json(recipe.folder / "results.json", results)
    write_report(report_data(workspace, results, runs), recipe.folder / "report.html")
    console.print(
        f"results: {recipe.folder / 'results.json'}\nreport:  {recipe.folder / 'report.html'}", highlight=False
    )
    return results


def _differences(runs: list[ModelRuns]) -> list[dict[str, Any]]:
    """Dice of each distilled student minus the student alone, patient by patient: mean and 95 % bootstrap interval."""
    alone = next((run for run in runs if run.name == "student"), None)
    if alone is None:
        return []
    rows: list[dict[str, Any]] = []
    for run in runs:
        if run.name != "student" and not run.name.startswith("teacher"):
            pairs = list(zip(run.cases, alone.cases, strict=True))
            labels = {
                region: asdict(mean_interval([a.regions[region].dice - b.regions[region].dice for a, b in pairs]))
                for region in run.cases[0].regions
            }
            rows.append({"name": run.name, "minus": alone.name, "dice": labels})
    return rows


def rebuild_report(folder: Path) -> Path:
    """Write ``report.html`` again from the runs of a finished comparison."""
    results_path, recipe_path = folder / "results.json", folder / "recipe.yaml"
    for path in (results_path, recipe_path):
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected the folder of a finished demo or comparison")
    workspace = steps.Workspace(read(recipe_path, [f"output={folder}"]))
    results = json.loads(results_path.read_text())
    runs: list[ModelRuns] = []
    for model in results["models"]:
        folders = {fold: workspace.folder(fold) / model["name"] for fold in workspace.recipe.folds}
        cases = [case for fold in folders for case in read_evaluation(folders[fold] / "evaluation.json")]
        runs.append(ModelRuns(model["name"], folders, cases))
    return write_report(report_data(workspace, results, runs), folder / "report.html")


def _rows(runs: list[ModelRuns], workspace: steps.Workspace, recipe: Recipe) -> list[dict[str, Any]]:
    models = {run.name: Segmenter.load(next(iter(run.folders.values())) / "model") for run in runs}
    _, rows, columns = max((case.shape for case in workspace.store.cases.values()), key=lambda s: s[1] * s[2])
    milliseconds = ms_per_slice({name: model.network for name, model in models.items()}, (rows, columns))
    table: list[dict[str, Any]] = []
    for run in runs:
        model = models[run.name]
        weights = next(iter(run.folders.values())) / "model" / "model.safetensors"
        seconds = [Segmenter.load(folder / "model").facts["train_seconds"] for folder in run.folders.values()]
        table.append(
            {
                "name": run.name,
                "network": " ".join([model.network_name, *(f"{k}={v}" for k, v in model.network_options.items())]),
                "method": (model.facts["method"] or {"name": "seg"})["name"],
                "seed": recipe.seed,
                "parameters": model.parameters,
                "multiply_adds": multiply_adds(model.network, (rows, columns)),
                "ms_per_slice": round(milliseconds[run.name], 3),
                "file_mib": round(weights.stat().st_size / 2**20, 3),
                "train_seconds": round(sum(seconds), 1),
                "labels": summarize(run.cases),
            }
        )
    return table

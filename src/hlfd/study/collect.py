"""What a study found: its runs put together over folds and seeds, its models' costs."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hlfd.cost import ms_per_image, multiply_adds
from hlfd.evaluation.results import CaseResult, Scores, read_evaluation
from hlfd.evaluation.summary import count_empty, summarize
from hlfd.segmenter import Segmenter
from hlfd.study import steps
from hlfd.study.cells import Cell, Ledger, plan
from hlfd.study.memory import peak_mib


@dataclass(frozen=True)
class Run:
    """One training of a model: its run folder (predictions, metrics), and its model folder."""

    seed: int
    fold: int
    folder: Path
    model: Path


@dataclass(frozen=True)
class ModelRuns:
    """One model of the study, over all seeds and folds.

    Attributes:
        kind: ``teacher`` or ``student``.
        method: its name; ``seg`` for the student alone.
        alone: name of the student alone that it is measured against; "" for a teacher and for the student alone.
        runs: by seed, then fold, as the recipe lists them.
        cases: seed -> test results of all folds; each case is tested once a seed, in the same order for every model.
        options: fold -> the options of its method, as they were trained with.
    """

    name: str
    kind: str
    method: str
    alone: str
    runs: tuple[Run, ...]
    cases: Mapping[int, list[CaseResult]]
    options: Mapping[int, Mapping[str, Any]]

    @property
    def first(self) -> Run:
        """The run that stands for the model where one has to."""
        return self.runs[0]

    @property
    def pictured(self) -> list[CaseResult]:
        """Test results of the seed that stands for the model where one has to."""
        return self.cases[self.first.seed]

    def run_of(self, fold: int, seed: int | None = None) -> Run:
        """The run of a fold; of the first seed unless told otherwise."""
        return next(r for r in self.runs if r.fold == fold and seed in (None, r.seed))

    def dice(self, region: str) -> dict[str, list[float]]:
        """Patient -> mean Dice over the patient's cases, a value for each seed."""
        found: dict[str, list[float]] = {}
        for cases in self.cases.values():
            patients: dict[str, list[float]] = {}
            for case in cases:
                patients.setdefault(case.patient, []).append(case.regions[region].dice)
            for patient, values in patients.items():
                found.setdefault(patient, []).append(float(np.mean(values)))
        return found


def collect(workspace: steps.Workspace) -> tuple[list[ModelRuns], list[str]]:
    """The models all of whose cells are done, and the names of cells that are not."""
    recipe, ledger = workspace.recipe, Ledger(workspace.recipe.folder)
    cells = plan(recipe)
    by_model: dict[str, list[tuple[Cell, Run]]] = {}
    missing: list[str] = []
    incomplete: set[str] = set()
    for cell in cells:
        record = ledger.record(cell)
        if record is None:
            missing.append(cell.name)
            incomplete.add(cell.model_name)
        elif cell.kind != "search":
            for file in record["files"]:
                folder = (recipe.folder / file).parent
                name = folder.name if cell.kind == "teacher" else cell.model_name
                seed = recipe.seed if cell.seed is None else cell.seed
                by_model.setdefault(name, []).append((cell, Run(seed, cell.fold, folder, _model_of(workspace, folder))))
    if any(cell.kind == "teacher" and cell.name in missing for cell in cells):
        by_model = {name: found for name, found in by_model.items() if found[0][0].kind != "teacher"}
    models: list[ModelRuns] = []
    for name, found in by_model.items():
        cell, runs = found[0][0], sorted((run for _, run in found), key=lambda run: (run.seed, run.fold))
        if name in incomplete:
            continue
        cases: dict[int, list[CaseResult]] = {}
        for run in runs:
            cases.setdefault(run.seed, []).extend(read_evaluation(run.folder / "evaluation.json"))
        alone = cell.student if cell.kind == "student" and name != cell.student else ""
        options = {c.fold: (ledger.record(c) or {}).get("method") or {} for c, _ in found}
        method = cell.method.name if cell.method else "seg"
        models.append(ModelRuns(name, cell.kind, method, alone, tuple(runs), cases, options))
    return models, missing


def _model_of(workspace: steps.Workspace, folder: Path) -> Path:
    """The model folder of a run; a teacher of the recipe's own stands elsewhere."""
    given = workspace.recipe.teacher_models
    if (folder / "model" / "model.json").is_file() or not given:
        return folder / "model"
    number = folder.name.removeprefix("teacher").removeprefix("-")
    path = given[int(number) if number else 0].model
    return path / "model" if (path / "model" / "model.json").is_file() else path


def over_seeds(model: ModelRuns) -> list[CaseResult]:
    """Each case once: the mean of every metric over the seeds in which it is defined."""
    first, *others = model.cases.values()
    if not others:
        return first
    merged: list[CaseResult] = []
    for same in zip(first, *others, strict=True):
        assert len({case.case for case in same}) == 1
        regions = {name: _mean_of([case.regions[name] for case in same]) for name in same[0].regions}
        merged.append(CaseResult(same[0].case, same[0].patient, regions))
    return merged


def _mean_of(values: Sequence[Scores]) -> Scores:
    means = Scores()
    for metric in dict.fromkeys(metric for scores in values for metric in scores):
        known = [v for scores in values if not np.isnan(v := scores.get(metric, np.nan))]
        means[metric] = float(np.mean(known)) if known else float("nan")
    return means


def model_rows(models: Sequence[ModelRuns], workspace: steps.Workspace) -> list[dict[str, Any]]:
    """What ``results.json`` says of each model: its costs, measured here and now, and its scores."""
    loaded = {model.name: Segmenter.load(model.first.model) for model in models}
    largest = max((case.shape for case in workspace.store.cases.values()), key=lambda s: s[1] * s[2])
    size = workspace.store.preprocess.shown(largest)
    slices = math.prod(size) / (largest[1] * largest[2])  # that an image is worth
    described = {
        name: " ".join([model.network_name, *(f"{k}={v}" for k, v in model.network_options.items())])
        for name, model in loaded.items()
    }
    apart = {text: name for name, text in reversed(described.items())}  # a cost is the network's, not the method's
    milliseconds = ms_per_image({text: loaded[name].network for text, name in apart.items()}, size)
    memory = peak_mib(
        {text: next(m.first.model for m in models if m.name == name) for text, name in apart.items()}, size
    )
    table: list[dict[str, Any]] = []
    for run in models:
        model, network = loaded[run.name], described[run.name]
        weights = run.first.model / "model.safetensors"
        facts = [Segmenter.load(one.model).facts for one in run.runs]
        seeds = sorted(run.cases)
        table.append(
            {
                "name": run.name,
                "network": network,
                "method": (model.facts["method"] or {"name": "seg"})["name"],
                "options": {str(fold): options for fold, options in run.options.items() if options},
                "alone": run.alone or None,
                "seed": seeds[0],
                "seeds": seeds,
                "parameters": model.parameters,
                "multiply_adds": round(multiply_adds(model.network, size) / slices),
                "ms_per_slice": round(milliseconds[network] / slices, 3),
                "file_mib": round(weights.stat().st_size / 2**20, 3),
                "peak_mib": round(memory[network], 1),
                "train_seconds": round(sum(fact["train_seconds"] for fact in facts), 1),
                "labels": summarize(over_seeds(run)),
                "tests": sum(len(cases) for cases in run.cases.values()),
                "missed": _missed(run),
                "nan_seeds": [seed for seed in seeds if any(case.nan for case in run.cases[seed])],
                "seed_means": {region: seed_means(run, region) for region in next(iter(run.cases.values()))[0].regions},
                "sha256": [
                    hashlib.sha256((one.model / "model.safetensors").read_bytes()).hexdigest() for one in run.runs
                ],
            }
        )
    return table


def _missed(model: ModelRuns) -> dict[str, int]:
    """Region -> in how many tests (a case by a seed) nothing was found of it though it is there."""
    counts = count_empty([case for cases in model.cases.values() for case in cases])
    return {region: kinds["prediction"] for region, kinds in counts.items()}


def seed_means(model: ModelRuns, region: str) -> list[float]:
    """Mean Dice over patients, a value for each seed."""
    return [float(mean) for mean in np.mean(list(model.dice(region).values()), axis=0)]

"""The steps of a recipe: prepare, train, distill, evaluate. Each finds what the one before it left."""

import os
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from hlfd.cases import Case, DataSource
from hlfd.data.prepare import prepare
from hlfd.data.splits import Split, make_splits, read_splits, write_splits
from hlfd.data.store import Store
from hlfd.errors import InputError
from hlfd.evaluation.protocols import CaseResult, evaluate_case, write_evaluation
from hlfd.inference import predict
from hlfd.io import nifti
from hlfd.progress import console, progress
from hlfd.recipe import Plugin, Recipe
from hlfd.segmenter import Segmenter, patient_keys

Part = Literal["train", "validation", "test", "all"]


class Workspace:
    """A recipe with its data: each part is made, or found finished, when it is first asked for.

    Args:
        workers: processes that prepare; None: one a core.
    """

    def __init__(self, recipe: Recipe, workers: int | None = None):
        self.recipe = recipe
        self.workers = workers or os.cpu_count() or 1

    @cached_property
    def source(self) -> DataSource:
        """The recipe's data on disk."""
        return self.recipe.make_source()

    @cached_property
    def store(self) -> Store:
        """The prepared store; cases that are missing are prepared now, those without labels are left out."""
        unlabelled = sum(case.label is None for case in self.source.cases)
        if unlabelled:
            console.print(f"{unlabelled} of {len(self.source.cases)} cases have no labels and are left out")
        preprocess = self.recipe.resolved_preprocess(self.source)
        return prepare(self.recipe.make_source, preprocess, self.recipe.folder / "store", workers=self.workers)

    @cached_property
    def splits(self) -> list[Split]:
        """The splits on record in ``splits.json``, written now if there are none yet.

        Raises:
            InputError: those on record are others than the recipe asks for.
        """
        section, path, patients = self.recipe.split, self.recipe.folder / "splits.json", self.patients
        if section is None:
            return []
        if section.file is not None:
            wanted = read_splits(section.file, patients)
        else:
            options = section.model_dump(exclude={"file"})
            wanted = make_splits(patients, **options)
        if not path.exists():
            write_splits(path, wanted)
        elif read_splits(path, patients) != wanted:
            raise InputError(
                f"{path}: holds another split than the recipe asks for; choose another output or remove it"
            )
        return wanted

    @property
    def patients(self) -> list[str]:
        """Patients with labels."""
        found = sorted({case.patient for case in self.source.cases if case.label is not None})
        if not found:
            name, count = self.source.name, len(self.source.cases)
            raise InputError(f"source {name}: expected cases with labels, none of the {count} has any")
        return found

    def split(self, fold: int) -> Split:
        """The split of a fold. Raises `InputError` if there is no such fold."""
        if not 0 <= fold < len(self.splits):
            raise InputError(f"fold {fold}: the recipe's split has {len(self.splits)} (counted from 0)")
        return self.splits[fold]

    def cases(self, patients: Collection[str]) -> list[Case]:
        """The labelled cases of these patients."""
        return [c for c in self.source.cases if c.patient in patients and c.label is not None]

    def folder(self, fold: int) -> Path:
        """Where the runs of a fold go; a recipe with one fold has no level for it."""
        return self.recipe.folder if len(self.recipe.folds) == 1 else self.recipe.folder / f"fold-{fold}"

    @property
    def data_name(self) -> str:
        """Name under which `patient_keys` remembers this data set."""
        return self.recipe.source.root.resolve().name


def train_teacher(workspace: Workspace, fold: int) -> Path:
    """Train the recipe's teacher on a fold; the model folder."""
    from hlfd.training.run import Job, run  # Lightning takes seconds to import, and only training needs it

    recipe = workspace.recipe
    return run(
        Job(
            folder=workspace.folder(fold) / "teacher",
            network=recipe.teacher,
            training=recipe.teacher_training,
            **_shared(workspace, fold),
        )
    )


def train_student(workspace: Workspace, fold: int, method: Plugin, teacher: Path | None = None) -> Path:
    """Train the recipe's student with a method (``seg``: alone) on a fold; the model folder.

    Args:
        teacher: model folder; None: the recipe's ``teacher_model``, or the teacher trained on this fold.
    """
    from hlfd.training.run import Job, run

    recipe = workspace.recipe
    if teacher is None and method.name != "seg":
        teacher = recipe.teacher_model or workspace.folder(fold) / "teacher" / "model"
        if not (teacher / "model.json").exists():
            raise InputError(f"{teacher}: no teacher there; run 'hlfd train RECIPE --role teacher' first")
    return run(
        Job(
            folder=workspace.folder(fold) / student_name(method),
            network=recipe.student,
            training=recipe.student_training,
            method=method,
            teacher=None if method.name == "seg" else teacher,
            **_shared(workspace, fold),
        )
    )


def student_name(method: Plugin) -> str:
    """``student`` for the student alone, else ``student-METHOD``."""
    return "student" if method.name == "seg" else f"student-{method.name}"


def _shared(workspace: Workspace, fold: int) -> dict[str, Any]:
    return {
        "store": workspace.store,
        "split": workspace.split(fold),
        "labels": workspace.source.labels,
        "data": workspace.data_name,
        "seed": workspace.recipe.seed,
    }


def evaluate(model_folder: Path, workspace: Workspace, part: Part, fold: int, folder: Path) -> list[CaseResult]:
    """Predict every case of a part on its own grid and measure it against its label map.

    Args:
        model_folder: a `Segmenter`.
        part: which patients; ``all`` needs no split.
        folder: gets ``predictions/CASE.nii.gz``, ``evaluation.json`` and ``evaluation.csv``.

    Raises:
        InputError: the model's classes are others than the data's, or it learned from patients it is to be tested on.
    """
    source, model = workspace.source, Segmenter.load(model_folder)
    patients = workspace.patients if part == "all" else getattr(workspace.split(fold), part)
    if model.labels.names != source.labels.names:
        raise InputError(
            f"{model_folder}: its classes are {model.labels.names}, those of the data {source.labels.names}"
        )
    leaked = model.learned_from & patient_keys(workspace.data_name, patients)
    if leaked and part in ("test", "all"):
        raise InputError(f"{model_folder}: learned from {len(leaked)} of the {len(patients)} patients to be tested on")
    cases, results = workspace.cases(patients), list[CaseResult]()
    with progress(f"evaluating {folder.name}", len(cases)) as advance:
        for case in cases:
            prediction = predict(model, source.read_image(case))
            nifti.write_label(folder / "predictions" / f"{case.id}.nii.gz", prediction, model.description)
            overlaps = evaluate_case(prediction, source.read_label(case), model.labels, case.id)
            results.append(CaseResult(case.id, case.patient, overlaps))
            advance()
    write_evaluation(folder, results)
    return results

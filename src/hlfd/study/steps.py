"""The steps of a recipe: prepare, train, distill, evaluate. Each finds what the one before it left."""

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from hlfd.cases import Case, DataSource
from hlfd.data.fingerprint import plan_on_record
from hlfd.data.prepare import all_facts, prepare, read_from
from hlfd.data.preprocess import Preprocess
from hlfd.data.split_files import is_nnunet, read_nnunet_splits, read_splits, write_splits
from hlfd.data.splits import Split, inner_splits, make_splits, require_distinct, tumor_volumes
from hlfd.data.store import Store
from hlfd.errors import InputError
from hlfd.evaluation import protocols
from hlfd.evaluation.calibration import calibrate
from hlfd.evaluation.protocols import CaseResult, Protocol, evaluate_case, write_evaluation
from hlfd.inference import Predictor
from hlfd.io import nifti
from hlfd.machine import Machine
from hlfd.progress import console, progress
from hlfd.recipe import Recipe
from hlfd.sections import Method, SplitSection, TeacherSection
from hlfd.segmenter import Segmenter, patient_keys

Part = Literal["train", "validation", "test", "all"]


class Workspace:
    """A recipe with its data: each part is made, or found finished, when it is first asked for.

    Args:
        workers: processes that prepare; None: one a core.
        machine: on what networks are trained.
    """

    def __init__(self, recipe: Recipe, workers: int | None = None, machine: Machine | None = None):
        self.recipe, self.machine = recipe, machine or Machine()
        self.workers = workers or os.cpu_count() or 1

    def of(self, recipe: Recipe) -> "Workspace":
        """The same folder, and what is ready of the data, for a recipe that differs in its student or seed alone."""
        other = Workspace(recipe, self.workers)
        other.__dict__.update(
            {k: v for k, v in self.__dict__.items() if k in ("source", "store", "splits", "preprocess", "plan")}
        )
        return other

    @cached_property
    def source(self) -> DataSource:
        """The recipe's data on disk."""
        return self.recipe.make_source()

    @cached_property
    def store(self) -> Store:
        """The prepared store; cases that are missing are prepared now, those without labels if the student sees any."""
        unlabelled = sum(case.label is None for case in self.source.cases)
        if unlabelled and not self.uses_unlabelled:
            console.print(
                f"{unlabelled} of {len(self.source.cases)} cases have no labels and are left out "
                "(student_training.unlabelled_share would distil on them)"
            )
        for note in self.source.notes:
            console.print(note, highlight=False)
        folder = self.recipe.folder / "store"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # processes that torchrun or SLURM start together
            return prepare(
                self.recipe.make_source,
                self.preprocess,
                folder,
                workers=self.workers,
                unlabelled=self.uses_unlabelled,
                plan=self.plan,
            )

    @cached_property
    def preprocess(self) -> Preprocess:
        """What is done to the images: the recipe's options, with what it leaves open from the source or the plan."""
        return Preprocess(**self.plan["preprocess"]) if self.plan else self.recipe.resolved_preprocess(self.source)

    @cached_property
    def plan(self) -> dict[str, Any] | None:
        """Fingerprint of the training patients and what follows from it, on record in ``plan.json``.

        None: the recipe asks for none.

        Raises:
            InputError: there is not one set of training patients.
        """
        if not self.recipe.preprocess.fingerprint:
            return None
        if len(self.recipe.folds) != 1 or self.recipe.split is None:
            raise InputError(
                "preprocess.fingerprint: it is of the training patients of one fold, and this recipe has "
                f"{len(self.recipe.folds) if self.recipe.split else 'no'} folds: run one at a time, each with its own "
                "output, or set preprocess.window_hu and spacing_mm"
            )
        if self.recipe.split.stratify:
            raise InputError(
                "preprocess.fingerprint and split.stratify exclude each other: the one needs the training patients to "
                "prepare the data, the other prepared data to choose them; name a split file (split.file) instead"
            )
        train = self.split(self.recipe.folds[0]).train
        files = {case.id: read_from(self.source, case) for case in self.cases(train)}
        made_from = {"options": self.recipe.preprocess.model_dump(mode="json"), "files": files}
        return plan_on_record(
            self.recipe.folder / "plan.json",
            made_from,
            lambda: all_facts(self.recipe.make_source, self.source, train, workers=self.workers),
            self.recipe.preprocess,
            self.recipe.preprocess.window_hu,
        )

    @property
    def uses_unlabelled(self) -> bool:
        """Whether the student is distilled on slices without labels."""
        return self.recipe.student_training.unlabelled_share > 0

    @cached_property
    def splits(self) -> list[Split]:
        """The splits on record in ``splits.json``, written now if there are none yet.

        Raises:
            InputError: those on record are others than the recipe asks for.
        """
        section = self.recipe.split
        if section is None:
            return []
        wanted = self._splits(section)
        if section.stratify:  # that there are patients enough is known before the work
            wanted = self._splits(section, tumor_volumes(self.store, self.source.labels.tumor_classes))
        return self._on_record(self.recipe.folder / "splits.json", wanted)

    def _splits(self, section: SplitSection, volumes: Mapping[str, float] | None = None) -> list[Split]:
        own = section.from_source
        file, held_out = section.file or (self.source.splits if own else None), self.source.test if own else ()
        if file is not None and not is_nnunet(file):
            for key in ("folds", "labelled", "stratify"):
                if getattr(section, key):
                    raise InputError(f"split.{key}: {file} says in which part everybody is; leave split.{key} out")
            return read_splits(file, self.patients, self.without_labels)
        options: dict[str, Any] = {
            **section.model_dump(include={"seed", "validation", "labelled"}),
            "unlabelled": self.without_labels if self.uses_unlabelled else (),
            "volumes": volumes,
            "held_out": held_out,
        }
        if file is None:
            return make_splits(self.patients, test=section.test, folds=section.folds, **options)
        if section.folds is not None:
            raise InputError(
                f"split.folds: the folds are those of {file}; leave split.folds out, or set split.from_source to false"
            )
        return read_nnunet_splits(file, {c.id: c.patient for c in self.source.cases if c.label}, **options)

    def teacher_splits(self, fold: int) -> list[Split]:
        """The splits of the recipe's ``teacher_folds``, on record in ``teacher-splits.json`` of the fold's folder."""
        folds = self.recipe.teacher_folds
        assert folds is not None
        wanted = inner_splits(self.split(fold), folds, self.recipe.seed)
        return self._on_record(self.folder(fold) / "teacher-splits.json", wanted)

    def _on_record(self, path: Path, wanted: list[Split]) -> list[Split]:
        if not path.exists():
            write_splits(path, wanted)
        elif (kept := read_splits(path, self.patients, self.without_labels)) != wanted:
            remedy = "choose another output or remove it"
            if added := {p for s in wanted for p in s.patients} - {p for s in kept for p in s.patients}:
                remedy = (
                    f"{len(added)} patients are not in it (first '{min(added)}'): to keep it, and them out of it, set "
                    "split.file to it; to split anew, choose another output, or remove it if nothing was trained by it"
                )
            raise InputError(f"{path}: holds another split than the recipe asks for; {remedy}")
        return wanted

    @property
    def patients(self) -> list[str]:
        """Patients with labels."""
        found = sorted({case.patient for case in self.source.cases if case.label is not None})
        if not found:
            name, count = self.source.name, len(self.source.cases)
            raise InputError(f"source {name}: expected cases with labels, none of the {count} has any")
        return found

    @property
    def without_labels(self) -> list[str]:
        """The other patients, none of whose cases has labels."""
        return sorted({case.patient for case in self.source.cases}.difference(self.patients))

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


def verify(store: Store) -> None:
    """Compare every file of a store with its hash. Raises `InputError` that names what differs."""
    with progress("verifying", len(store.cases)) as advance:
        problems = store.damage(advance)
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise InputError(f"{'; '.join(problems[:5])}{more}: remove these cases' files and prepare again")


def train_teachers(workspace: Workspace, fold: int) -> list[Path]:
    """Train the recipe's teacher on a fold, or its ``teacher_folds``; the model folders."""
    from hlfd.training.job import Job
    from hlfd.training.run import run  # Lightning takes seconds to import, and only training needs it

    recipe = workspace.recipe
    splits = workspace.teacher_splits(fold) if recipe.teacher_folds else [workspace.split(fold)]
    return [
        run(
            Job(
                folder=folder.parent,
                network=recipe.teacher,
                training=recipe.teacher_training,
                **_shared(workspace, split),
            )
        )
        for folder, split in zip(teacher_folders(workspace, fold), splits, strict=True)
    ]


def teacher_folders(workspace: Workspace, fold: int) -> list[Path]:
    """Where the models of the teachers that a fold trains are, or will be."""
    folds = workspace.recipe.teacher_folds
    names = [f"teacher-{k}" for k in range(folds)] if folds else ["teacher"]
    return [workspace.folder(fold) / name / "model" for name in names]


def train_student(
    workspace: Workspace, fold: int, method: Method, teacher: Path | None = None, folder: Path | None = None
) -> Path:
    """Train the recipe's student with a method (``seg``: alone) on a fold; the model folder.

    Args:
        teacher: model folder; None: the recipe's ``teacher_models``, or the teachers trained on this fold.
        folder: of the run; None: the fold's folder holds it under the method's name.
    """
    from hlfd.training.run import run

    return run(_student_job(workspace, fold, method, teacher, folder))


def build_cache(workspace: Workspace, fold: int, method: Method, teacher: Path | None = None) -> list[Path]:
    """Keep what the teachers know of the fold's training slices, for a method, before `train_student`; the files."""
    from hlfd.training.run import build_cache

    return build_cache(_student_job(workspace, fold, method, teacher))


def _student_job(
    workspace: Workspace, fold: int, method: Method, teacher: Path | None, run_folder: Path | None = None
) -> Any:
    from hlfd.training.job import Job

    recipe = workspace.recipe
    teachers = (TeacherSection(model=teacher),) if teacher is not None else recipe.teacher_models
    if not teachers and method.name != "seg":
        for folder in teacher_folders(workspace, fold):
            if not (folder / "model.json").exists():
                raise InputError(f"{folder}: no teacher there; run 'hlfd train RECIPE --role teacher' first")
            teachers += (TeacherSection(model=folder),)
    return Job(
        folder=run_folder or workspace.folder(fold) / student_name(method),
        network=recipe.student,
        training=recipe.student_training,
        method=method,
        teachers=() if method.name == "seg" else teachers,
        unseen_only=recipe.unseen_only or recipe.teacher_folds is not None,
        **_shared(workspace, workspace.split(fold)),
    )


def student_name(method: Method) -> str:
    """``student`` for the student alone, else ``student-METHOD``, or what the recipe calls it."""
    return "student" if method.label == "seg" else f"student-{method.label}"


def _shared(workspace: Workspace, split: Split) -> dict[str, Any]:
    require_distinct(workspace.store, split)
    return {
        "store": workspace.store,
        "split": split,
        "labels": workspace.source.labels,
        "data": workspace.data_name,
        "seed": workspace.recipe.seed,
        "cache": workspace.recipe.folder / "cache",
        "machine": workspace.machine,
    }


def evaluate(
    model_folder: Path,
    workspace: Workspace,
    part: Part,
    fold: int,
    folder: Path,
    protocol: Protocol | None = None,
    *,
    calibration: bool = False,
) -> list[CaseResult]:
    """Predict every case of a part on its own grid and measure it against its label map.

    Args:
        model_folder: a `Segmenter`.
        part: which patients; ``all`` needs no split.
        folder: gets ``predictions/CASE.nii.gz``, ``evaluation.json`` and ``evaluation.csv``.
        protocol: how to judge; None: ``default``.
        calibration: whether to measure how far the probabilities can be believed, voxel by voxel on the native grid.

    Raises:
        InputError: the model's classes are others than the data's, or it learned from patients it is to be tested on.
    """
    source, model = workspace.source, Segmenter.load(model_folder)
    protocol = protocol or protocols.load("default")
    protocol.regions(source.labels)  # labels that it isn't made for are said before the work
    patients = workspace.patients if part == "all" else getattr(workspace.split(fold), part)
    if model.labels.names != source.labels.names:
        raise InputError(
            f"{model_folder}: its classes are {model.labels.names}, those of the data {source.labels.names}"
        )
    leaked = model.learned_from & patient_keys(workspace.data_name, patients)
    if leaked and part in ("test", "all"):
        raise InputError(f"{model_folder}: learned from {len(leaked)} of the {len(patients)} patients to be tested on")
    cases, results, predictor = workspace.cases(patients), list[CaseResult](), Predictor(model, strict=False)
    with progress(f"evaluating {folder.name}", len(cases)) as advance:
        for case in cases:
            found = predictor.run(source.read_image(case), probabilities=calibration)
            nifti.write_label(folder / "predictions" / f"{case.id}.nii.gz", found.labels, model.description)
            reference, bins = source.read_label(case), None
            found.labels.require_same_grid(reference, f"case {case.id}: prediction and reference")
            if found.probabilities is not None:
                bins = calibrate(np.moveaxis(found.probabilities, -1, 0), reference.voxels, f"case {case.id}")
            judged = evaluate_case(
                found.labels,
                reference,
                model.labels,
                case.id,
                patient=case.patient,
                protocol=protocol,
                calibration=bins,
            )
            results.append(replace(judged, nan=predictor.gave_nan))
            predictor.gave_nan = False
            advance()
    if any(judged.nan for judged in results):
        console.print(f"{model_folder}: its network gives NaN, which counts as background", highlight=False)
    write_evaluation(folder, results, protocol)
    return results

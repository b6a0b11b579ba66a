"""preflight: what would stop a comparison after hours of training is said before the first step of it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hlfd.distill.distiller import Distiller
from hlfd.distill.features import TapInfo
from hlfd.distill.frozen import FrozenTeacher
from hlfd.distill.terms import Schedule
from hlfd.errors import InputError
from hlfd.recipe import Recipe
from hlfd.sections import Method, Plugin
from hlfd.segmenter import build_network, patient_keys
from hlfd.study.steps import Workspace
from hlfd.teachers._view import view

if TYPE_CHECKING:
    from hlfd.training.teachers import Opened

Taps = Mapping[str, TapInfo]


def check(workspace: Workspace) -> None:
    """Check all that a recipe's trainings need and that can be known without any of them.

    Raises:
        InputError: a term that student or teacher can't take part in, a teacher that isn't there, can't see what the
            student sees or learned from a fold's test patients, slices without labels that nothing is learned from, a
            method that a required cache can't serve.
    """
    recipe, classes = workspace.recipe, workspace.source.labels.classes
    _check_unlabelled(workspace)
    if recipe.teacher_models:
        teachers = [_seen(workspace, opened) for opened in _open(workspace)]
    else:
        teachers = [_built(recipe, recipe.teacher, classes)]
    student = _built(recipe, recipe.student, classes)
    for method in recipe.methods:
        check_method(recipe, method, student, teachers, classes)


def _built(recipe: Recipe, network: Plugin, classes: int) -> Taps:
    shown = recipe.preprocess
    return build_network(network.name, network.options, classes, in_channels=shown.channels, dims=shown.dims).info()


def check_method(recipe: Recipe, method: Method, student: Taps, teachers: Sequence[Taps], classes: int) -> None:
    """Build a method's terms for networks of these taps. Raises `InputError` for what can't be."""
    schedules = {pattern: Schedule(**section.model_dump()) for pattern, section in method.terms.items()}
    for teacher in teachers:
        distiller = Distiller(method.build(student, teacher, classes), schedules)
        terms = distiller.each()
        if terms:
            recipe.student_training.require_cache(distiller.whole_features())
        if recipe.student_training.unlabelled_share and terms and all(term.loss.needs_labels for term in terms):
            raise InputError(
                f"method '{method.name}': every term needs labels, so it learns nothing from slices without them: set "
                "student_training.unlabelled_share to 0, or choose another method"
            )


def _check_unlabelled(workspace: Workspace) -> None:
    if not workspace.uses_unlabelled:
        return
    for fold in workspace.recipe.folds:
        split = workspace.split(fold)
        if not split.unlabelled and not any(
            case.label is None and case.patient in split.train for case in workspace.source.cases
        ):
            raise InputError(
                f"student_training.unlabelled_share: fold {fold} has no patient without labels; set it to 0, or keep "
                "labels back with split.labelled"
            )


def _open(workspace: Workspace) -> "list[Opened]":
    from hlfd.training.teachers import check_leakage, open_teacher  # only recipes with teacher_models need it

    recipe, data = workspace.recipe, workspace.data_name
    patients = sorted({case.patient for case in workspace.source.cases})
    found = [open_teacher(section, data, patients) for section in recipe.teacher_models]
    for fold in recipe.folds:
        split = workspace.split(fold)
        for opened in found:
            check_leakage(opened, data, split)
        taught = patient_keys(data, (*split.train, *(split.unlabelled if workspace.uses_unlabelled else ())))
        untaught = taught.intersection(*(opened.learned_from for opened in found))
        if recipe.unseen_only and untaught:
            raise InputError(
                f"unseen_only: every teacher learned from {len(untaught)} of the {len(taught)} training patients of "
                f"fold {fold}; expected teachers of other folds, so that each patient has one that has not seen it"
            )
    return found


def _seen(workspace: Workspace, opened: "Opened") -> Taps:
    """The teacher's taps, with the student's classes."""
    source, section = workspace.source, opened.section
    seen = view(
        opened.pretrained,
        workspace.preprocess,
        source.labels,
        dims=workspace.recipe.preprocess.dims,
        size=section.size,
        classes=section.classes,
        where=str(section.model),
    )
    return FrozenTeacher(opened.pretrained.tapped, seen).info()

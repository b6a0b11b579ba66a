"""From the models that a job names to its teaching: opened, checked for leakage, each with its terms."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hlfd.data.preprocess import Preprocess
from hlfd.data.splits import Split
from hlfd.distill.distiller import Distiller
from hlfd.distill.features import Tapped
from hlfd.distill.folding import fold_batch_norms
from hlfd.distill.frozen import FrozenTeacher
from hlfd.distill.pretrained import Pretrained
from hlfd.distill.teaching import Teaching, teacher_shares
from hlfd.distill.terms import Schedule
from hlfd.errors import InputError, nearest
from hlfd.labels import Labels
from hlfd.progress import console
from hlfd.sections import Method, TeacherSection
from hlfd.segmenter import patient_keys
from hlfd.teachers._open import open_pretrained
from hlfd.teachers._view import view


@dataclass(frozen=True)
class Opened:
    """A teacher that a job names, read from its folder.

    Attributes:
        learned_from: keys of the patients it learned from, as far as they are of interest here.
        sha256: of its weights.
        architecture: hash of its modules, with the options that no weight shows.
        parameters: how many it has.
    """

    section: TeacherSection
    pretrained: Pretrained
    learned_from: frozenset[str]
    sha256: str
    architecture: str
    parameters: int

    @property
    def identity(self) -> dict[str, str]:
        """What its answers depend on but for its view."""
        taps = json.dumps(self.pretrained.tapped.taps, sort_keys=True)
        return {"teacher": self.sha256, "architecture": self.architecture, "taps": taps}


def open_teacher(section: TeacherSection, data: str, patients: Sequence[str]) -> Opened:
    """Read a teacher, fold its batch norms, and find out whom it learned from.

    Args:
        data: name of the data set.
        patients: all of its patients.

    Raises:
        InputError: not a model; or nobody says whom it learned from.
    """
    pretrained = open_pretrained(section.model, **section.options)
    learned_from = pretrained.learned_from
    if learned_from is None:
        learned_from = _stated(section, data, patients)
    elif section.learned_from is not None:
        raise InputError(f"{section.model}: learned_from: the model itself says whom it learned from; leave it out")
    digest = hashlib.sha256()
    for name, tensor in pretrained.tapped.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    parameters = sum(p.numel() for p in pretrained.tapped.parameters())
    architecture = hashlib.sha256(repr(pretrained.tapped.network).encode()).hexdigest()[:16]
    fold_batch_norms(pretrained.tapped)
    return Opened(section, pretrained, learned_from, digest.hexdigest(), architecture, parameters)


def _stated(section: TeacherSection, data: str, patients: Sequence[str]) -> frozenset[str]:
    stated, where = section.learned_from, f"{section.model}: learned_from"
    if stated is None:
        raise InputError(
            f"{where}: the model doesn't say whom it learned from; state it: 'other' (no patient of this data), or a "
            "JSON file that lists those it learned from, as learned_from in a recipe's teacher_models"
        )
    if stated == "other":
        return frozenset()
    try:
        listed = json.loads(Path(stated).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: expected a JSON list of patients in {stated}: {error}") from None
    if not isinstance(listed, list) or not all(isinstance(patient, str) for patient in listed):
        raise InputError(f"{where}: {stated}: expected a JSON list of patients' ids as text, got {str(listed)[:60]}")
    for patient in listed:
        if patient not in patients:
            raise InputError(
                f"{where}: {stated}: there is no patient '{patient}' in the data{nearest(patient, patients)}"
            )
    return patient_keys(data, listed)


def check_leakage(opened: Opened, data: str, split: Split) -> None:
    """A teacher must not know the student's test patients. Raises `InputError` with their number."""
    leaked = opened.learned_from & patient_keys(data, split.test)
    if leaked:
        raise InputError(
            f"{opened.section.model}: the teacher learned from {len(leaked)} of the {len(split.test)} test patients: "
            "use the split it was trained with, or another teacher"
        )


def teaching(
    network: Tapped,
    method: Method | None,
    teachers: Sequence[Opened],
    *,
    preprocess: Preprocess,
    labels: Labels,
    data: str,
    patients: Sequence[str],
    unseen_only: bool,
    unlabelled: bool,
    bf16: bool = False,
) -> Teaching:
    """The method's terms for the student ``network`` and each of the teachers.

    Args:
        preprocess, labels: the student's.
        data: name of the data set.
        patients: those of the training batches, in the order in which batches count them.
        unseen_only: a patient is taught only by teachers that did not learn from it.
        unlabelled: some of the samples have no labels.
        bf16: the teachers compute in bfloat16.

    Raises:
        InputError: a teacher that can't see what the student sees, a term that a network can't take part in, patients
            whom no teacher may teach, or only terms that need labels where there are none.
    """
    if method is None:
        return Teaching.alone()
    taps, schedules = network.info(), {k: Schedule(**s.model_dump()) for k, s in method.terms.items()}
    if not teachers:
        try:
            needs_teacher = bool(method.build(taps, taps, labels.classes))
        except InputError:
            needs_teacher = True  # its taps are looked at when there is one
        if not needs_teacher:
            return Teaching.alone()
        raise InputError(f"method '{method.name}' needs a teacher: train one first, or name its model folder")
    frozen: list[FrozenTeacher] = []
    for opened in teachers:
        section = opened.section
        seen = view(
            opened.pretrained,
            preprocess,
            labels,
            dims=network.dims,
            size=section.size,
            classes=section.classes,
            where=str(section.model),
        )
        frozen.append(FrozenTeacher(opened.pretrained.tapped, seen, bf16=bf16))
        _warn_if_larger(network, opened)
    distillers = [Distiller(method.build(taps, teacher.info(), labels.classes), schedules) for teacher in frozen]
    lessons = Teaching(frozen, distillers, _shares(teachers, data, patients, unseen_only=unseen_only))
    skipping = lessons.needing_labels()
    if unlabelled and len(skipping) == len(lessons.taps_taught()):
        raise InputError(
            f"method '{method.name}': every term needs labels, so it learns nothing from slices without them: set "
            "student_training.unlabelled_share to 0, or choose another method"
        )
    if unlabelled and skipping:
        console.print(f"terms that need labels skip slices without them: {', '.join(skipping)}", highlight=False)
    return lessons


def _shares(teachers: Sequence[Opened], data: str, patients: Sequence[str], *, unseen_only: bool) -> torch.Tensor:
    may_teach = torch.ones(len(patients), len(teachers), dtype=torch.bool)
    if unseen_only:
        for row, patient in enumerate(patients):
            key = patient_keys(data, [patient])
            may_teach[row] = torch.tensor([not key & opened.learned_from for opened in teachers])
        without = int((~may_teach.any(1)).sum())
        if without:
            raise InputError(
                f"unseen_only: every teacher learned from {without} of the {len(patients)} training patients; expected "
                "teachers of other folds, so that each patient has one that has not seen it"
            )
    return teacher_shares([opened.section.weight for opened in teachers], may_teach)


def _warn_if_larger(network: Tapped, opened: Opened) -> None:
    own = sum(p.numel() for p in network.parameters())
    if own > opened.parameters:
        console.print(
            f"warning: the student has {own:,} parameters, its teacher {opened.parameters:,}: "
            "there is nothing to make smaller",
            highlight=False,
        )

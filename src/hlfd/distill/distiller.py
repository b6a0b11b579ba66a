"""Distiller: the terms of a method, computed together."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from hlfd import plugins
from hlfd.distill.features import Features, Tapped
from hlfd.distill.frozen import FrozenTeacher
from hlfd.distill.losses import Code, SegmentationLoss, resize
from hlfd.distill.terms import Schedule, Term, sizes
from hlfd.errors import InputError, nearest


class Distiller(nn.Module):
    """All terms of a method. Its parameters (heads) go to the optimiser and the checkpoint, never to the student.

    A head on the teacher's side states the teacher's own middle-layer opinion, so it must mean something: it is
    trained on the frozen teacher's features with `SegmentationLoss` against the labels. Either call `fit_heads` once
    before training, which freezes it, or train it along: `forward` then adds a term ``head.NAME`` for each.

    Samples without labels have -1 throughout the target: they count in all terms but those that need labels.

    Args:
        terms: of one method, or of several together.
        schedules: pattern of term names (``plfd.*``) -> `Schedule`; the last that fits counts. Schedules follow
            `set_epoch`; without that call every term stays at epoch 0.
    """

    def __init__(self, terms: Iterable[Term], schedules: Mapping[str, Schedule] | None = None):
        super().__init__()
        self.terms = nn.ModuleList(terms)
        names = [term.name for term in self.each()]
        if len(set(names)) < len(names):
            raise InputError(f"terms need different names, got {', '.join(names)}")
        for pattern, schedule in (schedules or {}).items():
            fitting = [term for term in self.each() if fnmatchcase(term.name, pattern)]
            if not fitting:
                raise InputError(f"there is no term '{pattern}'{nearest(pattern, names)}")
            for term in fitting:
                term.schedule = schedule
        self.register_buffer("heads_fitted", torch.tensor(False))  # in the state; what forward asks is a plain value
        self._fitted = False
        self.register_load_state_dict_post_hook(_freeze_if_fitted)
        # Tensors, so that a compiled forward doesn't change with the epoch.
        self.register_buffer("factors", torch.ones(len(names)), persistent=False)
        self.register_buffer("balance", torch.ones(len(names)))
        self.segmentation_loss = SegmentationLoss()
        self.set_epoch(0.0)

    @classmethod
    def of(cls, method: str, student: Tapped, teacher: FrozenTeacher, **options: Any) -> "Distiller":
        """The terms of a method by name, for one's own training loop: ``Distiller.of("hlfd", student, teacher)``.

        Several together: ``Distiller([*Distiller.of("hlfd", ...).terms, *Distiller.of("cwd", ...).terms])``.

        Raises:
            InputError: no such method or option, or taps that the method needs and a network doesn't have.
        """
        built = plugins.load("methods", method, student.info(), teacher.info(), classes=student.classes, **options)
        return cls(built)

    def trainable(self, *networks: nn.Module) -> list[nn.Parameter]:
        """What an optimiser must own: the networks' parameters and the heads', but for heads that are fitted."""
        return [p for module in (*networks, self) for p in module.parameters() if p.requires_grad]

    def each(self) -> list[Term]:
        """The terms."""
        return [term for term in self.terms if isinstance(term, Term)]

    def teacher_roles(self) -> frozenset[str]:
        """The teacher's taps that the terms read, but for those that have stopped."""
        return frozenset(tap for _, term in self._taught() for tap in term.teacher)

    def ask(self, teacher: FrozenTeacher, images: Tensor) -> Features:
        """The teacher's features, as far as the terms read them."""
        # A compiled teacher can't be left half-way.
        return teacher(images) if teacher.compiled else teacher(images, self.teacher_roles())

    def set_epoch(self, epoch: float) -> None:
        """Bring the schedules to an epoch, counted from 0, with its fraction."""
        factors = [term.schedule.factor(epoch) for term in self.each()]
        self.get_buffer("factors").copy_(torch.tensor(factors))
        self._off = frozenset(
            term.name
            for term, factor in zip(self.each(), factors, strict=True)
            if factor == 0 and (term.schedule.stop_epoch is not None and epoch >= term.schedule.stop_epoch)
        )

    def set_balance(self, factors: Mapping[str, float]) -> None:
        """Set the balance factor of each term named; it multiplies the term's weight and is kept in the state."""
        for i, term in enumerate(self.each()):
            self.get_buffer("balance")[i] = factors.get(term.name, self.get_buffer("balance")[i])

    def balance_factors(self) -> dict[str, float]:
        """Term -> its balance factor."""
        return {term.name: float(factor) for term, factor in zip(self.each(), self.get_buffer("balance"), strict=True)}

    def weights(self) -> dict[str, float]:
        """Term -> its weight now, the method's by schedule, without the balance."""
        return {
            term.name: term.weight * float(factor)
            for term, factor in zip(self.each(), self.get_buffer("factors"), strict=True)
        }

    def share_class_heads(self, other: "Distiller") -> None:
        """Use the other's heads from the student's taps to class scores, in terms of the same name."""
        theirs = {term.name: term.student_head for term in other.each() if term.loss.head == "classes"}
        for term in self.each():
            if theirs.get(term.name) is not None:
                term.student_head = theirs[term.name]

    def codes(self, known: Mapping[str, Tensor], student: Mapping[str, Sequence[int]]) -> dict[str, Code]:
        """Key -> how to keep what `knowledge` gave."""
        keys = self.knowledge_keys(student)
        return {keys[term.name]: term.loss.code(known[keys[term.name]], term.classes) for _, term in self._taught()}

    def whole_features(self) -> list[str]:
        """Terms that need whole feature maps of the teacher, too much to keep for every slice."""
        return [term.name for term in self.each() if not term.loss.compact]

    @property
    def heads_are_fitted(self) -> bool:
        """Whether the teacher's heads, if any, are fitted and frozen."""
        return self._fitted or not self.heads()

    @property
    def finished(self) -> bool:
        """Whether every term has stopped, so that the teacher has no more to say."""
        return len(self._off) == len(self.terms)

    def heads(self) -> list[Term]:
        """The terms that have a head on the teacher's side."""
        return [term for term in self.each() if term.teacher_head is not None]

    def head_losses(self, teacher: Features, target: Tensor) -> dict[str, Tensor]:
        """``head.NAME`` -> segmentation loss of each teacher head at the target's resolution."""
        return {
            f"head.{term.name}": self.segmentation_loss(resize(term.teacher_opinion(teacher), target.shape[1:]), target)
            for term in self.heads()
        }

    def fit_heads(self, batches: Iterable[tuple[Features, Tensor]], lr: float = 1e-2) -> list[dict[str, float]]:
        """Train the teacher's heads on (teacher features, target), a step a batch, then freeze them.

        Returns:
            the losses of each step.
        """
        parameters = [p for term in self.heads() for p in term.teacher_head.parameters()]  # pyright: ignore[reportOptionalMemberAccess]
        history: list[dict[str, float]] = []
        if parameters:
            optimizer = torch.optim.Adam(parameters, lr=lr)
            for teacher, target in batches:
                losses = self.head_losses(teacher, target)
                optimizer.zero_grad()
                torch.stack(list(losses.values())).sum().backward()
                optimizer.step()
                history.append({name: float(value.detach()) for name, value in losses.items()})
        self.freeze_heads()
        return history

    def freeze_heads(self) -> None:
        """Mark the teacher's heads as fitted and take them from the trainable parameters."""
        for term in self.heads():
            assert term.teacher_head is not None
            term.teacher_head.requires_grad_(False)
            values = b"".join(p.detach().cpu().numpy().tobytes() for p in term.teacher_head.parameters())
            term.head_mark = hashlib.sha256(values).hexdigest()[:12]
        self.get_buffer("heads_fitted").fill_(True)
        self._fitted = True

    def _taught(self) -> list[tuple[int, Term]]:
        """The terms that have not stopped, with their places."""
        return [(i, term) for i, term in enumerate(self.each()) if term.name not in self._off]

    def knowledge_keys(self, student: Mapping[str, Sequence[int]]) -> dict[str, str]:
        """Term -> key of what it needs of the teacher, for a student whose taps have these spatial sizes."""
        return {term.name: term.knowledge_key(term.size(student)) for _, term in self._taught()}

    def knowledge(self, teacher: Features, student: Mapping[str, Sequence[int]], target: Tensor) -> dict[str, Tensor]:
        """Key -> what the terms need of the teacher, each computed once; a row a sample.

        Args:
            teacher: features by role.
            student: spatial sizes of the student's taps.
            target: N x spatial; -1 throughout a sample without labels.
        """
        known: dict[str, Tensor] = {}
        for _, term in self._taught():
            size = term.size(student)
            key = term.knowledge_key(size)
            if key not in known:
                known[key] = term.knowledge(teacher, size, target)
        return known

    def compare(self, student: Features, known: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """Name -> **weighted** scalar, from what `knowledge` gave."""
        weights, keys = self.get_buffer("factors") * self.get_buffer("balance"), self.knowledge_keys(sizes(student))
        return {
            term.name: term.weight * weights[i] * term.compare(student, known[keys[term.name]], target)
            for i, term in self._taught()
        }

    def forward(self, student: Features, teacher: Features, target: Tensor) -> dict[str, Tensor]:
        """Name -> **weighted** scalar, so that ``sum(terms.values())`` is what is added to the segmentation loss.

        Args:
            student, teacher: features by role.
            target: N x spatial; -1 throughout a sample without labels.

        Raises:
            InputError: the teacher's features carry gradients: it is not a `FrozenTeacher`.
        """
        if any(feature.requires_grad for feature in teacher.values()):
            raise InputError("the teacher's features carry gradients: wrap the teacher in FrozenTeacher")
        losses = self.compare(student, self.knowledge(teacher, sizes(student), target), target)
        if self.heads() and not self._fitted:
            losses |= self.head_losses(teacher, target)
        return losses


def _freeze_if_fitted(distiller: nn.Module, _keys: object) -> None:
    """A state with fitted heads was loaded."""
    assert isinstance(distiller, Distiller)
    if bool(distiller.get_buffer("heads_fitted")):
        distiller.freeze_heads()

"""Terms and the Distiller: a method is a table of terms."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from hlfd.distill.features import Features, TapInfo
from hlfd.distill.losses import DistillationLoss, SegmentationLoss, resize
from hlfd.distill.projectors import Head, fuse
from hlfd.errors import InputError

Taps = Mapping[str, TapInfo]


class Term(nn.Module):
    """One arrow from teacher taps to student taps.

    Args:
        name: under which the term is logged, for example ``plfd.d4``.
        loss: compares the two sides; where it works on class scores, a side that isn't ``logits`` gets a learned head.
        weight: factor in the total loss.
        student, teacher: taps of each side; several are resized to the smallest and concatenated.
        student_taps, teacher_taps: what the networks offer, from `Tapped.info`.
        classes: number of classes with background.

    Raises:
        InputError: a tap that a network doesn't have (the message lists those it has).
    """

    def __init__(
        self,
        name: str,
        loss: DistillationLoss,
        weight: float,
        student: Sequence[str],
        teacher: Sequence[str],
        *,
        student_taps: Taps,
        teacher_taps: Taps,
        classes: int,
    ):
        super().__init__()
        for who, taps, offered in (("student", student, student_taps), ("teacher", teacher, teacher_taps)):
            for tap in taps:
                if tap not in offered:
                    raise InputError(f"term {name}: the {who} has no tap '{tap}' (it has {', '.join(offered)})")
        self.name, self.loss, self.weight = name, loss, weight
        self.student, self.teacher = tuple(student), tuple(teacher)
        self.student_head = self._head(student, student_taps, classes)
        self.teacher_head = self._head(teacher, teacher_taps, classes)

    def _head(self, taps: Sequence[str], offered: Taps, classes: int) -> Head | None:
        if not self.loss.on_logits:
            return None
        if tuple(taps) == ("logits",):
            if offered["logits"].channels != classes:
                raise InputError(
                    f"term {self.name}: expected logits of {classes} classes on both sides, "
                    f"got {offered['logits'].channels}: teacher and student have different classes"
                )
            return None
        return Head(sum(offered[tap].channels for tap in taps), classes)

    def teacher_opinion(self, teacher: Features) -> Tensor:
        """The teacher's side of the comparison; features carry no gradient, a head does until it is fitted."""
        fused = fuse(teacher, self.teacher).detach()
        return fused if self.teacher_head is None else self.teacher_head(fused)

    def forward(self, student: Features, teacher: Features, target: Tensor) -> Tensor:
        """Features of both, target N x spatial -> the term, unweighted."""
        own = fuse(student, self.student)
        own = own if self.student_head is None else self.student_head(own)
        return self.loss(own, self.teacher_opinion(teacher).detach(), target)


Row = tuple[str, DistillationLoss, float, Sequence[str], Sequence[str]]


def terms(table: Iterable[Row], student: Taps, teacher: Taps, classes: int) -> list[Term]:
    """A method's table, a row a term: name, loss, weight, student taps, teacher taps. Errors as `Term`."""
    return [Term(*row, student_taps=student, teacher_taps=teacher, classes=classes) for row in table]


class Distiller(nn.Module):
    """All terms of a method. Its parameters (heads) go to the optimiser and the checkpoint, never to the student.

    A head on the teacher's side states the teacher's own middle-layer opinion, so it must mean something: it is
    trained on the frozen teacher's features with `SegmentationLoss` against the labels. Either call `fit_heads` once
    before training, which freezes it, or train it along: `forward` then adds a term ``head.NAME`` for each.
    """

    def __init__(self, terms: Iterable[Term]):
        super().__init__()
        self.terms = nn.ModuleList(terms)
        names = [term.name for term in self._terms()]
        assert len(set(names)) == len(names), f"terms need different names: {names}"
        self.register_buffer("heads_fitted", torch.tensor(False))
        self.segmentation_loss = SegmentationLoss()

    def _terms(self) -> list[Term]:
        return [term for term in self.terms if isinstance(term, Term)]

    @property
    def needs_teacher(self) -> bool:
        """Whether there is any term."""
        return len(self.terms) > 0

    def heads(self) -> list[Term]:
        """The terms that have a head on the teacher's side."""
        return [term for term in self._terms() if term.teacher_head is not None]

    def head_losses(self, teacher: Features, target: Tensor) -> dict[str, Tensor]:
        """``head.NAME`` -> segmentation loss of each teacher head at the target's resolution."""
        full = target[:, None]
        return {
            f"head.{term.name}": self.segmentation_loss(resize(term.teacher_opinion(teacher), full), target)
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
        self.get_buffer("heads_fitted").fill_(True)

    def forward(self, student: Features, teacher: Features, target: Tensor) -> dict[str, Tensor]:
        """Name -> **weighted** scalar, so that ``sum(terms.values())`` is what is added to the segmentation loss."""
        losses = {term.name: term.weight * term(student, teacher, target) for term in self._terms()}
        if self.heads() and not bool(self.get_buffer("heads_fitted")):
            losses |= self.head_losses(teacher, target)
        return losses

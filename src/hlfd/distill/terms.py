"""Terms: a loss, the taps it reads, its weight and schedule; a method is a table of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from hlfd.distill.features import Features, TapInfo
from hlfd.distill.losses import DistillationLoss
from hlfd.distill.projectors import Head, fuse, smallest
from hlfd.errors import InputError

Taps = Mapping[str, TapInfo]


@dataclass(frozen=True)
class Schedule:
    """How a term's weight runs over the epochs.

    Attributes:
        scale: factor on the weight that the method gives the term.
        warmup_epochs: over which the weight rises from 0, linearly.
        stop_epoch: from which the weight is 0; None: never.
    """

    scale: float = 1.0
    warmup_epochs: float = 0.0
    stop_epoch: float | None = None

    def factor(self, epoch: float) -> float:
        """What the weight is multiplied with at an epoch, counted from 0, with its fraction."""
        if self.stop_epoch is not None and epoch >= self.stop_epoch:
            return 0.0
        return self.scale * (min(epoch / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0)


class Term(nn.Module):
    """One arrow from teacher taps to student taps.

    Args:
        name: under which the term is logged, for example ``plfd.d4``.
        loss: compares the two sides; its `head` says which of them go through a learned 1x1 convolution first.
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
                    raise InputError(
                        f"term {name}: the {who} has no tap '{tap}' (it has {', '.join(offered)}); "
                        f"another module can stand in for it with the network's option taps: {{{tap}: MODULE}}"
                    )
        self.name, self.loss, self.weight, self.classes = name, loss, weight, classes
        self.head_mark = ""  # of a fitted head: what it knows depends on it
        self.student, self.teacher = tuple(student), tuple(teacher)
        self.schedule = Schedule()
        self.student_head = self._class_head(student, student_taps, classes)
        self.teacher_head = self._class_head(teacher, teacher_taps, classes)
        if loss.head == "teacher":
            self.student_head = Head(_channels(student, student_taps), _channels(teacher, teacher_taps))

    def _class_head(self, taps: Sequence[str], offered: Taps, classes: int) -> Head | None:
        if self.loss.head != "classes":
            return None
        if tuple(taps) == ("logits",):
            if offered["logits"].channels != classes:
                raise InputError(
                    f"term {self.name}: expected logits of {classes} classes on both sides, "
                    f"got {offered['logits'].channels}: teacher and student have different classes"
                )
            return None
        return Head(_channels(taps, offered), classes)

    def size(self, student: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        """Spatial size of the student's side, from the sizes of its taps."""
        return smallest([tuple(student[tap]) for tap in self.student])

    def teacher_opinion(self, teacher: Features) -> Tensor:
        """The teacher's side of the comparison; features carry no gradient, a head does until it is fitted."""
        fused = fuse(teacher, self.teacher).detach()
        return fused if self.teacher_head is None else self.teacher_head(fused)

    def knowledge_key(self, size: Sequence[int]) -> str:
        """What `knowledge` depends on but for the teacher's features and the target."""
        head = [] if self.teacher_head is None else [f"head {self.name} {self.head_mark}"]
        return " ".join(["+".join(self.teacher), *head, self.loss.knowledge_key(size)])

    def knowledge(self, teacher: Features, size: Sequence[int], target: Tensor) -> Tensor:
        """All that the term needs of the teacher, for a student of spatial ``size``; without gradient."""
        return self.loss.knowledge(self.teacher_opinion(teacher).detach(), size, target).detach()

    def compare(self, student: Features, knowledge: Tensor, target: Tensor) -> Tensor:
        """Features of the student, what `knowledge` gave, target N x spatial -> the term, unweighted."""
        own = fuse(student, self.student)
        own = own if self.student_head is None else self.student_head(own)
        return self.loss.compare(own, knowledge, target)

    def forward(self, student: Features, teacher: Features, target: Tensor) -> Tensor:
        """Features of both, target N x spatial -> the term, unweighted."""
        return self.compare(student, self.knowledge(teacher, self.size(sizes(student)), target), target)


def sizes(features: Features) -> dict[str, tuple[int, ...]]:
    """Role -> spatial size."""
    return {role: tuple(feature.shape[2:]) for role, feature in features.items()}


def _channels(taps: Sequence[str], offered: Taps) -> int:
    return sum(offered[tap].channels for tap in taps)


Row = tuple[str, DistillationLoss, float, Sequence[str], Sequence[str]]


def terms(table: Iterable[Row], student: Taps, teacher: Taps, classes: int) -> list[Term]:
    """A method's table, a row a term: name, loss, weight, student taps, teacher taps. Errors as `Term`."""
    return [Term(*row, student_taps=student, teacher_taps=teacher, classes=classes) for row in table]

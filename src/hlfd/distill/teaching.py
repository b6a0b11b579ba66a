"""Teaching: one or several teachers of one student, and which of them teaches which sample."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from hlfd.distill.distiller import Distiller
from hlfd.distill.features import Features, channels_last
from hlfd.distill.frozen import FrozenTeacher
from hlfd.distill.projectors import Head
from hlfd.distill.terms import sizes
from hlfd.errors import InputError

Fetch = Callable[[Tensor, Mapping[str, Sequence[int]], Tensor, Sequence[str]], dict[str, Tensor]]
"""Images, sizes of the student's taps, targets, addresses of the samples -> what `Distiller.knowledge` would give."""

Labelled = tuple[Tensor, Tensor, Tensor]  # image, target, position of each sample's patient in the shares


class Teaching(nn.Module):
    """Every teacher with its own `Distiller`, weighted for each sample.

    A term is the mean over samples of the weighted mean over teachers. For the pixel term that is what one teacher
    would teach whose probabilities are the weighted mean of theirs, up to a constant (KL is linear in them). Heads on
    the student's side that give class scores are shared between the teachers.

    Args:
        teachers: kept out of the module tree, so that no checkpoint holds them.
        distillers: one for each teacher, all of one method.
        shares: patients x teachers, how much each teacher counts for a patient's samples: 0, not at all. The rows sum
            to 1, or to 0 for a patient whom nobody may teach.
    """

    def __init__(self, teachers: Sequence[FrozenTeacher], distillers: Sequence[Distiller], shares: Tensor):
        super().__init__()
        assert len(teachers) == len(distillers) == shares.shape[1], "a distiller and a share for each teacher"
        self._teachers = list(teachers)
        self.timed: Callable[[str], AbstractContextManager[Any]] = nullcontext  # told which part runs
        self._fetch: list[Fetch | None] = [None] * len(teachers)
        self.distillers = nn.ModuleList(distillers)
        self.register_buffer("shares", shares.float(), persistent=False)
        for distiller in distillers[1:]:
            distiller.share_class_heads(distillers[0])

    @classmethod
    def alone(cls) -> "Teaching":
        """No teacher: the student learns from labels."""
        return cls([], [], torch.zeros(1, 0))

    def _all(self) -> list[Distiller]:
        return [distiller for distiller in self.distillers if isinstance(distiller, Distiller)]

    @property
    def teachers(self) -> list[FrozenTeacher]:
        """The teachers, in the order of the shares' columns."""
        return self._teachers

    def time(self, part: str) -> AbstractContextManager[Any]:
        """Tell `timed` of a part, whatever it is by then."""
        return self.timed(part)

    def place(self, device: torch.device) -> None:
        """Move everything to ``device``, the teachers too, of which no outer module knows, in channels_last."""
        self.to(device)
        for teacher in self._teachers:
            teacher.to(device=device)
            teacher.to(memory_format=channels_last(teacher.tapped.dims))  # pyright: ignore[reportCallIssue]

    def weights(self) -> dict[str, float]:
        """As `Distiller.weights`."""
        return {name: weight for distiller in self._all() for name, weight in distiller.weights().items()}

    def balance_factors(self) -> dict[str, float]:
        """As `Distiller.balance_factors`."""
        return {name: factor for distiller in self._all() for name, factor in distiller.balance_factors().items()}

    def table(self) -> dict[str, dict[str, Any]]:
        """Term -> what it compares (``kind``), its ``weight``, the taps of ``student`` and ``teacher``; for people."""
        return {
            term.name: {
                "kind": term.loss.kind,
                "weight": term.weight,
                "student": list(term.student),
                "teacher": list(term.teacher),
            }
            for distiller in self._all()
            for term in distiller.each()
        }

    def needing_labels(self) -> list[str]:
        """Terms that skip samples without labels."""
        return sorted({term.name for d in self._all() for term in d.each() if term.loss.needs_labels})

    def taps_taught(self) -> dict[str, tuple[str, ...]]:
        """Term -> the student's taps that it compares."""
        return {term.name: term.student for distiller in self._all() for term in distiller.each()}

    def set_epoch(self, epoch: float) -> None:
        """As `Distiller.set_epoch`, for all."""
        for distiller in self._all():
            distiller.set_epoch(epoch)

    def set_balance(self, factors: Mapping[str, float]) -> None:
        """As `Distiller.set_balance`, for all."""
        for distiller in self._all():
            distiller.set_balance(factors)

    def freeze_heads(self) -> None:
        """As `Distiller.freeze_heads`, for all."""
        for distiller in self._all():
            distiller.freeze_heads()

    def pair(self, k: int) -> tuple[FrozenTeacher, Distiller]:
        """A teacher and its distiller."""
        return self._teachers[k], self._all()[k]

    def whole_features(self) -> list[str]:
        """As `Distiller.whole_features`."""
        return sorted({name for distiller in self._all() for name in distiller.whole_features()})

    def keep(self, fetch: Sequence[Fetch]) -> None:
        """Take what each teacher knows from ``fetch`` instead of asking it, wherever samples have addresses."""
        self._fetch = list(fetch)

    def learn(
        self,
        image: Tensor,
        student: Mapping[str, Sequence[int]],
        target: Tensor,
        patient: Tensor,
        addresses: Sequence[str],
    ) -> None:
        """Let `keep`'s functions learn about samples; as `forward`, but of the student only its taps' sizes count."""
        for k, fetch in enumerate(self._fetch):
            rows: list[int] = (self.get_buffer("shares")[patient, k] > 0).nonzero().flatten().tolist()
            if fetch is not None and rows:
                fetch(image[rows], student, target[rows], [addresses[i] for i in rows])

    def heads(self) -> dict[str, Head]:
        """The teachers' heads: ``K.TERM``, K the teacher's place, -> head."""
        return {
            f"{k}.{term.name}": term.teacher_head
            for k, distiller in enumerate(self._all())
            for term in distiller.heads()
            if term.teacher_head is not None
        }

    @property
    def heads_are_fitted(self) -> bool:
        """As `Distiller.heads_are_fitted`, for all."""
        return all(distiller.heads_are_fitted for distiller in self._all())

    def fit_heads(self, batches: Callable[[], Iterable[Labelled]]) -> Iterator[dict[str, float]]:
        """Fit each teacher's heads on its own labelled samples, then freeze them; the losses of each step.

        A teacher that may teach no labelled sample (it learned from them, and teaches those without labels) has its
        heads fitted on those of the others.

        Args:
            batches: gives the same finite stream of batches for each teacher.

        Raises:
            InputError: no batch has a label.
        """
        for k, distiller in enumerate(self._all()):
            if not distiller.heads():
                distiller.freeze_heads()
                continue
            for own in (True, False):
                lessons = self._labelled(k, batches(), own=own)
                first = next(lessons, None)
                if first is not None:
                    yield from distiller.fit_heads(chain([first], lessons))
                    break
            else:
                raise InputError("no training batch has a label, so the teacher's heads can't be fitted")

    def _labelled(self, k: int, batches: Iterable[Labelled], *, own: bool) -> Iterator[tuple[Features, Tensor]]:
        teacher = self._teachers[k]
        for image, target, patient in batches:
            rows = _has_labels(target)
            if own:
                rows = rows & (self.get_buffer("shares")[patient, k] > 0)
            if bool(rows.any()):
                yield self._all()[k].ask(teacher, image[rows]), target[rows]

    def forward(
        self,
        image: Tensor,
        student: Features,
        target: Tensor,
        patient: Tensor,
        addresses: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Name -> weighted scalar, as `Distiller.forward`.

        Args:
            image: N x C x spatial, what the student saw.
            student: its features.
            target: N x spatial; -1 throughout a sample without labels.
            patient: N, rows of ``shares``.
            addresses: N names under which `keep`'s functions know the samples, as they are oriented.
        """
        losses: dict[str, Tensor] = {}
        labelled, needing = _has_labels(target), set(self.needing_labels())
        shares = self.get_buffer("shares")[patient]
        for k, (teacher, distiller) in enumerate(zip(self._teachers, self._all(), strict=True)):
            if distiller.finished:
                continue
            # Samples of one share go together, since a term is a mean over its batch.
            for share in shares[:, k].unique().tolist():
                rows = shares[:, k] == share
                if share == 0:
                    continue
                own, images, targets, picked = student, image, target, range(len(image))
                if not bool(rows.all()):
                    own = {role: feature[rows] for role, feature in student.items()}
                    images, targets = image[rows], target[rows]
                    picked = rows.nonzero().flatten().tolist()
                fetch = self._fetch[k]
                if fetch is not None and addresses is not None and distiller.heads_are_fitted:
                    with self.timed("cache"):
                        known = fetch(images, sizes(own), targets, [addresses[i] for i in picked])
                    with self.timed("losses"):
                        terms = distiller.compare(own, known, targets)
                else:
                    with self.timed("teacher"):
                        features = distiller.ask(teacher, images)
                    with self.timed("losses"):
                        terms = distiller(own, features, targets)
                # The part of the samples that a term is a mean over.
                part = float(rows.float().mean())
                part_labelled = float((rows & labelled).sum() / labelled.sum().clamp_min(1))
                for name, value in terms.items():
                    of = part_labelled if name in needing or name.startswith("head.") else part
                    losses[name] = losses.get(name, torch.zeros_like(value)) + share * of * value
        return losses


def _has_labels(target: Tensor) -> Tensor:
    """For each sample of N x spatial whether it has labels."""
    return target.flatten(1).amin(1) >= 0


def teacher_shares(weights: Sequence[float], may_teach: Tensor) -> Tensor:
    """Shares for `Teaching`: each patient's allowed teachers, by weight, summing to 1.

    Args:
        weights: of the teachers, positive.
        may_teach: patients x teachers, bool.
    """
    shares = may_teach * torch.tensor(weights, dtype=torch.float32)
    return shares / shares.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)

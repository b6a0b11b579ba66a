"""The teacher cache: what a teacher knows of a slice, computed once for each orientation, kept on disk."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlfd.data.augment import ORIENTATIONS
from hlfd.data.rows import RowStore, encode
from hlfd.distill.distiller import Distiller
from hlfd.distill.frozen import FrozenTeacher
from hlfd.errors import InputError


class KnowledgeCache:
    """Answers for a teacher: from the disk, or, where a row is missing, by asking it and keeping the answer.

    What is kept is what the terms need (`Distiller.knowledge`), so every method whose terms are compact can be served,
    and methods share what they both need. Rows are named by content: the case's voxels, the teacher's weights, the
    view, the head's weights. A row of something else is therefore never taken. Once every answer is there the teacher's
    memory is given back.

    Args:
        path: the file.
        teacher, distiller: whom it answers for.
        meta: what the answers depend on beside the slice and the terms.
        addresses: of all slices in all orientations that training can ask for, to know when the teacher is done.
        timed: told when the teacher is asked.

    Raises:
        InputError: a file of something else.
    """

    def __init__(
        self,
        path: Path,
        teacher: FrozenTeacher,
        distiller: Distiller,
        *,
        meta: Mapping[str, str],
        addresses: Sequence[str],
        timed: Callable[[str], AbstractContextManager[Any]] = nullcontext,
    ):
        self.rows = RowStore(path, meta)
        self.teacher, self.distiller, self.addresses, self.timed = teacher, distiller, addresses, timed
        self._until_look = 0  # samples

    def __call__(
        self, images: Tensor, student: Mapping[str, Sequence[int]], target: Tensor, addresses: Sequence[str]
    ) -> dict[str, Tensor]:
        """As `hlfd.distill.teaching.Fetch`."""
        keys = self._keys(student)
        found = {key: self.rows.read(key, addresses) for key in keys}
        lacking = [i for i, a in enumerate(addresses) if any(a not in rows for rows in found.values())]
        self._until_look -= len(addresses)
        if lacking:
            self._ask(images[lacking], student, target[lacking], [addresses[i] for i in lacking])
            for key in keys:  # as they were kept, so that the first answer is the same as every later one
                found[key] |= self.rows.read(key, [addresses[i] for i in lacking])
        elif self._until_look <= 0 and not self.unloaded:
            self._until_look = len(self.addresses) // ORIENTATIONS  # about an epoch
            if not self.missing(student):
                self.teacher.to("meta")
        return {
            key: torch.from_numpy(np.stack([rows[a] for a in addresses])).to(images.device)
            for key, rows in found.items()
        }

    def _keys(self, student: Mapping[str, Sequence[int]]) -> list[str]:
        return sorted(set(self.distiller.knowledge_keys(student).values()))

    def _ask(
        self, images: Tensor, student: Mapping[str, Sequence[int]], target: Tensor, addresses: Sequence[str]
    ) -> None:
        with self.timed("teacher"):
            known = self.distiller.knowledge(self.distiller.ask(self.teacher, images), student, target)
        rows = {key: values.float().cpu().numpy() for key, values in known.items()}
        self.rows.write(addresses, rows, self.distiller.codes(known, student))

    @property
    def unloaded(self) -> bool:
        """Whether the teacher has no more to say, and its memory was given back."""
        return next(self.teacher.parameters()).is_meta

    def missing(self, student: Mapping[str, Sequence[int]]) -> list[str]:
        """The addresses of which something is still to be asked, for a student whose taps have these spatial sizes."""
        return self.rows.missing(self._keys(student), self.addresses)

    @torch.no_grad()
    def bytes_to_come(self, images: Tensor, student: Mapping[str, Sequence[int]], target: Tensor) -> float:
        """What the rows still to be written will take, judged by these samples, of which nothing is kept.

        Raises:
            InputError: some are to come, and the file can't be written.
        """
        left = {key: len(self.rows.missing([key], self.addresses)) for key in self._keys(student)}
        if not any(left.values()):
            return 0.0
        if not self.rows.writable:
            raise InputError(
                f"{self.rows.path}: can't be written, and lacks up to {max(left.values()):,} of "
                f"{len(self.addresses):,} answers: make it writable, or set student_training.cache: never"
            )
        known = self.distiller.knowledge(self.distiller.ask(self.teacher, images), student, target)
        codes = self.distiller.codes(known, student)
        each = {
            key: sum(len(encode(row, codes[key])) for row in values.float().cpu().numpy()) / len(images)
            for key, values in known.items()
        }
        return sum(count * each[key] for key, count in left.items())

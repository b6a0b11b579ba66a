"""The teacher cache: what a teacher knows of a slice, computed once for each orientation, kept on disk."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hlfd.data.rows import RowStore
from hlfd.distill.distiller import Distiller
from hlfd.distill.frozen import FrozenTeacher
from hlfd.errors import InputError
from hlfd.progress import console

SPARE = 0.9
"""The share of the free disk that a cache may take."""


class KnowledgeCache:
    """Answers for a teacher: from the disk, or, where a row is missing, by asking it and keeping the answer.

    What is kept is what the terms need (`Distiller.knowledge`), so every method whose terms are compact can be served,
    and methods share what they both need. Rows are named by content: the case's voxels, the teacher's weights, the
    view, the head's weights. A row of something else is therefore never taken.

    Args:
        path: the file.
        teacher, distiller: whom it answers for; the heads must be fitted.
        meta: what the answers depend on beside the slice and the terms.
        addresses: of all slices in all orientations that training can ask for, to know when the teacher is done.

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
    ):
        self.rows = RowStore(path, meta)
        self.teacher, self.distiller, self.addresses = teacher, distiller, addresses
        self.asked = 0
        self._checked: frozenset[str] = frozenset()

    def __call__(
        self, images: Tensor, student: Mapping[str, Sequence[int]], target: Tensor, addresses: Sequence[str]
    ) -> dict[str, Tensor]:
        """As `hlfd.distill.teaching.Fetch`."""
        keys = sorted(set(self.distiller.knowledge_keys(student).values()))
        found = {key: self.rows.read(key, addresses) for key in keys}
        lacking = [i for i, a in enumerate(addresses) if any(a not in rows for rows in found.values())]
        if lacking:
            self._ask(images[lacking], student, target[lacking], [addresses[i] for i in lacking])
            for key in keys:  # as they were kept, so that the first answer is the same as every later one
                found[key] |= self.rows.read(key, [addresses[i] for i in lacking])
        elif self._checked != frozenset(keys):
            self._unload_if_done(keys)
        return {
            key: torch.from_numpy(np.stack([rows[a] for a in addresses])).to(images.device)
            for key, rows in found.items()
        }

    def _ask(
        self, images: Tensor, student: Mapping[str, Sequence[int]], target: Tensor, addresses: Sequence[str]
    ) -> None:
        known = self.distiller.knowledge(self.teacher(images), student, target)
        codes = self.distiller.codes(known, student)
        for key, rows in known.items():
            self.rows.write(key, codes[key], addresses, rows.float().cpu().numpy())
        if not self.asked:
            self._require_room(list(known))
        self.asked += len(addresses)

    def _require_room(self, keys: Sequence[str]) -> None:
        missing = len(self.rows.missing(keys, self.addresses))
        needed, free = missing * self.bytes_per_address(keys), shutil.disk_usage(self.rows.path.parent).free
        console.print(
            f"teacher cache: {missing:,} of {len(self.addresses):,} slices and orientations to come, "
            f"about {needed / 2**20:,.0f} MiB in {self.rows.path}",
            highlight=False,
        )
        if needed > SPARE * free:
            raise InputError(
                f"{self.rows.path}: the teacher cache would need about {needed / 2**20:,.0f} MiB, "
                f"{free / 2**20:,.0f} MiB are free: make room, or set student_training.cache: never"
            )

    def bytes_per_address(self, keys: Sequence[str]) -> float:
        """Mean bytes for one slice in one orientation."""
        return sum(self.rows.bytes_per_row(key) for key in keys)

    def _unload_if_done(self, keys: Sequence[str]) -> None:
        """Once every answer is kept, give the teacher's memory back."""
        self._checked = frozenset(keys)
        if not self.rows.missing(keys, self.addresses):
            self.teacher.to("meta")

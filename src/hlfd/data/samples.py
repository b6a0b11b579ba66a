"""Samples for training and validation, in an order that depends on the seed and the epoch alone."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from hlfd.data import views
from hlfd.data.geometry import Shape
from hlfd.data.store import Store, StoredCase
from hlfd.errors import InputError

_UNKNOWN = 255  # of a label map: beyond the stack


class Samples(Dataset[tuple[Tensor, Tensor, int]]):
    """What a network is shown of some patients: slices, slices with their neighbours, or patches, as prepared.

    An item is (image float32 C x spatial in [-1, 1], target int64 spatial, its position in the dataset); spatial is
    H x W, or D x H x W for a patch of three axes. The target of a sample without labels is -1 throughout.

    Args:
        patients: whose labelled cases are used.
        unlabelled: whose cases are used as if they had no labels; None: none, and no case without labels at all.
        once: patches stand side by side, so that each voxel is seen once, and are -1 in the target beyond the stack.
            Otherwise they overlap by half, and what is beyond is air and background.
    """

    def __init__(
        self, store: Store, patients: Sequence[str], unlabelled: Sequence[str] | None = None, *, once: bool = False
    ):
        self.store, self.once, self.preprocess = store, once, store.preprocess
        self.patients = (*patients, *(unlabelled or ()))
        self.index: list[tuple[str, Shape]] = []
        labelled: list[bool] = []
        for case in store.cases.values():
            known = case.labelled and case.patient in set(patients)
            if case.patient in set(self.patients) and (known or unlabelled is not None):
                starts = self._starts(case)
                self.index += [(case.id, start) for start in starts]
                labelled += [known] * len(starts)
        self.labelled = np.array(labelled, dtype=bool)
        if not self.labelled.any():
            raise InputError(f"{store.root}: none of the {len(self.patients)} patients has a slice in the store")
        planes = {store.cases[case].shape[1:] for case, _ in self.index}
        if len(planes) > 1 and self.preprocess.patch is None:
            shown = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(planes)[:3])
            raise InputError(
                f"{store.root}: slices differ in size ({shown}): set preprocess.crop, preprocess.size or "
                "preprocess.patch"
            )
        self._open: dict[str, tuple[Any, Any]] = {}

    def _starts(self, case: StoredCase) -> list[Shape]:
        window = self.preprocess.window(case.shape)
        return views.tiles(case.shape, window) if self.once else views.overlapping(case.shape, window)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, int]:
        case, start = self.index[position]
        if case not in self._open:
            self._open[case] = self.store.slices(case)
        image, label = self._open[case]
        window = self.preprocess.window(image.shape)
        shown = self.preprocess
        pixels = views.shown(image, start, window, neighbours=shown.neighbours, dims=shown.dims)
        spatial = shown.shown(image.shape)
        target = torch.full(spatial, -1)
        if self.labelled[position]:
            found = views.cut(label, start, window, _UNKNOWN if self.once else 0).astype(np.int64).reshape(spatial)
            target = torch.from_numpy(np.where(found == _UNKNOWN, -1, found) if self.once else found)
        return pixels, target, position

    @property
    def plane(self) -> tuple[int, int]:
        """Rows and columns of every sample."""
        _, rows, columns = self.preprocess.window(self.store.cases[self.index[0][0]].shape)
        return rows, columns

    def patient_of(self) -> Tensor:
        """For each position the place of its patient in ``patients``."""
        place = {patient: i for i, patient in enumerate(self.patients)}
        return torch.tensor([place[self.store.cases[case].patient] for case, _ in self.index])

    def addresses(self) -> list[str]:
        """For each position a name that changes when its case's voxels or labels do, or whether they are used."""
        return [
            f"{self.store.cases[case].sha256[:20]}:{'.'.join(map(str, start))}:{'labelled' if known else 'plain'}"
            for (case, start), known in zip(self.index, self.labelled, strict=True)
        ]

    def shows_tumor(self) -> np.ndarray:
        """For each sample, whether its labels show the store's ``tumor_classes``."""
        tumor = list(self.store.tumor_classes)
        if self.preprocess.patch is None:
            found = [
                known and self.store.cases[case].counts[k, tumor].any()
                for (case, (k, _, _)), known in zip(self.index, self.labelled, strict=True)
            ]
            return np.array(found)
        cases = {case for (case, _), known in zip(self.index, self.labelled, strict=True) if known}
        places = {case: self._tumor(case) for case in cases}
        return np.array(
            [
                known and self._within(places[case], start)
                for (case, start), known in zip(self.index, self.labelled, strict=True)
            ]
        )

    def _tumor(self, case: str) -> np.ndarray:
        """Places of the tumour, n x 3."""
        tumor, label = list(self.store.tumor_classes), self.store.slices(case)[1]
        slices = np.flatnonzero(self.store.cases[case].counts[:, tumor].any(1))
        found = [np.insert(np.argwhere(np.isin(label[int(k)], tumor)), 0, k, axis=1) for k in slices]
        return np.concatenate([np.zeros((0, 3), int), *found])

    def _within(self, places: np.ndarray, start: Shape) -> bool:
        end = np.add(start, self.preprocess.window(start))
        return bool(((places >= start) & (places < end)).all(1).any())


class EpochSampler(Sampler[int]):
    """Positions for one epoch, a function of (seed, epoch): a resumed run sees the batches it would have seen.

    Args:
        rare: for each sample, whether it shows the class to be balanced.
        samples: per epoch; None: as many as there are labelled ones, and the unlabelled ones that go with them.
        rare_share: the share of the labelled samples drawn from the rare ones; None: as they come.
        labelled: for each sample, whether it has labels; None: all have.
        unlabelled_share: the share of samples without labels, spread evenly: every batch has its part.
        batch: samples that several processes take in turn; those without labels come last in it, so that each process
            has as many of them.
    """

    def __init__(
        self,
        rare: np.ndarray,
        *,
        samples: int | None,
        rare_share: float | None,
        seed: int,
        labelled: np.ndarray | None = None,
        unlabelled_share: float = 0.0,
        batch: int | None = None,
    ):
        self.rare, self.rare_share, self.seed = rare, rare_share, seed
        self.labelled = np.ones(len(rare), bool) if labelled is None else labelled
        self.samples = samples or round(int(self.labelled.sum()) / (1 - unlabelled_share))
        self.without = np.diff(np.floor(np.arange(self.samples + 1) * unlabelled_share + 1e-9)) > 0
        for start in range(0, self.samples, batch or 1):
            self.without[start : start + (batch or 1)].sort()
        self.epoch = 0
        if self.without.any() and self.labelled.all():
            raise InputError("unlabelled_share is set, and there is no slice without labels to train on")
        if rare_share is not None and not rare.any():
            raise InputError("rare_share is set, and no training slice shows the tumour (without one: the last class)")

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        order = np.empty(self.samples, np.int64)
        order[~self.without] = self._labelled(random, int((~self.without).sum()))
        order[self.without] = self._draw(random, np.flatnonzero(~self.labelled), int(self.without.sum()))
        return iter(order.tolist())

    def _labelled(self, random: np.random.Generator, samples: int) -> np.ndarray:
        common = self.labelled & ~self.rare
        if self.rare_share is None or not common.any():
            return self._draw(random, np.flatnonzero(self.labelled), samples)
        few = round(samples * self.rare_share)
        parts = [
            self._draw(random, np.flatnonzero(self.rare), few),
            self._draw(random, np.flatnonzero(common), samples - few),
        ]
        return random.permutation(np.concatenate(parts))

    @staticmethod
    def _draw(random: np.random.Generator, pool: np.ndarray, count: int) -> np.ndarray:
        rounds = -(-count // len(pool)) if count else 0
        return np.concatenate([np.empty(0, np.int64), *[random.permutation(pool) for _ in range(rounds)]])[:count]


class Share(Sampler[int]):
    """One process's share of an order of positions: every ``ranks``-th from the ``rank``-th.

    Args:
        order: gives the same positions in every process.
        even: leave out the last few, so that every share is as long; otherwise each position is in one share.
    """

    def __init__(self, order: "EpochSampler | range", rank: int, ranks: int, *, even: bool = True):
        self.order, self.rank, self.ranks, self.even = order, rank, ranks, even

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        if isinstance(self.order, EpochSampler):
            self.order.set_epoch(epoch)

    def __len__(self) -> int:
        whole = len(self.order) // self.ranks
        return whole if self.even else whole + (self.rank < len(self.order) % self.ranks)

    def __iter__(self) -> Iterator[int]:
        return islice(iter(self.order), self.rank, self.rank + len(self) * self.ranks, self.ranks)

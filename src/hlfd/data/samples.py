"""Slices for training and validation, in an order that depends on the seed and the epoch alone."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from hlfd.data.store import Store, iterate_slices
from hlfd.errors import InputError


class SliceDataset(Dataset[tuple[Tensor, Tensor, int]]):
    """Every labelled slice of some patients, and slices to be seen without labels.

    An item is (image float32 1 x H x W in [-1, 1], target int64 H x W, its position in the dataset). The target of a
    slice without labels is -1 throughout.

    Args:
        patients: whose labelled cases are used.
        unlabelled: whose cases are used as if they had no labels; None: none, and no case without labels at all.
    """

    def __init__(self, store: Store, patients: Sequence[str], unlabelled: Sequence[str] | None = None):
        self.store = store
        self.patients = (*patients, *(unlabelled or ()))
        slices = [(case, k, store.cases[case]) for case, k in iterate_slices(store, set(self.patients))]
        known = [stored.labelled and stored.patient in set(patients) for _, _, stored in slices]
        kept = [i for i, labelled in enumerate(known) if labelled or unlabelled is not None]
        self.index = [slices[i][:2] for i in kept]
        self.labelled = np.array([known[i] for i in kept])
        if not self.labelled.any():
            raise InputError(f"{store.root}: none of the {len(self.patients)} patients has a slice in the store")
        planes = {store.cases[case].shape[1:] for case, _ in self.index}
        if len(planes) > 1:
            shown = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(planes)[:3])
            raise InputError(f"{store.root}: slices differ in size ({shown}): set preprocess.crop or preprocess.size")
        self._open: dict[str, tuple[object, object]] = {}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, int]:
        case, k = self.index[position]
        if case not in self._open:
            self._open[case] = self.store.slices(case)
        image, label = self._open[case]
        pixels = torch.from_numpy(np.asarray(image[k])).float()  # pyright: ignore[reportIndexIssue]
        target = torch.full(pixels.shape, -1)
        if self.labelled[position]:
            target = torch.from_numpy(np.asarray(label[k])).long()  # pyright: ignore[reportIndexIssue]
        return pixels[None], target, position

    def patient_of(self) -> Tensor:
        """For each position the place of its patient in ``patients``."""
        place = {patient: i for i, patient in enumerate(self.patients)}
        return torch.tensor([place[self.store.cases[case].patient] for case, _ in self.index])

    def addresses(self) -> list[str]:
        """For each position a name that changes when its case's voxels or labels do, or whether they are used."""
        return [
            f"{self.store.cases[case].sha256[:20]}:{k}:{'labelled' if known else 'plain'}"
            for (case, k), known in zip(self.index, self.labelled, strict=True)
        ]

    def holds_rarest(self) -> np.ndarray:
        """For each slice, whether its labels show the last class (the tumour, where there is one)."""
        cases = self.store.cases
        return np.array(
            [
                known and cases[case].counts[k, -1] > 0
                for (case, k), known in zip(self.index, self.labelled, strict=True)
            ]
        )


class EpochSampler(Sampler[int]):
    """Positions for one epoch, a function of (seed, epoch): a resumed run sees the batches it would have seen.

    Args:
        rare: for each slice, whether it shows the class to be balanced.
        samples: per epoch; None: as many as there are labelled slices, and the unlabelled ones that go with them.
        rare_share: the share of the labelled samples drawn from the rare slices; None: as they come.
        labelled: for each slice, whether it has labels; None: all have.
        unlabelled_share: the share of samples without labels, spread evenly: every batch has its part.
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
    ):
        self.rare, self.rare_share, self.seed = rare, rare_share, seed
        self.labelled = np.ones(len(rare), bool) if labelled is None else labelled
        self.samples = samples or round(int(self.labelled.sum()) / (1 - unlabelled_share))
        self.without = np.diff(np.floor(np.arange(self.samples + 1) * unlabelled_share + 1e-9)) > 0
        self.epoch = 0
        if self.without.any() and self.labelled.all():
            raise InputError("unlabelled_share is set, and there is no slice without labels to train on")
        if rare_share is not None and not rare.any():
            raise InputError("rare_share is set, and no training slice shows the last class")

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

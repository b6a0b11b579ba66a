"""Slices for training and validation, in an order that depends on the seed and the epoch alone."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from hlfd.data.store import Store, iterate_slices
from hlfd.errors import InputError


class SliceDataset(Dataset[tuple[Tensor, Tensor, int]]):
    """Every slice of some patients.

    An item is (image float32 1 x H x W in [-1, 1], target int64 H x W, position of its patient in ``patients``).
    """

    def __init__(self, store: Store, patients: Sequence[str]):
        self.store = store
        self.patients = tuple(patients)
        self.index = list(iterate_slices(store, set(patients)))
        if not self.index:
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
        target = torch.from_numpy(np.asarray(label[k])).long()  # pyright: ignore[reportIndexIssue]
        return pixels[None], target, self.patients.index(self.store.cases[case].patient)

    def holds_rarest(self) -> np.ndarray:
        """For each slice, whether it shows the last class (the tumour, where there is one)."""
        return np.array([self.store.cases[case].counts[k, -1] > 0 for case, k in self.index])


class EpochSampler(Sampler[int]):
    """Positions for one epoch, a function of (seed, epoch): a resumed run sees the batches it would have seen.

    Args:
        rare: for each slice, whether it shows the class to be balanced.
        samples: per epoch; None: as many as there are slices.
        rare_share: the share of samples drawn from the rare slices; None: as they come.
    """

    def __init__(self, rare: np.ndarray, *, samples: int | None, rare_share: float | None, seed: int):
        self.rare, self.rare_share, self.seed = rare, rare_share, seed
        self.samples = samples or len(rare)
        self.epoch = 0
        if rare_share is not None and not rare.any():
            raise InputError("rare_share is set, and no training slice shows the last class")

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        if self.rare_share is None or self.rare.all():
            return iter(self._draw(random, np.arange(len(self.rare)), self.samples).tolist())
        few = round(self.samples * self.rare_share)
        parts = [
            self._draw(random, np.flatnonzero(self.rare), few),
            self._draw(random, np.flatnonzero(~self.rare), self.samples - few),
        ]
        return iter(random.permutation(np.concatenate(parts)).tolist())

    @staticmethod
    def _draw(random: np.random.Generator, pool: np.ndarray, count: int) -> np.ndarray:
        rounds = -(-count // len(pool)) if count else 0
        return np.concatenate([np.empty(0, np.int64), *[random.permutation(pool) for _ in range(rounds)]])[:count]

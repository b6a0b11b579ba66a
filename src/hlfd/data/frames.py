"""A prepared stack as one compressed file: how HU become whole numbers, how they are packed, how a part is read."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch

from hlfd.data.geometry import Shape
from hlfd.data.preprocess import Preprocess
from hlfd.errors import InputError, unreadable

BLOCK = 128
"""Rows and columns that are unpacked at once."""

LEVELS = 2048
"""Steps in which a window is kept, at least, where HU are not whole numbers: finer than a float16 tells them apart."""


@dataclass(frozen=True)
class Steps:
    """Whole numbers for HU: ``hu = low_hu + steps * step_hu``.

    Attributes:
        step_hu: 1 where the HU of a case are whole numbers, so that nothing is lost; else a power of two, at most
            1 / `LEVELS` of the window.
    """

    low_hu: float
    step_hu: float

    @classmethod
    def of(cls, preprocess: Preprocess, *, whole: bool) -> "Steps":
        """For a window, of a case whose HU are whole numbers or not."""
        low, high = preprocess.window_hu
        step = 1.0 if whole else 2.0 ** math.floor(math.log2((high - low) / LEVELS))
        while (high - low) / step > np.iinfo(np.uint16).max - 2:
            step *= 2
        return cls(math.floor(low / step) * step, step)

    def encode(self, hu: np.ndarray, preprocess: Preprocess) -> np.ndarray:
        """HU (float32) to steps (uint16); what lies outside the window to its ends, or the whole step beyond."""
        most = math.ceil((preprocess.window_hu[1] - self.low_hu) / self.step_hu)
        return np.rint((hu - self.low_hu) / self.step_hu).clip(0, most).astype(np.uint16)

    def table(self, preprocess: Preprocess) -> np.ndarray:
        """What each step is to a network: float32 in [-1, 1], by the computation that prediction uses."""
        most = math.ceil((preprocess.window_hu[1] - self.low_hu) / self.step_hu)
        hu = torch.arange(most + 1, dtype=torch.float32) * self.step_hu + self.low_hu
        return preprocess.scaled(hu).numpy()


@dataclass(frozen=True)
class Packed:
    """A stack as the bytes of a file.

    Attributes:
        sha256: of its voxels, however they are packed.
    """

    data: bytes
    sha256: str


def pack(slabs: Iterable[np.ndarray], shape: Shape, dtype: Any) -> Packed:
    """Pack a stack that comes slab by slab: a chunk a slice, in blocks that are unpacked alone."""
    parameters: Any = {
        "chunks": (1, *shape[1:]),
        "blocks": (1, *(min(BLOCK, n) for n in shape[1:])),
        "cparams": {"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1},
    }
    array: Any = blosc2.empty(shape, dtype, **parameters)
    digest, first = hashlib.sha256(), 0
    for slab in slabs:
        whole = np.ascontiguousarray(slab, dtype=dtype)
        array[first : first + len(whole)] = whole
        digest.update(whole.data)
        first += len(whole)
    assert first == shape[0], f"slabs of {first} slices for {shape[0]}"
    return Packed(array.to_cframe(), digest.hexdigest())


class Kept:
    """The array in a file, to be indexed: only what is asked for is unpacked. Read-only; for any number of processes.

    One thread: others would not outlive the fork of a loader's worker, and starting them takes longer than a slice.

    Raises:
        InputError: the file is missing or damaged, when it is opened or when a part is read.
    """

    def __init__(self, path: Path):
        options: Any = {"mode": "r", "mmap_mode": "r", "dparams": {"nthreads": 1}}
        self._path = path
        try:
            self.array: Any = blosc2.open(str(path), **options)
        except (OSError, RuntimeError, ValueError) as error:
            raise self._damaged(error) from None
        self.shape: tuple[int, ...] = tuple(self.array.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        try:
            return self.array[index]
        except RuntimeError as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> InputError:
        return unreadable(self._path, "a prepared case (remove it and prepare again)", error)


class Stack:
    """A prepared image: float32 in [-1, 1], bit for bit what prediction computes from HU that are whole numbers.

    Indexing reads what is asked for: ``stack[k]`` a slice, ``stack[a:b, c:d, e:f]`` a patch.
    """

    def __init__(self, path: Path, steps: Steps, preprocess: Preprocess):
        self.steps, self._table = Kept(path), steps.table(preprocess)

    @property
    def shape(self) -> Shape:
        """Slices, rows, columns."""
        rows = self.steps.shape
        return rows[0], rows[1], rows[2]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._table[self.steps[index]]

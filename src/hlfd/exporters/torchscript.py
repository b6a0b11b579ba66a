"""TorchScript, run by libtorch or PyTorch."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hlfd.errors import InputError, unreadable
from hlfd.exporters._graph import Graph, Precision, Run

SUFFIX = ".ts"
PRECISIONS: tuple[Precision, ...] = ("fp32",)


def build(graph: Graph, path: Path, *, precision: Precision = "fp32") -> list[Path]:
    """TorchScript, for libtorch (C++) and PyTorch; fp32.

    PyTorch calls it deprecated and still reads it.

    Returns:
        the files.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            traced: Any = torch.jit.trace(graph.network, graph.example, check_trace=False)
            traced = torch.jit.freeze(traced)
        except Exception as error:  # whatever a network does that can't be traced
            problem = " ".join(str(error).split())[:200]
            raise InputError(f"the network can't be traced: {type(error).__name__}: {problem}") from None
        torch.jit.save(traced, path, _extra_files={"hlfd.json": graph.text})
    return [path]


def open_file(path: Path, threads: int | None = None) -> Run:
    """The traced module, on the CPU.

    Args:
        threads: set for all of PyTorch in this process, as it knows no other; None: as they are.
    """
    if threads:
        torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module: Any = torch.jit.load(path, map_location="cpu")
        except Exception as error:  # torch's own kinds
            raise unreadable(path, "a TorchScript file", error) from None

    def run(images: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(images)).numpy()

    return run

"""Ways to run a network: PyTorch as it is, by channels last, in bf16, compiled; other runtimes, also in int8."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hlfd import plugins
from hlfd.errors import InputError, nearest
from hlfd.exporters._exported import Exported
from hlfd.exporters._graph import Graph, Network, Precision, Run, ready
from hlfd.segmenter import Segmenter


@dataclass(frozen=True)
class Way:
    """One way to run a network.

    Attributes:
        name: ``eager``, ``onnxruntime-int8``.
        about: what it is.
        packages: it needs.
        exporter, precision: of the file that it runs; "" for PyTorch.
    """

    name: str
    about: str
    packages: tuple[str, ...] = ()
    exporter: str = ""
    precision: Precision = "fp32"

    @property
    def lacks(self) -> str:
        """Why it can't be used here; "" if it can."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            return f"needs {', '.join(missing)}, not installed: pip install 'hlfd[export]'"
        if self.name == "compiled" and _compiler() is None:
            return "needs a C++ compiler (g++ or clang++), none is there"
        return ""


WAYS = {
    way.name: way
    for way in (
        Way("eager", "PyTorch, the network as it is, float32"),
        Way("channels_last", "PyTorch as hlfd predict runs it: channels last in memory, batch norms folded"),
        Way("bf16", "as channels_last, in bfloat16 (autocast); fast where the processor has instructions for it"),
        Way("compiled", "as channels_last, through torch.compile"),
        Way("onnxruntime", "hlfd export --to onnx", ("onnx", "onnxruntime"), "onnx"),
        Way("onnxruntime-int8", "the same, --precision int8", ("onnx", "onnxruntime"), "onnx", "int8"),
        Way("openvino", "hlfd export --to openvino", ("onnx", "openvino"), "openvino"),
        Way("openvino-int8", "the same, --precision int8", ("onnx", "openvino", "nncf"), "openvino", "int8"),
    )
}

COMPILED_SIZES = 1024
"""For so many models and batches `torch.compile` may compile a network, before it gives up and runs it as it is."""


def chosen(names: Sequence[str]) -> list[Way]:
    """The ways of these names; all without any. Raises `InputError` for one that there isn't."""
    for name in names:
        if name not in WAYS:
            raise InputError(f"there is no way to run a network called '{name}'{nearest(name, WAYS)}")
    return [way for way in WAYS.values() if not names or way.name in names]


def way_of(file: Path) -> Way:
    """The way in which an exported file is run, named after what wrote it."""
    for name in plugins.names("exporters"):
        if file.suffix and file.suffix == plugins.module("exporters", name).SUFFIX:
            runtime = {"onnx": "onnxruntime"}.get(name, name)
            return Way(runtime, f"the file {file.name}", (), name)
    raise InputError(f"{file}: expected a model folder or an exported file")


def write(way: Way, model: Segmenter, folder: Path, images: Sequence[np.ndarray]) -> Path | None:
    """The file that a way runs, in ``folder``; None for PyTorch.

    Args:
        images: as the network sees them; int8 takes its ranges from them.

    Raises:
        InputError: the network can't be written so.
    """
    if not way.exporter:
        return None
    plugin = plugins.module("exporters", way.exporter)
    path = folder / f"{way.name}{plugin.SUFFIX}"
    graph = Graph(model, ready(model), torch.from_numpy(images[0]), model.network.size, {}, images)
    plugin.build(graph, path, precision=way.precision)
    return path


def start(way: Way, model: Segmenter, file: Path | None, threads: int) -> Run:
    """A function from images to logits; PyTorch's own threads are whatever they are set to."""
    if isinstance(model.network, Exported):
        return model.network.network.run  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]
    if file is not None:
        return plugins.module("exporters", way.exporter).open_file(file, threads)
    if way.name == "eager":
        return _in_torch(Network(model.network.network.eval(), model.network.dims))
    layout = torch.channels_last if model.network.dims == 2 else torch.channels_last_3d
    network = ready(model).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    if way.name == "compiled":
        torch._dynamo.config.recompile_limit = COMPILED_SIZES
        network: Any = torch.compile(network, dynamic=False)
    return _in_torch(network, layout, bf16=way.name == "bf16")


def _in_torch(network: nn.Module, layout: torch.memory_format | None = None, *, bf16: bool = False) -> Run:
    @torch.no_grad()
    def run(images: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(images)
        if layout is not None:
            batch = batch.contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits: Tensor = network(batch)
        return logits.float().numpy()

    return run


def _compiler() -> str | None:
    names: list[Callable[[], str | None]] = [
        lambda name=name: shutil.which(name) for name in (os.environ.get("CXX") or "", "g++", "clang++") if name
    ]
    return next(filter(None, (find() for find in names)), None)

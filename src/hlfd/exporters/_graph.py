"""What every exporter is given of a model: its network ready to be written, and images to write it with."""

import copy
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from hlfd.distill.features import Size, Tapped, logits_of
from hlfd.distill.folding import fold_batch_norms
from hlfd.errors import InputError
from hlfd.segmenter import Segmenter

Precision = Literal["fp32", "fp16", "int8"]
Run = Callable[[np.ndarray], np.ndarray]
"""Images (N x channels x spatial, float32) -> logits (N x classes x spatial, float32)."""

INPUT, OUTPUT = "image", "logits"


class Network(nn.Module):
    """Images to logits and nothing else, whatever else the network gives."""

    def __init__(self, network: nn.Module, dims: int):
        super().__init__()
        self.network, self.dims = network, dims

    def forward(self, image: Tensor) -> Tensor:
        """Images -> logits, float32."""
        return logits_of(self.network(image), self.dims).float()


@dataclass(frozen=True)
class Graph:
    """A network to write.

    Attributes:
        model: it came from.
        network: in eval mode, its batch norms folded into convolutions.
        example: images to trace it with, N x channels x spatial.
        size: of the images, if the file shall take no other; None: any that is a multiple of `Segmenter.multiple`.
        description: of the model, which the file carries.
        calibration: images as the network sees them, for int8.
        evaluation: content of the ``evaluation.json`` beside the model, for its card.
    """

    model: Segmenter
    network: Network
    example: Tensor
    size: Size | None
    description: Mapping[str, Any]
    calibration: Sequence[np.ndarray]
    evaluation: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """The description as JSON."""
        return json.dumps(self.description, allow_nan=False)

    @property
    def dynamic_axes(self) -> dict[int, str]:
        """Axes whose length is free, with their names."""
        spatial = {2: ("rows", "columns"), 3: ("slices", "rows", "columns")}[self.network.dims]
        return {0: "batch"} | ({} if self.size else dict(enumerate(spatial, 2)))


def ready(model: Segmenter) -> Network:
    """A copy of a model's network, on the CPU, with its batch norms folded."""
    plain: Tapped = copy.deepcopy(model.network).cpu().eval()
    plain = plain.with_taps(dict.fromkeys(plain.taps))
    fold_batch_norms(plain)
    return Network(plain.network, plain.dims).eval()


def trace_onnx(graph: Graph, path: Path) -> None:
    """Write a network as ONNX, float32.

    With PyTorch's tracing exporter, which takes a thirtieth of the time of the one that replaces it and gives the same
    numbers; where tracing fails, with the other.
    """
    axes = graph.dynamic_axes
    given: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT], "verbose": False}
    with warnings.catch_warnings(), _silent():
        warnings.simplefilter("ignore")  # of deprecation, and of sizes that are checked while tracing
        try:
            torch.onnx.export(
                graph.network,
                (graph.example,),
                path,
                dynamo=False,
                opset_version=17,
                dynamic_axes={INPUT: axes, OUTPUT: axes},
                **given,
            )
        except Exception as error:  # whatever a network does that can't be traced
            dynamic: Any = torch.export.Dim.DYNAMIC
            try:
                torch.onnx.export(
                    graph.network,
                    (graph.example,),
                    path,
                    dynamo=True,
                    external_data=False,
                    dynamic_shapes={INPUT: dict.fromkeys(axes, dynamic)},
                    **given,
                )
            except Exception:
                problem = " ".join(str(error).split())[:200]
                raise InputError(f"the network can't be written as ONNX: {type(error).__name__}: {problem}") from None


@contextmanager
def _silent() -> Generator[None]:
    """Without the whole graph on standard output where tracing fails, and advice about packages nobody needs."""
    logger, level = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    sys.stdout.flush()
    stdout, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(nowhere)


def needs(package: str) -> InputError:
    """The error for a runtime that isn't installed."""
    return InputError(f"this needs the package '{package}', which is not installed: pip install 'hlfd[export]'")

"""export: write a model as a file that other runtimes run, and check that it segments as PyTorch does."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import torch
from torch import Tensor

from hlfd import plugins
from hlfd.errors import InputError, nearest
from hlfd.evaluation.results import read_evaluation
from hlfd.exporters._exported import Exported, hashes, side_path
from hlfd.exporters._graph import Graph, Precision, Run, ready
from hlfd.inference import predict
from hlfd.inference.predictor import NotFiniteError
from hlfd.io.files import require_writable, write_json
from hlfd.loading import load
from hlfd.segmenter import Segmenter
from hlfd.verification import Evidence, Verified, phantom, verify, watched

CALIBRATION_IMAGES = 96
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}
"""The disagreement with PyTorch that is accepted unless another is given, see `Verified.disagreement`."""


class ExportError(RuntimeError):
    """A runtime failed on the model, or no export is good enough; nothing was written."""


class NotTheSameError(ExportError):
    """An export disagrees with PyTorch by more than the tolerance; nothing was written."""


class Done(NamedTuple):
    """An export that is finished.

    Attributes:
        path: the file, or the folder of a bundle.
        verified: how far it is from PyTorch.
        size: of the images, if it takes no other.
    """

    path: Path
    verified: Verified
    size: tuple[int, ...] | None


def export(
    model: Segmenter,
    path: Path,
    *,
    to: str = "",
    precision: str = "fp32",
    evidence: Evidence | None = None,
    tolerance: float | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> Done:
    """Write ``model`` to ``path`` with its description beside it, if it then segments as PyTorch does.

    Args:
        model: from a model folder.
        path: the file; the folder of a bundle.
        to: ``hlfd list exporters``; empty: from the path's suffix.
        precision: ``fp32``, ``fp16`` or ``int8``, of those the format has.
        evidence: what it is calibrated and judged on; None: phantom patients.
        tolerance: the largest disagreement that is accepted, in [0, 1]; None: `TOLERANCE`.
        evaluation: content of an ``evaluation.json``, for a bundle's model card: its means alone are used.

    Raises:
        InputError: no such format or precision, a network that can't be written, a folder that can't be.
        NotTheSameError: the disagreement is larger than the tolerance; what was at ``path`` before is still there.
        ExportError: the runtime failed; what was at ``path`` before is still there.
    """
    name, checked = format_of(path, to), precision_of(precision)
    plugin = plugins.module("exporters", name)
    if checked not in plugin.PRECISIONS:
        raise InputError(f"{name}: expected precision {' or '.join(plugin.PRECISIONS)}, got {precision}")
    if isinstance(model.network, Exported):
        raise InputError("expected a model folder to export, got a file that was exported before")
    if plugin.SUFFIX == "":
        plugin.require_usable(model)
        if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not plugin.is_bundle(path))):
            raise InputError(f"{path}: holds other files than those of a bundle that hlfd wrote; name a new folder")
    evidence = evidence or phantom(model)
    limit = TOLERANCE[checked] if tolerance is None else tolerance
    require_writable(path.parent)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder, one_line(str(path)):
        draft = Path(folder) / path.name
        described = _write(plugin, model, draft, checked, evidence, evaluation)
        run: Run = plugin.open_file(draft)
        segment = partial(plugin.segment, draft) if plugin.SUFFIX == "" else load(draft).predict
        verified = verify(model, segment, evidence, run)
        if not verified.disagreement <= limit:
            raise NotTheSameError(
                f"{path}: not written, it disagrees with PyTorch by {verified.disagreement:.2g}, tolerance {limit:g} "
                f"({verified.summary})"
            )
        if plugin.SUFFIX:
            write_json(side_path(draft), described | {"verified": verified.as_json()})
        move(draft, path)
    return Done(path, verified, described["size"])


@contextmanager
def one_line(what: str) -> Generator[None]:
    """Each runtime has exceptions of its own, of many lines: they become an `ExportError`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError | OSError | ExportError) and not isinstance(error, NotFiniteError):
            raise
        kind = "" if isinstance(error, NotFiniteError) else f"{type(error).__name__}: "
        raise ExportError(f"{what}: not written, {kind}{' '.join(str(error).split())[:300]}") from error


def format_of(path: Path, to: str = "") -> str:
    """The exporter for a path: ``to``, or the one with the path's suffix. Raises `InputError` if they don't fit."""
    suffixes = {name: plugins.module("exporters", name).SUFFIX for name in plugins.names("exporters")}
    name = to.replace("-", "_")
    if not name:
        name = next((known for known, suffix in suffixes.items() if suffix and path.suffix == suffix), "")
        if not name:
            known = ", ".join(sorted(filter(None, suffixes.values())))
            raise InputError(f"{path}: expected a name that ends in {known}, or --to {' | '.join(sorted(suffixes))}")
    if name not in suffixes:
        raise InputError(f"there is no exporter '{to}'{nearest(name, suffixes)}")
    if suffixes[name] and path.suffix != suffixes[name]:
        raise InputError(f"{path}: expected a name that ends in {suffixes[name]} for {name}, got '{path.suffix}'")
    return name


def default_name(to: str) -> str:
    """What an export is called if nobody says: ``model.onnx``, ``bundle``. Raises `InputError` for no such format."""
    if not to:
        raise InputError("expected -o FILE, or --to FORMAT")
    name = to.replace("-", "_")
    if name not in plugins.names("exporters"):
        raise InputError(f"there is no exporter '{to}'{nearest(name, plugins.names('exporters'))}")
    suffix = plugins.module("exporters", name).SUFFIX
    return f"model{suffix}" if suffix else "bundle"


def evaluation_of(folder: Path) -> dict[str, Any] | None:
    """What is on record of a model folder's quality on test patients: the ``evaluation.json`` beside it."""
    for place in (folder.parent, folder.parent / "evaluation-test"):
        if (place / "evaluation.json").is_file():
            read_evaluation(place / "evaluation.json")  # says what is wrong with it
            return json.loads((place / "evaluation.json").read_text())
    return None


def precision_of(name: str) -> Precision:
    """``fp32``, ``fp16`` or ``int8``. Raises `InputError` for anything else."""
    if name not in get_args(Precision):
        raise InputError(f"there is no precision '{name}'{nearest(name, get_args(Precision))}")
    return cast(Precision, name)


def _write(
    plugin: Any,
    model: Segmenter,
    draft: Path,
    precision: Precision,
    evidence: Evidence,
    evaluation: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Write the draft, and its description beside it, which is returned."""
    images = images_of(model, evidence, CALIBRATION_IMAGES if precision == "int8" else 1)
    described = {**model.described(), "precision": precision, "multiple": model.multiple, "size": model.network.size}
    graph = Graph(model, ready(model), torch.from_numpy(images[0]), model.network.size, described, images, evaluation)
    if plugin.SUFFIX == "":
        plugin.build(graph, draft, precision=precision)
        return described
    if graph.size is None:
        plugin.build(graph, draft)  # fp32, whose figures can be compared
        if not _any_size(graph, plugin.open_file(draft)):
            if model.preprocess.patch is None and model.preprocess.plane is None:
                raise InputError("the network can't be written for images of any size: set a crop to make them alike")
            described["size"] = tuple(graph.example.shape[2:])
            graph = dataclasses.replace(graph, size=described["size"])
    files = plugin.build(graph, draft, precision=precision)
    described["files"] = hashes(files)
    write_json(side_path(draft), described)
    return described


def _any_size(graph: Graph, run: Run) -> bool:
    """Whether the file takes other batches and sizes than it was traced with, and gives what the network gives."""
    spatial = [n + step for n, step in zip(graph.example.shape[2:], graph.model.multiple, strict=True)]
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, graph.example.shape[1], *spatial, generator=generator) * 2 - 1
    with torch.inference_mode():
        expected: Tensor = graph.network(image)
    try:
        got = torch.from_numpy(run(image.numpy()))
    except Exception:  # each runtime's own kinds
        return False
    return got.shape == expected.shape and bool((got - expected).abs().max() <= 1e-2 * expected.abs().max())


def images_of(model: Segmenter, evidence: Evidence, wanted: int) -> list[np.ndarray]:
    """Images as the network sees them, one at a time, spread over the calibration volumes."""
    seen: list[np.ndarray] = []

    def look(images: np.ndarray) -> np.ndarray:
        seen.extend(image[None].copy() for image in images)
        return np.zeros((len(images), model.labels.classes, *images.shape[2:]), np.float32)

    blind, chosen = watched(model, look), list[np.ndarray]()
    for left, image in zip(range(evidence.calibrations, 0, -1), evidence.calibration(), strict=True):
        seen.clear()
        predict(blind, image)
        share = max(1, (wanted - len(chosen)) // left)
        chosen += [seen[i] for i in np.unique(np.linspace(0, len(seen) - 1, share).round().astype(int))]
        if len(chosen) >= wanted:
            break
    return chosen


def move(draft: Path, path: Path) -> None:
    """The files of a draft to where they belong, the description last."""
    if draft.is_dir():
        if path.exists():
            os.replace(path, draft.with_name("old"))  # goes with the folder of drafts
        os.replace(draft, path)
        return
    side = side_path(draft)
    for file in [*sorted(set(draft.parent.iterdir()) - {side}), side]:
        os.replace(file, path.parent / file.name)

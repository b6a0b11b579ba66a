"""fastest: every export there is, measured on this machine; the fastest that is good enough is kept."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hlfd import plugins
from hlfd.errors import InputError
from hlfd.export import ExportError, export, images_of, move, one_line
from hlfd.exporters._graph import Precision, Run, ready
from hlfd.io.files import require_writable, write_json
from hlfd.segmenter import Segmenter
from hlfd.verification import Evidence, Verified, phantom

CANDIDATES: tuple[tuple[str, Precision], ...] = (
    ("onnx", "fp32"),
    ("onnx", "int8"),
    ("openvino", "fp32"),
    ("openvino", "int8"),
    ("torchscript", "fp32"),
)
"""fp16 is left out: it is for smaller files, and OpenVINO computes it in fp32 here."""
BATCH = 4
SECONDS = 8.0


@dataclass(frozen=True)
class Candidate:
    """One way to run a model here.

    Attributes:
        name: ``onnx int8``; ``pytorch`` is the model folder as it is.
        ms: median time of an image in a batch of `BATCH`; None: it can't be written or isn't good enough.
        loss: Dice lost against the references, or without these 1 - the Dice with PyTorch's labels.
        mib: size of its files.
        problem: why it is out of the question.
    """

    name: str
    ms: float | None = None
    loss: float | None = None
    mib: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Choice:
    """What was measured, and the file that was kept.

    Attributes:
        path: of the file.
        name: of its candidate.
        candidates: all, the fastest first.
        threads: of every runtime.
        verified: how far the chosen file is from PyTorch.
    """

    path: Path
    name: str
    candidates: tuple[Candidate, ...]
    threads: int
    verified: Verified


def fastest(
    model: Segmenter,
    folder: Path,
    *,
    max_dice_loss: float,
    evidence: Evidence | None = None,
    threads: int | None = None,
) -> Choice:
    """Export ``model`` in every way, and keep the fastest whose Dice is good enough: a file and ``auto.json``.

    Args:
        folder: gets ``model.SUFFIX`` with its description.
        max_dice_loss: the most that a region's mean Dice may fall; without references in ``evidence``, 1 - Dice with
            PyTorch's labels.
        evidence: what it is calibrated and judged on; None: phantom patients.
        threads: of every runtime; None: as many as torch has.

    Raises:
        InputError: a folder that can't be written, volumes that can't be read.
        ExportError: none is good enough.
    """
    evidence = evidence or phantom(model)
    threads = threads or torch.get_num_threads()
    require_writable(folder)
    images = np.concatenate(images_of(model, evidence, BATCH))
    with tempfile.TemporaryDirectory(prefix=".auto-", dir=folder) as temporary:
        runs: dict[str, Run] = {"pytorch": _pytorch(model)}
        found: dict[str, Candidate] = {"pytorch": Candidate("pytorch", loss=0.0)}
        files: dict[str, tuple[Path, Verified]] = {}
        for form, precision in CANDIDATES:
            name, plugin = f"{form} {precision}", plugins.module("exporters", form)
            path = Path(temporary) / name.replace(" ", "-") / f"model{plugin.SUFFIX}"
            try:
                done = export(model, path, precision=precision, evidence=evidence, tolerance=1.0)
                with one_line(name):
                    run = plugin.open_file(path, threads)
                    run(images)
            except (InputError, ExportError) as error:
                found[name] = Candidate(name, problem=str(error).removeprefix(f"{path}: "))
                continue
            loss = done.verified.dice_loss
            loss = done.verified.disagreement if loss is None else max(loss, 0.0)
            mib = sum(f.stat().st_size for f in path.parent.iterdir()) / 2**20
            good = loss <= max_dice_loss
            found[name] = Candidate(
                name, loss=loss, mib=mib, problem="" if good else f"loses more than {max_dice_loss:g}"
            )
            runs[name], files[name] = run, (path, done.verified)
        for name, ms in _ms_per_image(runs, images, threads).items():
            found[name] = replace(found[name], ms=ms)
        order = sorted(found.values(), key=lambda c: (bool(c.problem), c.ms if c.ms is not None else np.inf))
        chosen = next((c.name for c in order if c.name in files and not c.problem), None)
        if chosen is None:
            problems = "; ".join(f"{c.name}: {c.problem}" for c in order if c.problem)
            raise ExportError(f"{folder}: nothing written, no export is good enough: {problems}")
        draft, verified = files[chosen]
        move(draft, folder / draft.name)
    choice = Choice(folder / draft.name, chosen, tuple(order), threads, verified)
    write_json(folder / "auto.json", asdict(choice) | {"max_dice_loss": max_dice_loss, "path": draft.name})
    return choice


def _pytorch(model: Segmenter) -> Run:
    network = ready(model).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @torch.inference_mode()
    def run(images: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(images)
        if tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return network(tensor).numpy()

    return run


def _ms_per_image(
    runs: Mapping[str, Callable[[np.ndarray], np.ndarray]], images: np.ndarray, threads: int
) -> dict[str, float]:
    """Median time of an image, in turn, so that a machine whose speed drifts slows all alike; at least 5 rounds."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    times: dict[str, list[float]] = {name: [] for name in runs}
    try:
        for run in runs.values():
            run(images)
        end = time.perf_counter() + SECONDS
        while len(next(iter(times.values()))) < 5 or time.perf_counter() < end:
            for name, run in runs.items():
                started = time.perf_counter()
                run(images)
                times[name].append((time.perf_counter() - started) * 1000 / len(images))
    finally:
        torch.set_num_threads(before)
    return {name: statistics.median(values) for name, values in times.items()}

"""benchmark: parameters, multiply-adds, files, times and memory of models, each run in several ways."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hlfd.benchmark import clock, memory, ways
from hlfd.benchmark.ways import Way
from hlfd.cost import multiply_adds
from hlfd.errors import InputError
from hlfd.export import images_of
from hlfd.exporters._exported import Exported
from hlfd.exporters._graph import Run
from hlfd.inference import predict
from hlfd.io import nifti
from hlfd.io.files import content_key
from hlfd.loading import Model, load
from hlfd.machine import processor
from hlfd.progress import console, progress
from hlfd.segmenter import versions
from hlfd.sources._phantom import make_patient
from hlfd.verification import Evidence, watched
from hlfd.volume import Volume

VERSION = 1
KEPT = 48
"""Images of a model that are kept, to calibrate int8 and to compare logits on."""


class Settings(NamedTuple):
    """What is measured.

    Attributes:
        ways: names of `hlfd.benchmark.ways.WAYS`; empty: all.
        batches: images at a time, for the throughput.
        threads: numbers of threads; empty: one, and one a core.
        rounds: times each function is timed, in turn with the others; a fifth of it for batches, a tenth for volumes.
        volume: a CT (NIfTI) to time whole volumes on; None: a generated phantom patient.
        size: pixels along a side of the phantom's slices.
        timer: seconds; `time.process_time` where others use the machine.
    """

    ways: Sequence[str] = ()
    batches: Sequence[int] = (1, 4, 8)
    threads: Sequence[int] = ()
    rounds: int = 30
    volume: Path | None = None
    size: int = 256
    timer: clock.Clock = time.perf_counter


@dataclass
class _Subject:
    """A model, what its network sees of the volume, and what was found."""

    path: Path
    name: str
    model: Model
    images: list[np.ndarray]
    files: dict[str, Path | None] = field(default_factory=dict[str, Path | None])
    rows: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    left_out: dict[str, str] = field(default_factory=dict[str, str])

    def batch(self, images: int) -> np.ndarray:
        """So many of its images."""
        return np.concatenate([self.images[i % len(self.images)] for i in range(images)])


_Key = tuple[str, str]


def benchmark(paths: Sequence[Path], settings: Settings | None = None) -> dict[str, Any]:
    """Measure models beside each other.

    Args:
        paths: model folders, runs that hold one, or files of `hlfd export`.

    Returns:
        what ``benchmark.json`` holds: ``machine``, ``volume``, ``settings`` and ``models``, each with its ``ways`` and
        ``left_out``, the ways that can't be measured here and why.

    Raises:
        InputError: a model or volume that can't be read, a way or number that there isn't.
    """
    asked = settings or Settings()
    chosen = ways.chosen(asked.ways)
    for what, numbers in (("batch", asked.batches), ("threads", asked.threads), ("rounds", (asked.rounds,))):
        if any(number < 1 for number in numbers):
            raise InputError(f"--{what}: expected numbers of 1 or more, got {', '.join(map(str, numbers))}")
    before, threads = torch.get_num_threads(), sorted(set(asked.threads or (1, os.cpu_count() or 1)))
    models = [load(path) for path in paths]
    volume = _volume(asked, models)
    said = f"CT {content_key(asked.volume)}" if asked.volume else "generated phantom patient"
    shown = Evidence(said, lambda: [volume], lambda: [], 1, 0)
    subjects = [
        _Subject(path, name, model, images_of(model, shown, KEPT))
        for path, name, model in zip(paths, names(paths), models, strict=True)
    ]
    with tempfile.TemporaryDirectory(prefix="hlfd-benchmark-") as folder:
        for index, subject in enumerate(subjects):
            _write(subject, chosen, Path(folder) / str(index))
        try:
            for number in threads:
                torch.set_num_threads(number)
                _time(subjects, volume, number, asked)
        finally:
            torch.set_num_threads(before)
        _weigh(subjects, threads[-1])
    return {
        "version": VERSION,
        "machine": {"processor": processor(), "cores": os.cpu_count(), "versions": versions() | _packages()},
        "volume": {
            "said": said,
            "shape": volume.shape,
            "spacing_mm": volume.spacing_mm,
        },
        "settings": {"threads": threads, "batches": list(asked.batches), "rounds": asked.rounds},
        "models": [_described(subject) for subject in subjects],
    }


def numbers(option: str, text: str) -> list[int]:
    """``"1,4"`` as numbers; none of "". Raises `InputError` for anything else."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in found):
        raise InputError(f"--{option}: expected numbers with commas between, for example 1,4,8, got '{text}'")
    return [int(part) for part in found]


def names(paths: Sequence[Path]) -> list[str]:
    """A short name for each model, no two alike: its run folder or file, with the folder above where needed."""
    bases = [path.resolve() for path in paths]
    bases = [path.parent if path.name == "model" else path for path in bases]
    found = [path.name for path in bases]
    twice = {name for name in found if found.count(name) > 1}
    longer = [f"{p.parent.name}/{p.name}" if p.name in twice else p.name for p in bases]
    return [name if longer.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(longer, 1)]


def _volume(asked: Settings, models: Sequence[Model]) -> Volume:
    if asked.volume is not None:
        return nifti.read_image(asked.volume)
    organ = "kidney" if "kidney" in models[0].labels.names else "liver"
    return make_patient(0, 0, organ=organ, size=asked.size)[0]


def _write(subject: _Subject, chosen: Sequence[Way], folder: Path) -> None:
    """Decide on the subject's ways, and write the files they run."""
    folder.mkdir()
    if isinstance(subject.model.network, Exported):
        way = ways.way_of(subject.path)
        subject.files[way.name] = None
        subject.rows[way.name] = {"way": way.name, "file_mib": _mib(subject.path), "max_difference": None}
        return
    weights = subject.path / "model" if (subject.path / "model").is_dir() else subject.path
    for way in chosen:
        try:
            if way.lacks:
                raise InputError(way.lacks)
            file = ways.write(way, subject.model, folder, subject.images)
        except Exception as error:  # each runtime's own kinds
            subject.left_out[way.name] = _reason(error)
            continue
        subject.files[way.name] = file
        subject.rows[way.name] = {
            "way": way.name,
            "file_mib": _mib(file or weights / "model.safetensors"),
            "max_difference": None,
            "labels_changed": None,
        }


def _time(subjects: Sequence[_Subject], volume: Volume, threads: int, asked: Settings) -> None:
    """Add each way's times with so many threads."""
    runs: dict[_Key, Run] = {}
    of = {subject.name: subject for subject in subjects}
    for subject in subjects:
        runs |= _started(subject, threads)
    few, volumes = max(3, asked.rounds // 5), max(2, asked.rounds // 10)
    larger = [batch for batch in asked.batches if batch > 1]
    total = len(runs) * ((asked.rounds + 2) + len(larger) * (few + 1) + volumes + 1)
    with progress(f"timing with {threads} thread{'s' * (threads > 1)}", total) as advance:
        timed = partial(clock.in_turn, clock=asked.timer, advance=advance)

        def calls(images: int) -> dict[_Key, Callable[[], object]]:
            return {key: partial(run, of[key[0]].batch(images)) for key, run in runs.items()}

        single = timed(calls(1), asked.rounds, warm_up=2)
        batches = {images: timed(calls(images), few) for images in larger}
        whole = timed(
            {key: partial(predict, watched(of[key[0]].model, run), volume) for key, run in runs.items()}, volumes
        )
    for key in runs:
        depth = _depth(of[key[0]])
        of[key[0]].rows[key[1]].setdefault("runs", []).append(
            {
                "threads": threads,
                "ms_per_image": single[key].median * 1000,
                "ms_per_slice": single[key].median * 1000 / depth,
                "ms_per_slice_p95": single[key].p95 * 1000 / depth,
                "s_per_volume": whole[key].median,
                "s_per_volume_p95": whole[key].p95,
                "images_per_s": {
                    **({1: 1 / single[key].median} if 1 in asked.batches else {}),
                    **{images: images / times[key].median for images, times in batches.items()},
                },
            }
        )


def _started(subject: _Subject, threads: int) -> dict[_Key, Run]:
    """The subject's ways, ready to run; what fails is left out. Each is compared with the network as it is."""
    runs: dict[_Key, Run] = {}
    eager: np.ndarray | None = None
    for name in list(subject.rows):
        row, batch = subject.rows[name], subject.batch(min(4, len(subject.images)))
        model = load(subject.path, threads=threads) if isinstance(subject.model.network, Exported) else subject.model
        way, began = ways.WAYS.get(name) or ways.way_of(subject.path), time.perf_counter()
        try:
            run = ways.start(way, model, subject.files[name], threads)
            logits = run(batch)
        except Exception as error:  # each runtime's and each compiler's own kinds
            subject.left_out[name] = _reason(error)
            del subject.rows[name]
            continue
        row.setdefault("ready_s", time.perf_counter() - began)
        if name == "eager":
            eager = logits
        elif eager is not None:
            row["max_difference"] = float(np.abs(logits - eager).max())
            row["labels_changed"] = float((logits.argmax(1) != eager.argmax(1)).mean())
        runs[subject.name, name] = run
    return runs


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text[:160]}"


def _weigh(subjects: Sequence[_Subject], threads: int) -> None:
    total = sum(len(subject.rows) for subject in subjects)
    with progress("memory", total) as advance:
        for subject in subjects:
            for name, row in subject.rows.items():
                shape = subject.images[0].shape
                row["peak_mib"] = memory.peak_mib(subject.path, name, subject.files[name], shape, threads)
                if row["peak_mib"] is None:
                    console.print(f"{subject.name}, {name}: its memory could not be measured")
                advance()


def _described(subject: _Subject) -> dict[str, Any]:
    model = subject.model
    in_file, shape = isinstance(model.network, Exported), subject.images[0].shape
    return {
        "name": subject.name,
        "network": " ".join([model.network_name, *(f"{k}={v}" for k, v in model.network_options.items())]),
        "parameters": None if in_file else model.parameters,
        "multiply_adds_per_slice": None if in_file else multiply_adds(model.network, shape[2:]) // _depth(subject),
        "dims": model.network.dims,
        "channels": shape[1],
        "image": list(shape[2:]),
        "ways": list(subject.rows.values()),
        "left_out": subject.left_out,
    }


def _depth(subject: _Subject) -> int:
    """Slices that an image of the network is worth."""
    return subject.images[0].shape[2] if subject.model.network.dims == 3 else 1


def _mib(path: Path) -> float:
    """Of a file, with the weights that OpenVINO keeps beside it."""
    beside = [path.with_suffix(".bin")] if path.suffix == ".xml" else []
    return sum(file.stat().st_size for file in (path, *beside)) / 2**20


def _packages() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str] = {}
    for name in ("onnxruntime", "openvino", "nncf"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found

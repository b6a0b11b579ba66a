"""Preparing and reading data: memory, size and speed, against one .npz a slice and against reading NIfTI each time.

    .venv/bin/python benchmarks/full_size.py ROOT --cases 6
    .venv/bin/python benchmarks/data.py ROOT [--cases 6] [--reads 400] [--workers 1 2] [--json FILE]
    .venv/bin/python benchmarks/full_size.py ROOT --cases 10
    .venv/bin/python benchmarks/data.py ROOT --scale 300 [--workers 1 2]

ROOT is in KiTS19's layout; window -200..300 HU, central crop of 384 x 384, as the paper. Four parts:

memory   peak of a process that prepares the case with most slices, above what it held before; and
         what one volume takes as int16 and as float32.
prepare  seconds and MB/s (of int16 voxels) to write the store, with as many processes as --workers says.
read     slices/s and MB/s (of what a network gets, float32) in random order, with so many processes: whole slices, and
         patches of 32 x 128 x 128, from the store, from one .npz a slice as most scripts write it (image float16, label
         uint8, savez_compressed), and from NIfTI, each volume read anew for each slice. The page cache is warm for all.
step     milliseconds to load a batch beside those of the student's step (forward, loss, backward, optimiser).

--scale N instead: a data set of N cases, links to ROOT's in turn; seconds and MB/s to prepare it, and the most that
each process had of its own at once (Linux: unique set size, every 0.1 s), beside what the largest case takes.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from hlfd import plugins
from hlfd.data.prepare import prepare
from hlfd.data.preprocess import AXCODES, Preprocess
from hlfd.data.samples import EpochSampler, Samples
from hlfd.data.store import Store
from hlfd.distill.losses import SegmentationLoss
from hlfd.segmenter import build_network
from hlfd.study.memory import _peak, _reset_peak

CROP, PATCH, MB = (384, 384), (32, 128, 128), 1e6
PREPROCESS = Preprocess(window_hu=(-200.0, 300.0), crop=CROP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--reads", type=int, default=400, help="slices a process reads from store and npz")
    parser.add_argument("--nifti-reads", type=int, default=3, help="slices a process reads from NIfTI")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--students", nargs="+", default=["unet_mobilenetv2", "unet:4"], help="NAME or NAME:WIDTH")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--scale", type=int, help="prepare so many cases, and nothing else")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory_of(options.root, options.memory_of)))
        return
    with tempfile.TemporaryDirectory(dir=options.root.parent) as folder:
        figures = scale(options, Path(folder)) if options.scale else measure(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def some_cases(root: Path, cases: int) -> Any:
    """The source with its first cases."""
    from dataclasses import replace

    source = plugins.load("sources", "kits", root)
    return replace(source, cases=source.cases[:cases])


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    make_source, figures = partial(some_cases, options.root, options.cases), dict[str, Any]()
    store = folder / "store-0"
    for i, workers in enumerate(options.workers):
        began = time.perf_counter()
        prepared = prepare(make_source, PREPROCESS, folder / f"store-{i}", workers=workers)
        seconds = time.perf_counter() - began
        slices = sum(case.shape[0] for case in prepared.cases.values())
        source_mb = sum(2 * np.prod(case.geometry.upright) for case in prepared.cases.values()) / MB
        say(figures, f"prepare, {workers} processes", {"seconds": seconds, "MB/s": source_mb / seconds})
    largest = max(prepared.cases.values(), key=lambda case: case.shape[0])
    command = [sys.executable, __file__, str(options.root), "--memory-of", largest.id]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    say(figures, f"memory, {largest.id}", json.loads(ended.stdout.splitlines()[-1]))
    write_npz(store, folder / "npz")
    sizes = {"store": size_of(store), "npz": size_of(folder / "npz"), "nifti": size_of_nifti(options)}
    say(figures, "MB on disk", {**sizes, "slices": slices})
    ways = {
        "store": partial(read_store, store, options.reads),
        "npz": partial(read_npz, folder / "npz", options.reads),
        "nifti": partial(read_nifti, options.root, options.cases, options.nifti_reads),
        "store, patches": partial(read_patches, store, options.reads // 4),
    }
    for workers in options.workers:
        for name, way in ways.items():
            with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
                list(pool.map(one_thread, range(workers)))  # processes that have imported everything
                began = time.perf_counter()
                done = list(pool.map(way, range(workers)))
                seconds = time.perf_counter() - began
            reads, pixels = (sum(one[k] for one in done) for k in (0, 1))
            unit = "patches/s" if "patches" in name else "slices/s"
            say(figures, f"read {name}, {workers}", {unit: reads / seconds, "MB/s": 4 * pixels / MB / seconds})
    for student in options.students:
        say(figures, f"step, {student}, batch {options.batch}", beside_a_step(store, student, options.batch))
    return figures


def scale(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Preparing many cases: time, and memory of every process."""
    torch.set_num_threads(1)
    real, figures = sorted(path for path in options.root.iterdir() if path.is_dir()), dict[str, Any]()
    for i in range(options.scale):
        (folder / "many").mkdir(exist_ok=True)
        (folder / "many" / f"case_{i:05}").symlink_to(real[i % len(real)].resolve())
    make_source = partial(plugins.load, "sources", "kits", folder / "many")
    for workers in options.workers:
        began, watch = time.perf_counter(), Watch()
        prepared = prepare(make_source, PREPROCESS, folder / f"store-{workers}", workers=workers)
        seconds, peaks = time.perf_counter() - began, watch.end()
        voxels = [np.prod(case.geometry.upright) for case in prepared.cases.values()]
        slices = sum(case.shape[0] for case in prepared.cases.values())
        row = {
            "seconds": seconds,
            "MB/s": 2 * sum(voxels) / MB / seconds,
            "slices": slices,
            "slices/s": slices / seconds,
        }
        row |= {f"MiB of process {i}": peak for i, peak in enumerate(peaks)}
        say(figures, f"prepare {options.scale}, {workers} processes", row | {"largest case MiB": max(voxels) / 2**19})
        shutil.rmtree(folder / f"store-{workers}")
    return figures


class Watch:
    """The most memory that this process and each of its children has of its own, MiB, until `end`."""

    def __init__(self) -> None:
        self._peaks: dict[int, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        me = os.getpid()
        while not self._ended.wait(0.1):
            children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
            for process in (me, *map(int, children)):
                with contextlib.suppress(OSError):  # it has just ended
                    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
                    own = sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024
                    self._peaks[process] = max(own, self._peaks.get(process, 0.0))

    def end(self) -> list[float]:
        self._ended.set()
        self._thread.join()
        return list(self._peaks.values())


def say(figures: dict[str, Any], name: str, row: dict[str, Any]) -> None:
    figures[name] = {key: round(float(value), 2) for key, value in row.items()}
    print(f"{name:32}", "  ".join(f"{key} {value:,.2f}" for key, value in figures[name].items()), flush=True)


def one_thread(_: int) -> int:
    torch.set_num_threads(1)
    time.sleep(0.2)  # so that each process gets one
    return os.getpid()


def size_of(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MB


def size_of_nifti(options: argparse.Namespace) -> float:
    cases = some_cases(options.root, options.cases).cases
    return sum(file.stat().st_size for case in cases for file in (*case.image, *case.label)) / MB


def memory_of(root: Path, case_id: str) -> dict[str, float]:
    """Peak of this process while it prepares one case, MiB, above what it held before."""
    from dataclasses import replace

    torch.set_num_threads(1)
    source = plugins.load("sources", "kits", root)
    case = next(c for c in source.cases if c.id == case_id)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        small = replace(source, cases=[min(source.cases, key=lambda c: c.image[0].stat().st_size)])
        prepare(lambda: small, PREPROCESS, Path(folder) / "first")  # what is imported and set up once
        before = _reset_peak()
        prepared = prepare(lambda: replace(source, cases=[case]), PREPROCESS, Path(folder) / "store")
        peak = _peak() - before
        voxels = float(np.prod(prepared.cases[case_id].geometry.upright))
    return {"peak MiB": peak, "before MiB": before, "int16 MiB": voxels / 2**19, "float32 MiB": voxels / 2**18}


def write_npz(store: Path, folder: Path) -> None:
    """As most scripts do: a compressed file a slice."""
    opened = Store(store)
    folder.mkdir()
    for case in opened.cases.values():
        image, label = opened.slices(case.id)
        for k in range(case.shape[0]):
            np.savez_compressed(folder / f"{case.id}_{k:04}", image=image[k].astype(np.float16), label=label[k])


def read_store(store: Path, reads: int, seed: int) -> tuple[int, int]:
    opened, random, pixels = Store(store), np.random.default_rng(seed), 0
    samples = Samples(opened, opened.patients)
    for position in random.integers(0, len(samples), reads).tolist():
        image, _, _ = samples[position]
        pixels += image.numel()
    return reads, pixels


def read_npz(folder: Path, reads: int, seed: int) -> tuple[int, int]:
    files, random, pixels = sorted(folder.iterdir()), np.random.default_rng(seed), 0
    for i in random.integers(0, len(files), reads).tolist():
        with np.load(files[i]) as found:
            image = torch.from_numpy(found["image"].astype(np.float32))
            torch.from_numpy(found["label"].astype(np.int64))
        pixels += image.numel()
    return reads, pixels


def read_nifti(root: Path, cases: int, reads: int, seed: int) -> tuple[int, int]:
    source, random, pixels = some_cases(root, cases), np.random.default_rng(seed), 0
    for i in random.integers(0, len(source.cases), reads).tolist():
        volume, label = source.read_image(source.cases[i]), source.read_label(source.cases[i])
        geometry, k = PREPROCESS.geometry(volume), int(random.integers(0, min(volume.shape)))
        image = PREPROCESS.image_slab(volume.oriented(AXCODES).voxels, geometry, slice(k, k + 1))
        PREPROCESS.label_slab(label.oriented(AXCODES).voxels, geometry, slice(k, k + 1))
        pixels += image.numel()
    return reads, pixels


def read_patches(store: Path, reads: int, seed: int) -> tuple[int, int]:
    opened, random, pixels = Store(store), np.random.default_rng(seed), 0
    stacks = [opened.slices(case) for case in opened.cases]
    for i in random.integers(0, len(stacks), reads).tolist():
        image, label = stacks[i]
        start = [int(random.integers(0, max(n - m, 0) + 1)) for n, m in zip(image.shape, PATCH, strict=True)]
        place = tuple(slice(first, first + n) for first, n in zip(start, PATCH, strict=True))
        pixels += image[place].size
        np.asarray(label[place])
    return reads, pixels


def beside_a_step(store: Path, student: str, batch: int) -> dict[str, float]:
    """Milliseconds of a batch's loading, in the training process, and of a student's step with it."""
    opened = Store(store)
    samples = Samples(opened, opened.patients)
    sampler = EpochSampler(samples.shows_tumor(), samples=batch * 12, rare_share=0.5, seed=0)
    name, _, width = student.partition(":")
    network = (
        build_network(name, {"width": int(width)} if width else {}, opened.classes)
        .train()
        .to(memory_format=torch.channels_last)
    )
    optimizer, loss = torch.optim.Adam(network.parameters()), SegmentationLoss()
    loading, stepping, batches = [], [], iter(DataLoader(samples, batch, sampler=sampler))
    for _ in range(12):
        began = time.perf_counter()
        image, target, _ = next(batches)
        loading.append(time.perf_counter() - began)
        began = time.perf_counter()
        optimizer.zero_grad()
        loss(network(image.contiguous(memory_format=torch.channels_last))["logits"], target).backward()
        optimizer.step()
        stepping.append(time.perf_counter() - began)
    load, step = (1000 * float(np.median(times[2:])) for times in (loading, stepping))
    return {"load ms": load, "step ms": step, "share %": 100 * load / (load + step)}


if __name__ == "__main__":
    main()

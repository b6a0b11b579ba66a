"""`hlfd predict` from file to file, start-up included, stage by stage.

    .venv/bin/python benchmarks/predict.py [--students enet MODEL ...] [--image FILE] [--rounds 5] [--threads 2]

Each round runs the command in a process of its own, all students in turn; medians. The students are untrained, which
changes nothing but the labels: noise, so that the label map compresses worse than a real one. They see the central crop
of 384 x 384 pixels, as in the paper. ``enet.xml``, ``enet.int8.onnx``: the same, exported first. A model folder, or a
file of `hlfd export`, is taken as it is. *outside* is what the report can't see: the interpreter, the imports before
the clock starts, the exit. ``--cpu-time`` shows processor seconds of the process, for a busy machine; take it with
``--threads 1``.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from hlfd.data.preprocess import Preprocess
from hlfd.export import export
from hlfd.labels import organ_and_tumor
from hlfd.segmenter import Segmenter, build_network

STUDENTS = ("enet", "unet_mobilenetv2", "unet_resnet18")
IMAGE = Path(__file__).parents[1] / ".." / "shared" / "data" / "ircad01_p01" / "imaging.nii.gz"
BAR_SECONDS, BAR_MIB = 8.0, 1024.0


def student(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    network, _, format_ = name.partition(".")
    preprocess = Preprocess(window_hu=(-160.0, 240.0), crop=(384, 384))
    labels = organ_and_tumor("both", "liver")
    model = Segmenter(build_network(network, {}, 3), network, {}, preprocess, labels)
    if not format_:
        return model.save(folder / name)
    precision = "int8" if "int8" in format_ else "fp32"
    return export(model, folder / name, precision=precision, tolerance=1.0).path  # of noise no labels agree


def once(model: Path, image: Path, folder: Path, threads: int) -> dict[str, float]:
    """Seconds of each stage and of the whole process, its processor seconds and its peak memory."""
    program = str(Path(sys.executable).with_name("hlfd"))
    command = [program, "predict", "-q", "-m", model, "-i", image, "-o", folder / "labels.nii.gz"]
    command += ["--report", folder / "report.json", "--threads", threads]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its bytecode
    subprocess.run([*map(str, command)], check=True, env=environment)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    (case,) = report["images"]
    stages: dict[str, float] = {"start": report["start_seconds"], **case["seconds"]}
    read = stages.pop("read")  # beside the start, but for what is left of it then
    stages["read, beside the start"] = read
    stages["outside"] = wall - sum(seconds for stage, seconds in stages.items() if not stage.startswith("read"))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**stages, "all": wall, "processor": cpu, "MiB": report["peak_memory_mib"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, default=IMAGE)
    parser.add_argument("--students", nargs="+", default=STUDENTS, help="networks, exported files, model folders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cpu-time", action="store_true", help="judge by processor seconds, for a busy machine")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if not options.image.is_file():
        raise SystemExit(f"{options.image}: no such file; name a CT with --image")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in options.students}
    with tempfile.TemporaryDirectory() as folder:
        exported = {name: Path(name) for name in options.students if Path(name).exists()}
        models = {name: exported.get(name) or student(name, Path(folder)) for name in options.students}
        for _ in range(options.rounds + 1):
            for name, model in models.items():
                found[name].append(once(model, options.image, Path(folder), options.threads))
    medians = {
        name: {stage: statistics.median(one[stage] for one in rounds[1:]) for stage in rounds[-1]}
        for name, rounds in found.items()  # the first round warms the disk's cache
    }
    for name, row in medians.items():
        parts = ", ".join(f"{stage} {row[stage]:.2f}" for stage in row if stage not in ("all", "processor", "MiB"))
        judged = row["processor" if options.cpu_time else "all"]
        kept = judged <= BAR_SECONDS and row["MiB"] <= BAR_MIB
        print(
            f"{name:18} {row['all']:6.2f} s, {row['processor']:6.2f} s of processor, {row['MiB']:5.0f} MiB "
            f"({'within' if kept else 'above'} {BAR_SECONDS:g} s and {BAR_MIB:g} MiB): {parts}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"threads": options.threads, "medians": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Peak memory of one way to run a model, in a process of its own."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from hlfd import machine


def peak_mib(path: Path, way: str, file: Path | None, shape: tuple[int, ...], threads: int) -> float | None:
    """What a new process grows by while it opens a model and runs one batch, MiB; None if it failed.

    Without the program and its libraries, which are loaded before.

    Args:
        path: of the model.
        way: of `hlfd.benchmark.ways`.
        file: that the way runs, if it runs one.
        shape: of the batch.
    """
    asked = {
        "path": str(path),
        "way": way,
        "file": file and str(file),
        "shape": shape,
        "threads": threads,
    }
    command = [sys.executable, "-m", "hlfd.benchmark.memory", json.dumps(asked)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return float(ended.stdout.split()[-1]) if ended.returncode == 0 else None
    except (IndexError, ValueError):
        return None


def measure(path: str, way: str, file: str | None, shape: list[int], threads: int) -> float:
    """As `peak_mib`, in this process."""
    import numpy as np
    import torch

    from hlfd import plugins
    from hlfd.benchmark.ways import WAYS, start, way_of
    from hlfd.loading import load

    torch.set_num_threads(threads)
    chosen = WAYS[way] if way in WAYS and not Path(path).is_file() else way_of(Path(path))
    for package in chosen.packages:
        import_module(package)
    load(path, threads=threads)  # imports what the model needs, its runtime too
    if file is not None:
        plugins.module("exporters", chosen.exporter).open_file(Path(file), threads)
    torch.nn.functional.conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3))  # what is set up once
    image = np.zeros(shape, np.float32)
    before = machine.reset_peak_mib()
    if file is not None:
        run: Any = plugins.module("exporters", chosen.exporter).open_file(Path(file), threads)
    else:
        run = start(chosen, load(path, threads=threads), None, threads)
    run(image)
    return max(0.0, machine.peak_mib() - before)


if __name__ == "__main__":
    print(measure(**json.loads(sys.argv[1])))

"""Procedural abdominal CT: the data set that needs no download."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hlfd import plugins
from hlfd.cases import DataSource
from hlfd.labels import Task
from hlfd.progress import progress
from hlfd.sources._phantom import Layout, write_phantom


def build(
    root: Path,
    *,
    task: Task = "both",
    layout: Layout = "kits",
    patients: Annotated[int, Field(ge=1)] = 24,
    seed: Annotated[int, Field(ge=0)] = 0,
    size: Annotated[int, Field(ge=32)] = 160,
    workers: Annotated[int, Field(ge=1)] = 1,
) -> DataSource:
    """Procedural abdominal CT in HU with tumours and look-alikes, written on first use.

    Args:
        root: folder of the volumes; what is missing there is generated.
        task: what to learn: ``tumor``, ``organ`` (with its tumour) or ``both``.
        layout: ``kits`` (kidney and its tumours, KiTS19 layout) or ``lits`` (liver, LiTS17 layout).
        patients: number of cases; each depends on the seed and its own number alone.
        seed: of anatomy, tumours and noise.
        size: pixels along each side of a slice.
        workers: processes that generate.
    """
    with progress("generating phantom patients", patients) as advance:
        before = 0

        def tell(done: int, _total: int) -> None:
            nonlocal before
            advance(done - before)
            before = done

        workers = min(workers, os.cpu_count() or 1)
        write_phantom(root, patients=patients, seed=seed, layout=layout, size=size, workers=workers, progress=tell)
    return plugins.load("sources", layout, root, task=task)

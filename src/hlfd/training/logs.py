"""metrics.csv: one row a figure, appended, so that an interrupted and continued run has one unbroken log."""

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from hlfd.io.files import write_atomic
from hlfd.machine import first_process

HEADER = ("step", "name", "value")


class CsvLog(Logger):
    """A Lightning logger that writes ``step,name,value``.

    Args:
        path: the file; figures in it from ``before_step`` on are dropped, since they will be computed again.
        before_step: the first step (counted from 0) that is still to do; None: a fresh start, nothing is kept.
    """

    def __init__(self, path: Path, before_step: int | None = None):
        super().__init__()
        self.path = path
        kept = [row for row in _rows(path) if before_step is not None and int(row["step"]) < before_step]
        lines = [",".join(HEADER), *(f"{r['step']},{r['name']},{r['value']}" for r in kept)]
        if first_process():
            write_atomic(path, "\n".join(lines) + "\n")

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The recipe is written beside the log instead."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(
                (step or 0, name, f"{value:.6g}") for name, value in metrics.items() if name != "epoch"
            )


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Name -> (step, value) pairs of a ``metrics.csv``; empty if there is none."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in _rows(path):
        curves[row["name"]].append((int(row["step"]), float(row["value"])))
    return dict(curves)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))

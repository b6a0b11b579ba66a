"""Where the time of a training goes, part by part."""

import time
from collections import defaultdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from rich.table import Table

from hlfd.io.files import write_json
from hlfd.progress import console

PARTS = (  # pattern of an action's name, ours or Lightning's; the first that fits counts
    ("data", "data"),
    ("*train_dataloader_next", "data"),
    ("*batch_to_device", "data"),
    ("student", "student, forward"),
    ("heads", "heads fitted"),
    ("teacher", "teacher"),
    ("cache", "cache, read and written"),
    ("losses", "losses, forward"),
    ("gradients", "gradients read"),
    ("*backward", "backward"),
    ("*optimizer_step", "optimiser"),
    ("*optimizer_zero_grad", "optimiser"),
    ("logging", "logging"),
    ("*Callback*TrainingProgress*", "logging"),
    ("*Callback*ModelCheckpoint*", "checkpoints"),
    ("*val*", "validation"),
    ("export", "export"),
    ("*", "loop"),
)


class PartsProfiler(Profiler):
    """A Lightning profiler that gives each second to one part: the innermost action that it passed in."""

    def __init__(self):
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._open: list[str] = []
        self._since = self._started = time.perf_counter()

    def start(self, action_name: str) -> None:
        """An action begins; the one around it waits."""
        self._pass()
        self._open.append(action_name)
        self.calls[_part(action_name)] += 1

    def stop(self, action_name: str) -> None:
        """The innermost action ends."""
        self._pass()
        if action_name in self._open:
            self._open.remove(action_name)

    def time(self, logger: Logger) -> None:
        """Count what a logger does as an action of its own; Lightning doesn't."""
        log = logger.log_metrics

        def timed(metrics: Any, step: int | None = None) -> None:
            with self.profile("logging"):
                log(metrics, step)

        logger.log_metrics = timed

    def _pass(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[_part(self._open[-1] if self._open else "")] += now - self._since
        self._since = now

    def summary(self) -> str:
        """Nothing: `report` says it."""
        return ""

    def report(self, path: Path, steps: int) -> None:
        """Print the parts, and write them to ``path``.

        Args:
            steps: batches that were trained on.
        """
        self._pass()
        total = self._since - self._started
        order = sorted(self.seconds, key=lambda part: -self.seconds[part])
        rows: list[dict[str, Any]] = [
            {"part": part, "seconds": round(self.seconds[part], 3), "share": round(self.seconds[part] / total, 4)}
            for part in order
        ]
        write_json(path, {"seconds": round(total, 3), "batches": steps, "parts": rows})
        table = Table("part", "share", "seconds", "ms a batch", title=f"{total:.1f} s, {steps} batches: {path}")
        for part in order:
            seconds = self.seconds[part]
            table.add_row(part, f"{seconds / total:.1%}", f"{seconds:.2f}", f"{1000 * seconds / max(steps, 1):.1f}")
        console.print(table)


def _part(action: str) -> str:
    return next(part for pattern, part in PARTS if fnmatchcase(action, pattern))

"""How long a study takes, before it is begun: a few steps of each network, timed here."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hlfd import plugins
from hlfd.cost import padded_size
from hlfd.data.views import overlapping
from hlfd.distill.features import Tapped, channels_last
from hlfd.distill.losses import SegmentationLoss
from hlfd.errors import InputError
from hlfd.recipe import Recipe
from hlfd.sections import ALONE, Plugin, TrainingSection
from hlfd.segmenter import build_network
from hlfd.study import steps
from hlfd.study.cells import Cell, Ledger, chosen, plan

TIMED_STEPS = 4


@dataclass(frozen=True)
class Estimate:
    """A cell with the hours it will take, or took; None where nothing can be said."""

    cell: Cell
    done: bool
    hours: float | None


def estimate(recipe: Recipe, only: str | None = None) -> list[Estimate]:
    """Every cell of a recipe and what it takes. Nothing is trained or written.

    Cells that are done say how long they took. The others are put together from the time of a training step of each
    network, timed now on noise, and of the teacher's forward pass for each slice of a distilled batch, which the
    teacher cache may save. Evaluation is counted where the data are prepared.
    """
    cells, ledger = chosen(plan(recipe), only), Ledger(recipe.folder)
    clock = _Clock(recipe)
    return [
        Estimate(cell, True, record["seconds"] / 3600)
        if (record := ledger.record(cell))
        else Estimate(cell, False, clock.hours(cell))
        for cell in cells
    ]


def table(found: Sequence[Estimate], jobs: int = 1) -> str:
    """The estimate as text: a line for each cell, then the sums."""
    widest = max(len(one.cell.name) for one in found)
    lines = [f"{one.cell.name:<{widest}}  {'done' if one.done else 'to do'}  {_hours(one.hours):>9}" for one in found]
    left = [one for one in found if not one.done]
    known = [one.hours for one in left if one.hours is not None]
    total = f"{_hours(sum(known))} of work" if len(known) == len(left) else "hours unknown until the data are prepared"
    lines.append(f"{len(found)} cells, {len(found) - len(left)} done, {len(left)} to do: {total}")
    if jobs > 1 and known:
        lines.append(f"with {jobs} at a time at best {_hours(sum(known) / jobs)}, on cores that they don't share")
    return "\n".join(lines)


def _hours(hours: float | None) -> str:
    if hours is None:
        return "-"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


class _Clock:
    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self._seconds: dict[str, tuple[float, float]] = {}
        ready = (recipe.folder / "store" / "store.json").exists()
        self.workspace = steps.Workspace(recipe, 1) if ready else None
        self.classes = len(_labels(recipe)) + 1

    def size(self) -> tuple[int, ...] | None:
        """Spatial size of what a network is shown, if the recipe or the store says."""
        plane = self.recipe.preprocess.plane
        if plane is None and self.workspace is not None:
            plane = max((c.shape[1:] for c in self.workspace.store.cases.values()), key=lambda s: s[0] * s[1])
        return plane and self.recipe.preprocess.shown((1, *plane))

    def hours(self, cell: Cell) -> float | None:
        """Of a cell that is not done."""
        recipe = self.recipe
        if cell.kind == "teacher":
            if recipe.teacher_models:
                return 0.0  # it is only measured
            step, forward = self._timed(recipe.teacher, recipe.teacher_training.batch_size)
            work = self._steps(recipe.teacher_training, cell.fold)
            return work and (work * step + self._test(cell.fold, forward)) / 3600
        assert cell.network is not None and cell.method is not None
        training, trials = recipe.student_training, 1
        if cell.kind == "search":
            assert recipe.study is not None and recipe.study.search is not None
            search = recipe.study.search
            trials, epochs = search.trials, search.epochs or training.epochs
            training = training.model_copy(update={"epochs": epochs})
        step, forward = self._timed(cell.network, training.batch_size)
        if cell.method.name != ALONE and not recipe.teacher_models:
            step += self._timed(recipe.teacher, training.batch_size)[1] * training.batch_size
        work = self._steps(training, cell.fold)
        tested = self._test(cell.fold, forward) if cell.kind == "student" else 0.0
        return work and trials * (work * step + tested) / 3600

    def _built(self, network: Plugin) -> Tapped:
        shown = self.recipe.preprocess
        return build_network(network.name, network.options, self.classes, in_channels=shown.channels, dims=shown.dims)

    def _steps(self, training: TrainingSection, fold: int) -> int | None:
        samples = training.samples_per_epoch or self._slices(fold, "train")
        return samples and training.epochs * max(1, samples // training.batch_size)

    def _slices(self, fold: int, part: str) -> int | None:
        if self.workspace is None:
            return None
        patients = set(getattr(self.workspace.split(fold), part))
        shown = self.workspace.store.preprocess
        shapes = [case.shape for case in self.workspace.store.cases.values() if case.patient in patients]
        return sum(len(overlapping(shape, shown.window(shape))) for shape in shapes)

    def _test(self, fold: int, forward: float) -> float:
        return (self._slices(fold, "test") or 0) * forward

    def _timed(self, network: Plugin, batch: int) -> tuple[float, float]:
        """Seconds of a training step, and of a forward pass of one slice."""
        key = f"{network.model_dump_json()} {batch}"
        if key not in self._seconds:
            size = self.size()
            if size is None:
                raise InputError(
                    "--dry-run: the size of a slice is known once the data are prepared: run 'hlfd prepare'"
                )
            self._seconds[key] = time_of(self._built(network), size, batch)
        return self._seconds[key]


def _labels(recipe: Recipe) -> Sequence[str]:
    """Names of the classes that a recipe's task has."""
    task: Any = recipe.source.options.get("task", plugins.defaults("sources", recipe.source.name).get("task"))
    if task is None or "labels" in recipe.source.options:  # the labels are the data's own
        return recipe.make_source().labels.names
    return ("organ", "tumor") if task == "both" else (str(task),)


def time_of(network: Tapped, size: Sequence[int], batch: int) -> tuple[float, float]:
    """Seconds of a training step with a batch of images of this size, and of a forward pass of one."""
    padded, loss, memory_format = padded_size(network, size), SegmentationLoss(), channels_last(network.dims)
    images = torch.rand(batch, network.in_channels, *padded).contiguous(memory_format=memory_format)
    network.train().to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.Adam(network.parameters())
    target = torch.zeros(batch, *padded, dtype=torch.long)
    training: list[float] = []
    for _ in range(TIMED_STEPS):
        started = time.perf_counter()
        optimizer.zero_grad()
        loss(network(images)["logits"], target).backward()
        optimizer.step()
        training.append(time.perf_counter() - started)
    network.eval()
    looking: list[float] = []
    with torch.inference_mode():
        for _ in range(TIMED_STEPS):
            started = time.perf_counter()
            network(images)
            looking.append((time.perf_counter() - started) / batch)
    return statistics.median(training[1:]), statistics.median(looking[1:])

"""What a distillation step costs beside the student's own, and beside the usual way of writing HLFD.

    .venv/bin/python benchmarks/step.py [--sizes 128 256 384] [--teachers unetpp:64 unet:32] [--rounds 3] [--json FILE]

Images of random numbers, three classes, batches of 8. Four ways to make a step (forward, losses, backward, Adam):

- alone: the student with the segmentation loss;
- cached: HLFD, what the teacher knows read from a cache on disk (`hlfd cache`) and decoded;
- live: HLFD with the teacher's forward pass, batch norms folded, channels_last;
- usual: HLFD as it is usually written: batch norms apart, NCHW, every decoder feature brought to full resolution
  before it is concatenated, encoder features to the smallest of them, projections built anew in each step. On
  --usual-batch images, times 8 / that: 8 at once don't fit. It has a process of its own, since the memory it leaves
  would slow the others.

All ways take turns within a round, so that a machine whose speed drifts slows all alike; figures are medians. The
teachers' forward passes don't depend on the student: one of each kind is timed a round and counted for every student.
Memory is the peak of a process that does two such steps and nothing else (--memory); usual: of 1 and of 2 images,
drawn on to 8 along the line.
"""

import argparse
import copy
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hlfd import Distiller, FrozenTeacher, SegmentationLoss, Tapped, plugins
from hlfd.distill.folding import fold_batch_norms
from hlfd.distill.losses import ImportanceMapLoss, resize
from hlfd.distill.projectors import fuse
from hlfd.machine import keep_freed_memory, peak_mib
from hlfd.training.cache import KnowledgeCache

BATCH, CLASSES = 8, 3
CPU = False  # the clock: processor time instead of time passed
WAYS = ("alone", "cached", "live", "usual")
STUDENTS = ("unet_resnet18", "unet_mobilenetv2", "enet")


def network(name: str) -> Tapped:
    torch.manual_seed(0)
    kind, _, width = name.partition(":")
    return plugins.load("networks", kind, in_channels=1, classes=CLASSES, **({"width": int(width)} if width else {}))


class Pupil:
    """A student with its optimiser, and its step in each of the ways."""

    def __init__(self, name: str, teacher: FrozenTeacher, ways: tuple[str, ...] = WAYS):
        self.teacher, self.loss = teacher, SegmentationLoss()
        self.nets = {way: network(name) for way in ways}
        for way, net in self.nets.items():
            net.to(memory_format=torch.contiguous_format if way == "usual" else torch.channels_last)
        any_net = next(iter(self.nets.values()))
        terms = plugins.load("methods", "hlfd", any_net.info(), teacher.info(), classes=CLASSES)
        self.distiller = Distiller(terms)
        self.distiller.freeze_heads()
        self.optimizers = {
            way: torch.optim.Adam([*net.parameters(), *(() if way in ("alone", "usual") else self._heads())])
            for way, net in self.nets.items()
        }

    def _heads(self) -> list[nn.Parameter]:
        return [p for p in self.distiller.parameters() if p.requires_grad]

    def open_cache(self, path: Path, image: Tensor, target: Tensor) -> None:
        self.addresses = [f"slice {i}" for i in range(len(image))]
        teacher = copy.deepcopy(self.teacher)  # the cache gives its teacher away once it knows all
        self.cache = KnowledgeCache(path, teacher, self.distiller, meta={}, addresses=self.addresses)
        with torch.no_grad():
            student = {role: tuple(f.shape[2:]) for role, f in self.nets["cached"](image).items()}
        self.cache(image, student, target, self.addresses)

    def step(self, way: str, image: Tensor, target: Tensor, teacher: dict[str, Tensor] | None = None) -> None:
        own = self.nets[way](image)
        losses = [self.loss(own["logits"], target)]
        if way == "cached":
            known = self.cache(image, {r: tuple(f.shape[2:]) for r, f in own.items()}, target, self.addresses)
            losses += self.distiller.compare(own, known, target).values()
        elif way == "live":
            losses += self.distiller(own, teacher, target).values()
        elif way == "usual":
            losses += self._usual(own, teacher or {}, target)
        self.optimizers[way].zero_grad()
        torch.stack(losses).sum().backward()
        self.optimizers[way].step()

    def _usual(self, own: dict[str, Tensor], teacher: dict[str, Tensor], target: Tensor) -> list[Tensor]:
        losses: list[Tensor] = []
        for term in self.distiller.each():
            sides: list[Tensor] = []
            for features, roles in ((own, term.student), (teacher, term.teacher)):
                if isinstance(term.loss, ImportanceMapLoss):
                    sides.append(fuse(features, roles))
                    continue
                full = torch.cat([resize(features[role], target.shape[1:]) for role in roles], 1)
                sides.append(full if roles == ("logits",) else nn.Conv2d(full.shape[1], CLASSES, 1)(full))
            losses.append(term.weight * term.loss(sides[0], sides[1].detach(), target))
        return losses


def timed(do: Callable[[], Any]) -> tuple[float, Any]:
    clock = time.process_time if CPU else time.perf_counter
    started = clock()
    result = do()
    return clock() - started, result


def teachers_of(name: str) -> tuple[FrozenTeacher, FrozenTeacher]:
    """Fast, and as it is usually run."""
    fast, usual = network(name), network(name)
    fold_batch_norms(fast)
    return FrozenTeacher(fast.to(memory_format=torch.channels_last)), FrozenTeacher(usual)


def measure(
    teacher: str, students: list[str], size: int, rounds: int, few: int, usual_rounds: int
) -> list[dict[str, Any]]:
    image, target = batch(size)
    fast, _ = teachers_of(teacher)
    times: dict[tuple[str, str], list[float]] = {}
    # The usual way has a process of its own, so that the memory it leaves slows no other way.
    spawned = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(1, spawned, set_clock, (CPU, torch.get_num_threads())) as beside,
        tempfile.TemporaryDirectory() as folder,
    ):
        pupils = {name: Pupil(name, fast) for name in students}
        for name, pupil in pupils.items():
            pupil.open_cache(Path(folder) / f"{name}.sqlite", image, target)
        for round_ in range(rounds + 1):
            if round_ == 1:
                times.clear()  # the first warms up
            quick, features = timed(partial(fast, image))
            ways = [WAYS[(i + round_) % 3] for i in range(3)]  # none is always first
            for name, pupil in pupils.items():
                pupil.step(ways[-1], image, target, features)  # what ran before left its memory, not this one's
                for way in ways:
                    seconds = timed(partial(pupil.step, way, image, target, features))[0]
                    times.setdefault((name, way), []).append(seconds + (quick if way == "live" else 0))
            times.setdefault(("", "teacher, folded"), []).append(quick)
            for name in pupils if round_ <= usual_rounds and usual_rounds else ():
                slow, seconds = beside.submit(usual_step, teacher, name, size, few).result()
                times.setdefault((name, "usual"), []).append((seconds + slow) * BATCH / few)
                times.setdefault(("", "teacher, usual"), []).append(slow * BATCH / few)
    rows: list[dict[str, Any]] = []
    for (name, way), values in times.items():
        alone = times.get((name, "alone"))
        ratio = statistics.median(a / b for a, b in zip(values, alone, strict=False)) if alone else None
        seconds = statistics.median(values)
        rows.append({"size": size, "teacher": teacher, "student": name, "way": way, "seconds": seconds, "ratio": ratio})
        shown = f"{ratio:6.2f} x alone" if ratio else ""
        print(f"{size:4} {teacher:10} {name:17} {way:16} {1000 * seconds:10.0f} ms {shown}", flush=True)
    return rows


def set_clock(cpu: bool, threads: int) -> None:
    global CPU  # noqa: PLW0603
    keep_freed_memory()
    CPU = cpu
    torch.set_num_threads(threads)


@cache
def usual_pair(teacher: str, student: str) -> tuple[FrozenTeacher, Pupil]:
    plain = teachers_of(teacher)[1]
    return plain, Pupil(student, plain, ("usual",))


def usual_step(teacher: str, student: str, size: int, few: int) -> tuple[float, float]:
    """Seconds of the teacher and of the rest, for ``few`` images."""
    plain, pupil = usual_pair(teacher, student)
    image, target = batch(size, few)
    seconds, features = timed(partial(plain, image.contiguous()))
    return seconds, timed(partial(pupil.step, "usual", image.contiguous(), target, features))[0]


def batch(size: int, images: int = BATCH) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    image = torch.randn(images, 1, size, size).contiguous(memory_format=torch.channels_last)
    return image, torch.randint(CLASSES, (images, size, size))


def one_process(teacher: str, student: str, way: str, size: int, images: int, kept: Path) -> None:
    """Two steps of one way; the peak of memory in MiB."""
    keep_freed_memory()
    image, target = batch(size, images)
    fast, usual = teachers_of(teacher)
    if way == "usual":
        image, chosen = image.contiguous(), usual
        del fast
    else:
        chosen = fast
        del usual
    pupil = Pupil(student, chosen, (way,))
    if way == "cached":
        filling = not kept.exists()  # in the first process the teacher does
        pupil.open_cache(kept, image, target)
        if not filling:
            chosen.to("meta")
    for _ in range(2):
        features = chosen(image) if way in ("live", "usual") else None
        pupil.step(way, image, target, features)
    print(peak_mib())


def memory(teacher: str, student: str, size: int) -> list[dict[str, Any]]:
    def peak(way: str, images: int = BATCH) -> float:
        arguments = [teacher, student, way, str(size), str(images), f"{folder}/cache.sqlite"]
        command = [sys.executable, __file__, "--one", *arguments]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        peak("cached")  # fills the cache
        for way in WAYS:
            if way == "usual":
                one, two = peak(way, 1), peak(way, 2)
                mib = one + (BATCH - 1) * (two - one)
            else:
                mib = peak(way)
            rows.append({"size": size, "teacher": teacher, "student": student, "way": way, "peak_mib": mib})
            print(f"{size:4} {teacher:10} {student:17} {way:16} {mib:10.0f} MiB at most", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 384], help="pixels an axis; the batch is 8")
    parser.add_argument("--teachers", nargs="+", default=["unetpp:64", "unet:32"], help="NAME:WIDTH")
    parser.add_argument("--students", nargs="+", default=list(STUDENTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--usual-rounds", type=int, help="of these, with the usual way; default: all")
    parser.add_argument("--usual-batch", type=int, default=2, help="images at once the usual way")
    parser.add_argument("--cpu-time", action="store_true", help="one thread and its processor time, for a busy machine")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--one", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        teacher, student, way, size, images, kept = options.one
        one_process(teacher, student, way, int(size), int(images), Path(kept))
        return
    keep_freed_memory()
    if options.cpu_time:
        set_clock(True, 1)
    clock = "processor time" if options.cpu_time else "time"
    print(f"batch {BATCH}, {clock}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        for teacher in options.teachers:
            if options.memory:
                for student in options.students:
                    rows += memory(teacher, student, size)
            else:
                rows += measure(
                    teacher,
                    options.students,
                    size,
                    options.rounds,
                    options.usual_batch,
                    options.rounds if options.usual_rounds is None else options.usual_rounds,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

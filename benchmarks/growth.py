"""How the cost of a step grows: pixels x 4, taps x 2, and patches in 3D.

    .venv/bin/python benchmarks/growth.py [--rounds 5] [--json FILE]

2D: UNet 16 teaches unet_mobilenetv2, 8 images of 128, 256 and 512 pixels an axis. 3D: UNet 16 teaches UNet 4, one patch
of 64 and of 96. Teacher: forward. Student: forward and backward with the segmentation loss. Losses: those of HLFD,
forward and backward down to the taps; and importance maps alone, at every tap once and, of the same sizes, twice.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hlfd import Distiller, FrozenTeacher, SegmentationLoss, Tapped, plugins
from hlfd.distill.losses import ImportanceMapLoss
from hlfd.machine import keep_freed_memory

CLASSES = 3


class Lesson:
    """A teacher, a student and images of one size."""

    def __init__(self, dims: int, size: int):
        torch.manual_seed(0)
        images = 8 if dims == 2 else 1
        layout = torch.channels_last if dims == 2 else torch.channels_last_3d
        options: dict[str, Any] = {"in_channels": 1, "classes": CLASSES, "dims": dims}
        teacher: Tapped = plugins.load("networks", "unet", width=16, **options)
        name, extra = ("unet_mobilenetv2", {}) if dims == 2 else ("unet", {"width": 4})
        self.student: Tapped = plugins.load("networks", name, **extra, **options).to(memory_format=layout)
        self.image = torch.randn(images, 1, *[size] * dims).contiguous(memory_format=layout)
        self.target = torch.randint(CLASSES, (images, *[size] * dims))
        self.teacher, self.loss = FrozenTeacher(teacher.to(memory_format=layout)), SegmentationLoss()
        taps = self.student.info(), teacher.info()
        self.distiller = Distiller(plugins.load("methods", "hlfd", *taps, classes=CLASSES))
        self.distiller.freeze_heads()
        shared = [role for role in taps[0] if role in taps[1] and role != "logits"]
        self.maps = {"each tap once": shared, "taps x 2": shared * 2}

    def train(self) -> None:
        self.loss(self.student(self.image)["logits"], self.target).backward()

    def taught(self, own: dict[str, Tensor], teacher: dict[str, Tensor]) -> None:
        torch.stack([*self.distiller(own, teacher, self.target).values()]).sum().backward()

    def mapped(self, own: dict[str, Tensor], teacher: dict[str, Tensor], roles: list[str]) -> None:
        loss = ImportanceMapLoss()
        torch.stack([loss(own[role], teacher[role], self.target) for role in roles]).sum().backward()

    def round(self) -> dict[str, float]:
        """Seconds of each part."""
        times, teacher = {}, self.teacher(self.image)
        times["teacher"] = seconds(partial(self.teacher, self.image))
        times["student"] = seconds(self.train)
        own = {role: f.detach().requires_grad_() for role, f in self.student(self.image).items()}
        times["HLFD's losses"] = seconds(partial(self.taught, own, teacher))
        for what, roles in self.maps.items():
            times[f"importance maps, {what}"] = seconds(partial(self.mapped, own, teacher, roles))
        return times


def seconds(do: Callable[[], Any]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    keep_freed_memory()
    lessons = {(dims, size): Lesson(dims, size) for dims, size in ((2, 128), (2, 256), (2, 512), (3, 64), (3, 96))}
    times: dict[tuple[int, int, str], list[float]] = {}
    for round_ in range(options.rounds + 1):
        for (dims, size), lesson in lessons.items():
            for what, value in lesson.round().items():
                if round_:  # the first warms up
                    times.setdefault((dims, size, what), []).append(value)
    rows: list[dict[str, Any]] = []
    for (dims, size, what), values in times.items():
        median = statistics.median(values)
        rows.append({"dims": dims, "size": size, "what": what, "seconds": median})
        print(f"{dims}D {size:4}  {what:32} {1000 * median:9.1f} ms")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

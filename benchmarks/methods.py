"""What each method's losses cost in a training step, beside the networks.

    .venv/bin/python benchmarks/methods.py [--size 256] [--rounds 5] [--json FILE]

UNet++ of width 32 teaches unet_mobilenetv2, 8 images, 3 classes. A round runs the teacher's forward pass and the
student's forward and backward pass with the segmentation loss, then each method's losses on these features: forward,
and backward down to the student's taps and the learned heads; the teacher's heads are fitted. The methods take turns
within a round, so that a machine whose speed drifts slows all alike. The figure is the median; the share is of
teacher and student together. The last line is HLFD the usual way, all features brought to full resolution first: one
image, times eight, for the memory it takes.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from hlfd import Distiller, FrozenTeacher, SegmentationLoss, plugins
from hlfd.distill.features import Features
from hlfd.distill.losses import resize
from hlfd.distill.terms import Term

BATCH, CLASSES = 8, 3
USUAL = "hlfd, full resolution"

times: dict[str, list[float]] = {}


@contextmanager
def timed(name: str, times_in_batch: int = 1) -> Generator[None]:
    started = time.perf_counter()
    yield
    times.setdefault(name, []).append((time.perf_counter() - started) * 1000 * times_in_batch)


def run(losses: Callable[[Features], list[Tensor]], features: Features, parameters: list[nn.Parameter]) -> None:
    """Forward and backward down to the taps and the heads."""
    taps = {role: feature.detach().requires_grad_() for role, feature in features.items()}
    values = losses(taps)
    if values:
        torch.autograd.grad(torch.stack(values).sum(), [*taps.values(), *parameters], allow_unused=True)


def at_full_resolution(term: Term, student: Features, teacher: Features, target: Tensor) -> Tensor:
    """A term of HLFD as it is usually written: resize first, then concatenate, project, take maps."""

    def fused(features: Features, roles: tuple[str, ...], head: nn.Module | None) -> Tensor:
        full = torch.cat([resize(features[role], target.shape[1:]) for role in roles], 1)
        return full if head is None else head(full)

    own = fused(student, term.student, term.student_head)
    return term.weight * term.loss(own, fused(teacher, term.teacher, term.teacher_head), target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="pixels an axis; the batch is 8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()

    torch.manual_seed(0)
    teacher_net = plugins.load("networks", "unetpp", in_channels=1, classes=CLASSES, width=32)
    student_net = plugins.load("networks", "unet_mobilenetv2", in_channels=1, classes=CLASSES)
    taps = student_net.info(), teacher_net.info()
    distillers = {
        name: Distiller(plugins.load("methods", name, *taps, classes=CLASSES)) for name in plugins.names("methods")
    }
    for distiller in distillers.values():
        distiller.freeze_heads()
    heads = {name: [p for p in d.parameters() if p.requires_grad] for name, d in distillers.items()}
    teacher_net, segmentation = FrozenTeacher(teacher_net), SegmentationLoss()
    image = torch.randn(BATCH, 1, options.size, options.size)
    target = torch.randint(CLASSES, (BATCH, options.size, options.size))

    def one_round() -> None:
        with timed("teacher"):
            teacher = teacher_net(image)
        with timed("student"):
            student = student_net(image)
            segmentation(student["logits"], target).backward()
        for name, distiller in distillers.items():
            with timed(name):
                run(lambda own, d=distiller: list(d(own, teacher, target).values()), student, heads[name])
        one, other = ({role: feature[:1] for role, feature in side.items()} for side in (student, teacher))
        hlfd = distillers["hlfd"].each()
        with timed(USUAL, times_in_batch=BATCH):
            run(lambda own: [at_full_resolution(t, own, other, target[:1]) for t in hlfd], one, heads["hlfd"])

    for _ in range(options.rounds + 1):
        one_round()
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first round warms up
    step = medians.pop("teacher") + medians.pop("student")
    print(
        f"{BATCH} x 1 x {options.size} x {options.size}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"{'teacher and student':24} {step:8.1f} ms")
    for name, ms in medians.items():
        print(f"{name:24} {ms:8.1f} ms   {100 * ms / step:5.1f} %")
    if options.json:
        rows = [{"method": name, "ms": ms, "share": ms / step} for name, ms in medians.items()]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

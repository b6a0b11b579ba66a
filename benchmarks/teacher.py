"""A live teacher made faster: what each way saves, and what it changes.

    .venv/bin/python benchmarks/teacher.py MODEL RECIPE [--size 256] [--rounds 5] [--compile] [--json FILE]

MODEL is a trained model folder, RECIPE the recipe of its data. Times are of the forward pass of 8 random images, all
ways in turn, medians. What changes is measured on the recipe's validation slices: the largest difference of the
logits, as a share of the largest logit; the share of pixels that keep their class; Dice of the last class over all
those slices together.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hlfd import FrozenTeacher, Segmenter, Tapped
from hlfd import recipe as recipes
from hlfd.data.samples import Samples
from hlfd.distill.folding import fold_batch_norms
from hlfd.study.steps import Workspace

Ask = Callable[[Tensor], Tensor]


def ways(tapped: Tapped, compiled: bool) -> dict[str, Ask]:
    def of(*, fold: bool = False, last: bool = False, bf16: bool = False, compiled: bool = False) -> Ask:
        own = copy.deepcopy(tapped)
        if fold:
            fold_batch_norms(own)
        layout = torch.channels_last if last else torch.contiguous_format
        teacher = FrozenTeacher(own.to(memory_format=layout), bf16=bf16)
        if compiled:
            teacher.compile()
        return lambda image: teacher(image.contiguous(memory_format=layout))["logits"].float()

    fast = of(fold=True, last=True)

    def inference(image: Tensor) -> Tensor:
        with torch.inference_mode():
            return fast(image)

    found = {
        "as trained, NCHW": of(),
        "folded": of(fold=True),
        "channels_last": of(last=True),
        "folded, channels_last": fast,
        "and inference mode": inference,
        "and bf16": of(fold=True, last=True, bf16=True),
    }
    return found | ({"and compiled": of(fold=True, last=True, compiled=True)} if compiled else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--size", type=int, default=256, help="pixels an axis of the images that are timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile too; needs a C++ compiler")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    model = Segmenter.load(options.model)
    workspace = Workspace(recipes.read(options.recipe, []))
    slices = DataLoader(Samples(workspace.store, workspace.split(0).validation), 8)
    asks = ways(model.network, options.compile)
    image = torch.randn(8, 1, options.size, options.size)
    times: dict[str, list[float]] = {name: [] for name in asks}
    for _ in range(options.rounds + 1):
        for name, ask in asks.items():
            started = time.perf_counter()
            ask(image)
            times[name].append(time.perf_counter() - started)
    rows: list[dict[str, Any]] = []
    first = next(iter(asks))
    expected = [asks[first](image) for image, _, _ in slices]
    targets = torch.cat([target for _, target, _ in slices])
    classes = torch.cat([logits.argmax(1) for logits in expected])
    largest = max(float(logits.abs().amax()) for logits in expected)
    print(f"{options.model}: {len(targets)} validation slices; times: 8 x {options.size} x {options.size}")
    for name, ask in asks.items():
        answers = [ask(image) for image, _, _ in slices]
        differs = max(float((a - b).abs().amax()) for a, b in zip(answers, expected, strict=True)) / largest
        found = torch.cat([logits.argmax(1) for logits in answers])
        kept = float((found == classes).float().mean())
        last = model.labels.classes - 1
        both, sums = ((found == last) & (targets == last)).sum(), (found == last).sum() + (targets == last).sum()
        seconds = statistics.median(times[name][1:])
        ratio = statistics.median(a / b for a, b in zip(times[name][1:], times[first][1:], strict=True))
        row = {"way": name, "seconds": seconds, "ratio": ratio, "difference": differs, "same": kept}
        rows.append(row | {"dice": float(2 * both / sums)})
        print(
            f"{name:24} {1000 * seconds:8.0f} ms {ratio:5.2f} x   differs by {differs:.1e}, "
            f"{100 * kept:.3f} % the same, Dice {rows[-1]['dice']:.4f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""How near a network's step comes to what this machine can do.

    .venv/bin/python benchmarks/limits.py [--size 256] [--rounds 5] [--json FILE]

The machine's convolution rate is the best of some dense 3 x 3 convolutions (multiply-adds a second), its memory
bandwidth that of copying 256 MiB (bytes read and written a second). A network's limit is its counted multiply-adds at
that rate: forward once, and twice more backward. What is left is memory traffic (norms, activations, resizing),
depthwise convolutions, which have little to compute on what they read, and overhead.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hlfd import SegmentationLoss, plugins
from hlfd.cost import multiply_adds
from hlfd.machine import keep_freed_memory

NETWORKS = {
    "unetpp": {"width": 64},
    "unet": {"width": 32},
    "unet_resnet18": {},
    "unet_mobilenetv2": {},
    "enet": {},
}
BATCH, LOSS = 4, SegmentationLoss()


def seconds(do: Callable[[], Any], rounds: int) -> float:
    do()
    times: list[float] = []
    for _ in range(rounds):
        started = time.perf_counter()
        do()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def convolution_rate(rounds: int) -> float:
    """Multiply-adds a second."""
    best = 0.0
    for channels, size in ((64, 96), (128, 64), (256, 32)):
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
        image = torch.randn(4, channels, size, size).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            best = max(best, 4 * channels**2 * 9 * size**2 / seconds(lambda c=conv, x=image: c(x), rounds))
    return best


def bandwidth(rounds: int) -> float:
    """Bytes a second, read and written."""
    a = torch.zeros(2**28, dtype=torch.uint8)
    b = torch.ones_like(a)
    return 2 * a.numel() / seconds(lambda: b.copy_(a), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="pixels an axis")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    keep_freed_memory()
    rate, bytes_a_second = convolution_rate(options.rounds), bandwidth(options.rounds)
    print(f"{torch.get_num_threads()} threads: {rate / 1e9:.1f} G multiply-adds/s, {bytes_a_second / 1e9:.1f} GB/s")
    rows: list[dict[str, Any]] = [{"rate": rate, "bandwidth": bytes_a_second}]
    image = torch.randn(BATCH, 1, options.size, options.size).contiguous(memory_format=torch.channels_last)
    target = torch.randint(3, (BATCH, options.size, options.size))
    for name, extra in NETWORKS.items():
        network = plugins.load("networks", name, in_channels=1, classes=3, dims=2, **extra)
        network.to(memory_format=torch.channels_last)
        work = BATCH * multiply_adds(network, (options.size, options.size))
        with torch.no_grad():
            forward = seconds(lambda net=network: net(image), options.rounds)
        limit = work / rate
        row = {"network": name, "multiply_adds": work // BATCH, "forward": forward, "forward_limit": limit}
        shown = f"forward {1000 * forward:8.0f} ms, limit {1000 * limit:8.0f} ms ({limit / forward:4.0%})"
        if name != "unetpp":  # the teacher is never trained by the student's step
            step = seconds(lambda net=network: LOSS(net(image)["logits"], target).backward(), options.rounds)
            row |= {"step": step, "step_limit": 3 * limit}
            shown += f"; step {1000 * step:8.0f} ms, limit {3000 * limit:8.0f} ms ({3 * limit / step:4.0%})"
        rows.append(row)
        print(f"{name:17} {work / BATCH / 1e9:7.2f} G an image  {shown}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

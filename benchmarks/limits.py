"""How near a network's step comes to what this machine can do.

    .venv/bin/python benchmarks/limits.py [--size 256] [--rounds 5] [--json FILE]

The machine's convolution rate is the best of some dense 3 x 3 convolutions (multiply-adds a second), its memory
bandwidth that of copying 256 MiB (bytes read and written a second). Every operation that PyTorch runs, forward and
backward, is counted: its multiply-adds, and the bytes of what it reads and writes. Its limit is the slower of both at
the machine's rates, and a network's the sum over its operations, run one by one as they are: fusing them could do
better, and so does what still lies in the processor's cache.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hlfd import SegmentationLoss, plugins
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


class Counter(TorchDispatchMode):
    """Counts the operations that run in it: (multiply-adds, bytes read and written) of each."""

    def __init__(self):
        super().__init__()
        self.operations: list[tuple[float, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if not func.is_view:
            if func is torch.ops.aten.convolution_backward.default:  # PyTorch's own count forgets the groups
                gradient, image, weight, transposed, wanted = *args[:3], args[7], args[10]
                work = (image if transposed else gradient).numel() * weight[0].numel() * sum(wanted[:2])
            else:
                count = flop_registry.get(func.overloadpacket)
                work = count(*args, **kwargs, out_val=found) / 2 if count else 0.0
            read = {id(x): x.nbytes for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
            written = {id(x): x.nbytes for x in tree_leaves(found) if isinstance(x, Tensor)}
            self.operations.append((work, float(sum(read.values()) + sum(written.values()))))
        return found

    def limits(self, rate: float, bytes_a_second: float) -> dict[str, float]:
        """Seconds of computing alone, of moving alone, and of the slower of both in each operation."""
        computing = [work / rate for work, _ in self.operations]
        moving = [moved / bytes_a_second for _, moved in self.operations]
        both = sum(map(max, computing, moving))
        return {"computing": sum(computing), "moving": sum(moving), "limit": both}


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

        def forward(net: nn.Module = network) -> None:
            with torch.no_grad():
                net(image)

        def step(net: nn.Module = network) -> None:
            LOSS(net(image)["logits"], target).backward()

        row: dict[str, Any] = {"network": name}
        rows.append(row)
        for what, do in (("forward", forward), ("step", step)):
            if (name, what) == ("unetpp", "step"):  # the teacher is never trained by the student's step
                continue
            with Counter() as counter:
                do()
            taken, limits = seconds(do, options.rounds), counter.limits(rate, bytes_a_second)
            row[what] = {"seconds": taken, "multiply_adds": sum(work for work, _ in counter.operations), **limits}
            row[what]["bytes"] = sum(moved for _, moved in counter.operations)
            told = ", ".join(f"{key} {1000 * value:.0f}" for key, value in limits.items())
            counted = f"{row[what]['multiply_adds'] / 1e9:7.1f} G multiply-adds, {row[what]['bytes'] / 1e9:6.2f} GB"
            share = f"{limits['limit'] / taken:4.0%}"
            print(f"{name:17} {what:8} {counted}: {1000 * taken:7.0f} ms; ms of {told} ({share})", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

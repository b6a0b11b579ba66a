"""What it saves that the C library keeps large freed blocks (`hlfd.machine.keep_freed_memory`).

    .venv/bin/python benchmarks/allocation.py [--rounds 3]

Training steps (forward, segmentation loss, backward) in processes of their own, with and without it in turn, one
thread. Processor time of a step, medians of medians, so that a busy machine counts less; and the process's page
faults.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch

from hlfd import SegmentationLoss, plugins
from hlfd.machine import keep_freed_memory

CASES = {"unet_mobilenetv2, 4 x 256 x 256": ("unet_mobilenetv2", 2, 256, 4), "unet 8, 48 x 48 x 48": ("unet", 3, 48, 1)}


def one(name: str, dims: int, size: int, images: int) -> None:
    torch.set_num_threads(1)
    options = {"width": 8} if name == "unet" else {}
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    network = plugins.load("networks", name, in_channels=1, classes=3, dims=dims, **options).to(memory_format=layout)
    image = torch.randn(images, 1, *[size] * dims).contiguous(memory_format=layout)
    target, loss, times = torch.randint(3, (images, *[size] * dims)), SegmentationLoss(), list[float]()
    for _ in range(4):
        started = time.process_time()
        loss(network(image)["logits"], target).backward()
        times.append(time.process_time() - started)
    print(statistics.median(times[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_minflt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        if options.one[0] == "kept" and not keep_freed_memory():
            raise SystemExit("this C library can't keep freed memory")
        one(*CASES[options.one[1]])
        return
    for case in CASES:
        found: dict[str, list[list[float]]] = {"as it is": [], "kept": []}
        for _ in range(options.rounds):
            for way, results in found.items():
                command = [sys.executable, __file__, "--one", way, case]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results.append([float(value) for value in output.split()])
        for way, results in found.items():
            seconds, faults = (statistics.median(column) for column in zip(*results, strict=True))
            print(f"{case:32} {way:10} {1000 * seconds:8.0f} ms a step, {faults:10,.0f} page faults", flush=True)


if __name__ == "__main__":
    main()

"""What memory format, precision and threads cost in one training step: forward, backward, Adam.

    .venv/bin/python benchmarks/training_step.py [--size 96] [--rounds 7] [--json FILE]

The settings run in turn, round by round, so that a machine whose speed drifts slows all of them alike. The figure is
the median; ratios are to float32 in PyTorch's default format, the usual way.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from hlfd import SegmentationLoss, plugins

NETWORKS = {
    "teacher unet 24": ("unet", {"width": 24}),
    "student unet 4": ("unet", {"width": 4}),
    "student unet_mobilenetv2": ("unet_mobilenetv2", {}),
}
SETTINGS = {
    "contiguous fp32": (torch.contiguous_format, False),
    "channels_last fp32": (torch.channels_last, False),
    "channels_last bf16": (torch.channels_last, True),
}


class Step:
    """One network in one setting, with its own optimiser."""

    def __init__(self, name: str, options: dict[str, int], memory_format: torch.memory_format, bf16: bool, size: int):
        torch.manual_seed(0)
        network = plugins.load("networks", name, in_channels=1, classes=3, dims=2, **options)
        self.network: nn.Module = network.to(memory_format=memory_format)
        self.image = torch.randn(8, 1, size, size).contiguous(memory_format=memory_format)
        self.target = torch.randint(3, (8, size, size))
        self.loss, self.bf16 = SegmentationLoss(), bf16
        self.optimizer = torch.optim.Adam(self.network.parameters())

    def __call__(self) -> float:
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits = self.network(self.image)["logits"]
        self.optimizer.zero_grad()
        self.loss(logits, self.target).backward()
        self.optimizer.step()
        return (time.perf_counter() - started) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="pixels an axis; the batch is 8")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    steps = {
        (network, setting): Step(name, extra, *SETTINGS[setting], options.size)
        for network, (name, extra) in NETWORKS.items()
        for setting in SETTINGS
    }
    for step in steps.values():
        step()
    times: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for _ in range(options.rounds):
        for key, step in steps.items():
            times[key].append(step())
    medians = {key: statistics.median(values) for key, values in times.items()}
    print(f"8 x 1 x {options.size} x {options.size}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for (network, setting), ms in medians.items():
        print(f"{network:26} {setting:20} {ms:8.1f} ms   {ms / medians[network, 'contiguous fp32']:.2f} x")
    if options.json:
        rows = [{"network": n, "setting": s, "ms": ms} for (n, s), ms in medians.items()]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

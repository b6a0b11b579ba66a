"""What a network costs to run: multiply-adds and time per slice, here and now."""

import statistics
import time
from collections.abc import Mapping

import torch
from torch.utils.flop_counter import FlopCounterMode

from hlfd.distill.features import Tapped


def padded_size(network: Tapped, plane: tuple[int, int]) -> tuple[int, int]:
    """The plane that inference feeds for a slice of this size: each axis up to a multiple of the deepest stride."""
    multiple = max(tap.stride for tap in network.info().values())
    rows, columns = (n + -n % multiple for n in plane)
    return rows, columns


@torch.inference_mode()
def multiply_adds(network: Tapped, plane: tuple[int, int]) -> int:
    """Multiply-adds of the convolutions and matrix products for one slice of this size."""
    image = torch.zeros(1, network.in_channels, *padded_size(network, plane))
    with FlopCounterMode(display=False) as counter:
        network.eval().network(image)
    return counter.get_total_flops() // 2


@torch.inference_mode()
def ms_per_slice(networks: Mapping[str, Tapped], plane: tuple[int, int], rounds: int = 15) -> dict[str, float]:
    """Median time of a forward pass of one slice, ms: batch 1, float32, channels_last, all of torch's threads.

    The networks run in turn, round by round, so that a machine whose speed drifts slows all of them alike.
    """
    ready = {}
    for name, network in networks.items():
        image = torch.zeros(1, network.in_channels, *padded_size(network, plane))
        model = network.eval().network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        ready[name] = (model, image.contiguous(memory_format=torch.channels_last))
        model(ready[name][1])
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(rounds):
        for name, (model, image) in ready.items():
            started = time.perf_counter()
            model(image)
            times[name].append((time.perf_counter() - started) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}

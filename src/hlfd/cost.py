"""What a network costs to run: multiply-adds and time, here and now."""

import statistics
import time
from collections.abc import Mapping, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from hlfd.distill.features import Tapped, channels_last


def padded_size(network: Tapped, size: Sequence[int]) -> tuple[int, ...]:
    """What inference feeds for an image of this spatial size: each axis up to a multiple of the deepest stride."""
    multiple = max(tap.stride for tap in network.info().values())
    return tuple(n + -n % multiple for n in size)


@torch.inference_mode()
def multiply_adds(network: Tapped, size: Sequence[int]) -> int:
    """Multiply-adds of the convolutions and matrix products for one image of this spatial size."""
    image = torch.zeros(1, network.in_channels, *padded_size(network, size))
    with FlopCounterMode(display=False) as counter:
        network.eval().network(image)
    return counter.get_total_flops() // 2


@torch.inference_mode()
def ms_per_image(networks: Mapping[str, Tapped], size: Sequence[int], rounds: int = 15) -> dict[str, float]:
    """Median time of a forward pass of one image, ms: batch 1, float32, channels_last, all of torch's threads.

    The networks run in turn, round by round, so that a machine whose speed drifts slows all of them alike.
    """
    ready = {}
    for name, network in networks.items():
        image = torch.zeros(1, network.in_channels, *padded_size(network, size))
        model = network.eval().network.to(memory_format=channels_last(network.dims))  # pyright: ignore[reportCallIssue]
        ready[name] = (model, image.contiguous(memory_format=channels_last(network.dims)))
        model(ready[name][1])
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(rounds):
        for name, (model, image) in ready.items():
            started = time.perf_counter()
            model(image)
            times[name].append((time.perf_counter() - started) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}

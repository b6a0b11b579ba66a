"""Times of several functions, taken in turn, round by round: a machine whose speed drifts slows all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from hlfd.progress import Advance

Key = TypeVar("Key")
Clock = Callable[[], float]


class Times(NamedTuple):
    """Seconds: the median of the rounds, and what 95 of 100 take at most."""

    median: float
    p95: float


def in_turn(
    calls: Mapping[Key, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    clock: Clock = time.perf_counter,
    advance: Advance | None = None,
) -> dict[Key, Times]:
    """Call each once a round, and time it.

    Args:
        warm_up: rounds before, which are not counted.
        clock: seconds; `time.process_time` for a machine that others use.
        advance: called after each call.
    """
    found: dict[Key, list[float]] = {key: [] for key in calls}
    for number in range(warm_up + rounds):
        for key, call in calls.items():
            started = clock()
            call()
            if number >= warm_up:
                found[key].append(clock() - started)
            if advance is not None:
                advance()
    return {key: Times(*map(float, np.percentile(seconds, (50, 95)))) for key, seconds in found.items()}

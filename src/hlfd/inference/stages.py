"""How long each stage of a prediction takes."""

import time
from collections.abc import Generator
from contextlib import contextmanager


class Stages:
    """Seconds of each stage, by the wall clock; a stage that is entered again adds up."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Generator[None]:
        """Count the time of a block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

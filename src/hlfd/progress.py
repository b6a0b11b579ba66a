"""Progress of long work on the terminal."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Paths are long and may hold brackets: no line breaks, no markup.
console = Console(stderr=True, soft_wrap=True, markup=False)

interrupted: list[str] = []
"""What was said of work that was interrupted."""


class Advance(Protocol):
    """Tells a progress bar that some more steps are done."""

    def __call__(self, steps: int = 1) -> None:
        """Count ``steps`` as done."""
        ...


@contextmanager
def progress(what: str, total: int) -> Generator[Advance]:
    """A bar with the count, time passed and time left; without a terminal, one line at the end."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)
        done = 0

        def advance(steps: int = 1) -> None:
            nonlocal done
            done += steps
            bar.advance(task, steps)

        try:
            yield advance
        except KeyboardInterrupt:
            stays = "what is finished stays, the same command continues"
            interrupted.append(f"{what}: interrupted after {done} of {total}; {stays}")
            console.print(interrupted[-1], highlight=False)
            raise
    if not sys.stderr.isatty():
        console.print(f"{what}: {done} of {total}", highlight=False)

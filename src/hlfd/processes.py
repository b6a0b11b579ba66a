"""Worker processes: deaf to Ctrl-C, which is for the parent alone, and gone when the parent is."""

import os
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from signal import SIG_IGN, SIGINT, signal
from threading import Thread
from typing import Any


@contextmanager
def worker_pool(
    workers: int, start: Callable[..., object] | None = None, *arguments: Any
) -> Generator[ProcessPoolExecutor]:
    """Processes to submit work to. At the end they complete what they are at, and begin nothing new.

    Args:
        workers: how many. They need a main module that can be imported (``if __name__ == "__main__":``).
        start, arguments: called in each before its work; picklable.

    Raises:
        OSError: one of them was killed.
    """
    # Spawn: forking a process that has started threads, as torch does, may hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (start, *arguments))
    try:
        yield pool
    except BrokenProcessPool:
        raise OSError("a worker was killed, perhaps for lack of memory (try fewer workers)") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(start: Callable[..., object] | None, *arguments: Any) -> None:
    signal(SIGINT, SIG_IGN)  # so nobody else prints a traceback
    Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start(*arguments)


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()  # whom a kill gives no time to say that it ends
        os._exit(1)

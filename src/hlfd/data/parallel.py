"""Work on the cases of a source, in processes that each hold one case."""

import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from functools import partial
from signal import SIG_IGN, SIGINT, signal
from threading import current_thread, main_thread
from typing import Any, TypeVar

from hlfd.cases import Case, DataSource
from hlfd.errors import InputError
from hlfd.processes import worker_pool
from hlfd.progress import progress

MakeSource = Callable[[], DataSource]
Result = TypeVar("Result")
Do = Callable[[DataSource, Case], Result]


def over_cases(
    what: str, make_source: MakeSource, source: DataSource, cases: Sequence[Case], do: Do[Result], *, workers: int
) -> list[Result]:
    """``do(source, case)`` of every case, with progress; the results in no order.

    Args:
        what: is being done, for the progress.
        make_source: builds the source once in each worker, unless `sent` can send it; picklable, as ``do`` is.
        workers: processes. More than one needs a main module that can be imported (``if __name__ == "__main__":``).

    Raises:
        InputError: cases can't be used; all are named, after the others are done.
        OSError: a worker was killed.
        MemoryError: a case needs more than there is; names it.
    """
    results: list[Result] = []
    problems: list[str] = []
    with (
        progress(what, len(cases)) as advance,
        _pool(min(workers, max(len(cases), 1)), make_source, source) as submit,
    ):
        for future in submit(cases, do):
            try:
                results.append(future.result())
            except InputError as error:
                problems.append(str(error))
            advance()
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise InputError("; ".join(problems[:5]) + more)
    return results


def sent(make_source: MakeSource, source: DataSource) -> MakeSource:
    """What a worker makes its source with: a copy of this one if it pickles, so that nobody looks for files twice."""
    try:
        return partial(pickle.loads, pickle.dumps(source))
    except (pickle.PicklingError, AttributeError, TypeError):  # it holds functions of its own, as most do
        return make_source


_worker_source: DataSource | None = None


def _start_worker(make_source: MakeSource) -> None:
    global _worker_source  # noqa: PLW0603
    import torch

    torch.set_num_threads(1)
    _worker_source = make_source()


def _work(case: Case, do: Do[Any]) -> Any:
    assert _worker_source is not None
    return _named(_worker_source, case, do)


def _named(source: DataSource, case: Case, do: Do[Any]) -> Any:
    try:
        return do(source, case)
    except MemoryError as error:
        raise MemoryError(f"case {case.id}: {error}") from None


Submit = Callable[[Sequence[Case], Do[Any]], Iterator[Future[Any]]]


@contextmanager
def _pool(workers: int, make_source: MakeSource, source: DataSource) -> Generator[Submit]:
    if workers <= 1:

        def one_by_one(cases: Sequence[Case], do: Do[Any]) -> Iterator[Future[Any]]:
            for case in cases:
                future: Future[Any] = Future()
                try:
                    future.set_result(_named(source, case, do))
                except InputError as error:
                    future.set_exception(error)
                yield future

        yield one_by_one
        return
    with worker_pool(workers, _start_worker, sent(make_source, source)) as pool:

        def side_by_side(cases: Sequence[Case], do: Do[Any]) -> Iterator[Future[Any]]:
            largest_first = sorted(cases, key=lambda case: -sum(f.stat().st_size for f in case.image))
            with _no_interrupt():  # the workers start here
                futures = {pool.submit(_work, case, do) for case in largest_first}
            while futures:
                done, futures = wait(futures, return_when=FIRST_COMPLETED)
                yield from done

        yield side_by_side


@contextmanager
def _no_interrupt() -> Generator[None]:
    """Ctrl-C is for the parent alone: processes that start meanwhile inherit that it is ignored, for good.

    So a worker completes the case it is at, and nobody prints a traceback.
    """
    if current_thread() is not main_thread():  # a handler can be set in no other
        yield
        return
    before = signal(SIGINT, SIG_IGN)
    try:
        yield
    finally:
        signal(SIGINT, before)

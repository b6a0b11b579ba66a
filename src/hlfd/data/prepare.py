"""Prepare a data set: every case through `Preprocess` into a `Store`, in parallel, resumable."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from signal import SIG_IGN, SIGINT, signal
from threading import current_thread, main_thread
from typing import Any

from hlfd.cases import Case, DataSource
from hlfd.data import store
from hlfd.data.preprocess import Preprocess
from hlfd.errors import InputError, nearest
from hlfd.io.files import write_json
from hlfd.progress import progress

MakeSource = Callable[[], DataSource]


def prepare(
    make_source: MakeSource, preprocess: Preprocess, root: Path, *, workers: int = 1, unlabelled: bool = False
) -> store.Store:
    """Write all cases of a source into the store at ``root``; cases already there are kept.

    Args:
        make_source: builds the source; it is called once here and once in each worker, so it must be picklable.
        workers: processes, each holding one case in memory. More than one needs a main module that can be imported
            (``if __name__ == "__main__":``).
        unlabelled: also the cases without labels.

    Raises:
        InputError: the store was prepared with other settings, or cases can't be used (all are named; the good ones
            are written first).
    """
    source = make_source()
    settings = {
        "version": store.VERSION,
        "preprocess": preprocess.model_dump(mode="json"),
        "classes": source.labels.classes,
        "raw_labels": {str(k): v for k, v in sorted(source.labels.raw.items())},
    }
    before = store.read_settings(root)
    if before is not None:
        for key, value in settings.items():
            if before.get(key) != value:
                raise InputError(
                    f"{root}: was prepared with {key} = {before.get(key)}, now {value}; choose another folder"
                )
    cases = [case for case in source.cases if unlabelled or case.label is not None]
    if all(case.label is None for case in cases):
        raise InputError(f"source {source.name}: expected cases with labels, none of the {len(source.cases)} has any")
    (root / "cases").mkdir(parents=True, exist_ok=True)
    write_json(root / "store.json", {**settings, "cases": [case.id for case in cases]})

    waiting = [case for case in cases if not store.finished(root, case.id, _source_files(case))]
    problems: list[str] = []
    with (
        progress("preparing", len(waiting)) as advance,
        _pool(min(workers, max(len(waiting), 1)), make_source, source) as submit,
    ):
        for future in submit(waiting, preprocess, root):
            try:
                future.result()
            except InputError as error:
                problems.append(str(error))
            except BrokenProcessPool:
                raise OSError("a worker was killed, perhaps for lack of memory (try fewer workers)") from None
            advance()
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise InputError("; ".join(problems[:5]) + more)
    return store.Store(root)


def case_named(source: DataSource, case_id: str) -> Case:
    """The case of that id. Raises `InputError` with the nearest id there is."""
    for case in source.cases:
        if case.id == case_id:
            return case
    raise InputError(f"source {source.name} has no case '{case_id}'{nearest(case_id, [c.id for c in source.cases])}")


def _prepare_case(source: DataSource, case: Case, preprocess: Preprocess, root: Path) -> None:
    image = preprocess.image(source.read_image(case))
    label = None
    if case.label is not None:
        label = preprocess.label(source.read_label(case))
        image.require_same_grid(label, f"case {case.id}: image and label")
    store.write_case(
        root,
        case,
        image,
        label,
        preprocess=preprocess,
        classes=source.labels.classes,
        source=_source_files(case),
    )


def _source_files(case: Case) -> list[list[Any]]:
    """Names, sizes and times of a case's files: when they change, the case is prepared again."""
    files = [*case.image, *(case.label or ())]
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]


# Worker processes build the source once; a source holds functions, which don't pickle.
_worker_source: DataSource | None = None


def _start_worker(make_source: MakeSource) -> None:
    global _worker_source  # noqa: PLW0603
    import torch

    torch.set_num_threads(1)
    _worker_source = make_source()


def _work(case: Case, preprocess: Preprocess, root: Path) -> None:
    assert _worker_source is not None
    _prepare_case(_worker_source, case, preprocess, root)


Submit = Callable[[list[Case], Preprocess, Path], Iterator[Future[None]]]


@contextmanager
def _pool(workers: int, make_source: MakeSource, source: DataSource) -> Generator[Submit]:
    if workers <= 1:

        def one_by_one(cases: list[Case], preprocess: Preprocess, root: Path) -> Iterator[Future[None]]:
            for case in cases:
                future: Future[None] = Future()
                try:
                    future.set_result(_prepare_case(source, case, preprocess, root))
                except InputError as error:
                    future.set_exception(error)
                yield future

        yield one_by_one
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (make_source,))

    def side_by_side(cases: list[Case], preprocess: Preprocess, root: Path) -> Iterator[Future[None]]:
        with _no_interrupt():  # the workers start here
            futures = {pool.submit(_work, case, preprocess, root) for case in cases}
        while futures:
            done, futures = wait(futures, return_when=FIRST_COMPLETED)
            yield from done

    try:
        yield side_by_side
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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

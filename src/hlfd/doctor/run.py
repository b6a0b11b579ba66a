"""Check a data set: find its cases, read each once in worker processes, apply the checks."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hlfd import plugins
from hlfd.cases import Case, DataSource
from hlfd.data.parallel import sent
from hlfd.doctor.facts import CaseFacts, examine
from hlfd.doctor.registry import DataSet
from hlfd.doctor.report import Report, judge
from hlfd.errors import InputError, collecting
from hlfd.io import nifti
from hlfd.io.files import files_below
from hlfd.labels import Labels
from hlfd.processes import worker_pool
from hlfd.progress import progress
from hlfd.sources import open_source, recognise

MakeSource = Callable[[], DataSource]

_ALL_CASES: Mapping[str, dict[str, Any]] = {"lits": {"unknown_spacing": "keep"}}
"""Options that make a source show what it leaves out by default."""


def check_root(
    root: Path,
    source: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    deep: bool = False,
    against: Path | None = None,
    workers: int | None = None,
) -> Report:
    """Look for what is wrong with a data set.

    Args:
        root: its folder.
        source: the plug-in that reads it; None: as its files look.
        options: of the plug-in, and ``patient_of``, as in a recipe's ``source``.
        deep: read the voxels too, one case a worker at a time.
        against: another data set, to find patients that are in both; reads the voxels of both.
        workers: processes; None: one a core.

    Raises:
        InputError: no such folder or source, an option that the source doesn't have, no case at all.
    """
    workers = workers or os.cpu_count() or 1
    other = None if against is None else recognise(against)  # what can't be done is said before the work
    data = _read(root, source or recognise(root), options or {}, deep=deep or against is not None, workers=workers)
    if against is not None and other is not None:
        data = replace(data, other=_read(against, other, {}, deep=True, workers=workers))
    return judge(data)


def _read(root: Path, name: str, options: Mapping[str, Any], *, deep: bool, workers: int) -> DataSet:
    known = plugins.defaults("sources", name, ("root",))
    options = {k: v for k, v in _ALL_CASES.get(name, {}).items() if k in known} | dict(options)
    make_source = partial(_build, root, name, options)
    if name == "dicom":
        from hlfd.sources.dicom import tree_of

        with suppress(InputError):  # is said where the source is opened
            tree_of(root, workers)
    with collecting() as complaints:
        try:
            source = _open(root, name, options)
        except InputError:
            if not complaints:
                raise
            return DataSet(root, name, Labels({0: 0}, {}, ()), (), deep, tuple(complaints), dicom=_dicom(root, name))
    facts: dict[str, CaseFacts] = {}
    with progress(f"checking {root.resolve().name}", len(source.cases)) as advance:
        for found in _examined(source, make_source, deep, min(workers, len(source.cases))):
            facts[found.case.id] = found
            advance()
    return DataSet(
        root,
        name,
        source.labels,
        tuple(facts[case.id] for case in source.cases),
        deep,
        tuple(complaints),
        _unused(root, source.cases, complaints),
        _dicom(root, name),
    )


def _build(root: Path, name: str, options: Mapping[str, Any]) -> DataSource:
    with collecting():
        return _open(root, name, options)


def _open(root: Path, name: str, options: Mapping[str, Any]) -> DataSource:
    own = dict(options)
    return open_source(name, root, own, own.pop("patient_of", None))


def _dicom(root: Path, source: str) -> tuple[tuple[str, str, str], ...]:
    if source != "dicom":
        return ()
    from hlfd.io import dicom
    from hlfd.sources.dicom import tree_of

    return tuple((found.code, found.series, found.text) for found in dicom.findings(root, tree_of(root)))


def _unused(root: Path, cases: Sequence[Case], complaints: list[str]) -> tuple[Path, ...]:
    """NIfTI files below the root that neither a case nor a complaint is about."""
    used = {path for case in cases for path in (*case.image, *(case.label or ()))}
    found: list[Path] = []
    for path in filter(nifti.suffix_of, files_below(root)) if root.is_dir() else ():
        words = (path.name.split(".")[0], *((str(path.parent),) if path.parent != root else ()))
        named = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words))  # case_1 is not in case_10
        if path not in used and not any(map(named.search, complaints)):
            found.append(path)
    return tuple(found)


# Worker processes build the source once; a source holds functions, which don't pickle.
_worker_source: DataSource | None = None


def _start_worker(make_source: MakeSource) -> None:
    global _worker_source  # noqa: PLW0603
    _worker_source = make_source()


def _work(case: Case, deep: bool) -> CaseFacts:
    assert _worker_source is not None
    return examine(_worker_source, case, deep=deep)


def _examined(source: DataSource, make_source: MakeSource, deep: bool, workers: int) -> Iterator[CaseFacts]:
    if workers <= 1 or (not deep and len(source.cases) < 500):  # starting processes takes longer than that
        for case in source.cases:
            yield examine(source, case, deep=deep)
        return
    with worker_pool(workers, _start_worker, sent(make_source, source)) as pool:
        for future in as_completed([pool.submit(_work, case, deep) for case in source.cases]):
            yield future.result()

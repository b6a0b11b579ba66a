"""Prepare a data set: every case through `Preprocess` into a `Store`, in parallel, resumable."""

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hlfd.cases import Case, DataSource
from hlfd.data import store
from hlfd.data.fingerprint import CaseFacts, case_facts
from hlfd.data.parallel import MakeSource, over_cases
from hlfd.data.preprocess import Preprocess
from hlfd.errors import InputError, nearest
from hlfd.io.files import write_json


def prepare(
    make_source: MakeSource,
    preprocess: Preprocess,
    root: Path,
    *,
    workers: int = 1,
    unlabelled: bool = False,
    plan: Mapping[str, Any] | None = None,
) -> store.Store:
    """Write all cases of a source into the store at ``root``; cases already there are kept.

    Args:
        make_source: builds the source; it is called once here and once in each worker, so it must be picklable.
        workers: processes, each holding one volume in memory. More than one needs a main module that can be imported
            (``if __name__ == "__main__":``).
        unlabelled: also the cases without labels.
        plan: from which the preprocessing was made, to be kept with the store.

    Raises:
        InputError: the store was prepared with other settings, or cases can't be used (all are named; the good ones
            are written first).
    """
    source = make_source()
    settings: dict[str, Any] = {
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
    tumor = list(source.labels.tumor_classes)
    settings |= {"cases": [case.id for case in cases], "tumor_classes": tumor, "plan": plan}
    waiting = [case for case in cases if not store.finished(root, case, read_from(source, case))]
    manifest = root / store.MANIFEST
    if waiting or before != settings:  # without one, whatever happens until the end, the next run writes it
        manifest.unlink(missing_ok=True)
    (root / "cases").mkdir(parents=True, exist_ok=True)
    if before != settings:
        write_json(root / "store.json", settings)
    do = partial(_prepare_case, preprocess=preprocess, root=root)
    over_cases("preparing", make_source, source, waiting, do, workers=workers)
    prepared = store.Store(root)
    if not manifest.exists():
        write_json(manifest, prepared.manifest())
    return prepared


def all_facts(
    make_source: MakeSource, source: DataSource, patients: Collection[str], *, workers: int = 1
) -> list[CaseFacts]:
    """What a fingerprint needs of the labelled cases of these patients. Errors as `prepare`."""
    cases = [case for case in source.cases if case.patient in patients and case.label is not None]
    return over_cases("fingerprint", make_source, source, cases, case_facts, workers=workers)


def case_named(source: DataSource, case_id: str) -> Case:
    """The case of that id. Raises `InputError` with the nearest id there is."""
    for case in source.cases:
        if case.id == case_id:
            return case
    raise InputError(f"source {source.name} has no case '{case_id}'{nearest(case_id, [c.id for c in source.cases])}")


def _prepare_case(source: DataSource, case: Case, preprocess: Preprocess, root: Path) -> None:
    """One volume is in memory at a time, and a slab of what becomes of it."""
    image = source.read_image(case)
    geometry, grid = preprocess.geometry(image), image.like(np.broadcast_to(np.zeros((), np.uint8), image.shape))
    packed, label = store.pack_image(image, preprocess, geometry), None
    del image
    if case.label is not None:
        volume = source.read_label(case)
        grid.require_same_grid(volume, f"case {case.id}: image and label")
        label = store.pack_label(volume, geometry, source.labels.classes)
        del volume
    store.write_case(root, case, packed, label, geometry=geometry, source=read_from(source, case))


def read_from(source: DataSource, case: Case) -> str:
    """A hash of names, sizes and times of a case's files and of how they are read: another one, and the case is
    prepared again. What is kept with the data must not show the names, which can be a patient's.
    """
    files = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in (*case.image, *(case.label or ()))]
    return hashlib.sha256(json.dumps([source.read_with, files]).encode()).hexdigest()

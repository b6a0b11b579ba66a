"""Build a source, with its cases given to their patients."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hlfd import plugins
from hlfd.cases import DataSource
from hlfd.errors import InputError, unreadable
from hlfd.io.files import jsonable

_SAME_VOXELS = {"patients", "regions", "stray_segs", "unknown_spacing", "window_hu", "workers"}
"""Options that don't change what any source reads of a case."""


def open_source(name: str, root: Path, options: Mapping[str, Any], patient_of: str | None = None) -> DataSource:
    """A data source.

    Args:
        name: of the plug-in.
        root: its folder.
        options: of the plug-in.
        patient_of: a JSON file, case -> patient, or a regular expression whose first group (or all of it) finds the
            patient in a case's id; None: as the source says.

    Raises:
        InputError: what the plug-in raises; a case without a patient; a patient with cases both in the part that the
            data set keeps for testing and outside it.
    """
    source: DataSource = plugins.load("sources", name, root, **options)
    source = replace(source, read_with=_read_with(name, dict(options)))
    if patient_of is None:
        return source
    patient = _from_file(Path(patient_of)) if patient_of.endswith(".json") else _from_pattern(patient_of)
    cases = [replace(case, patient=patient(case.id)) for case in source.cases]
    kept = {case.id for case in source.cases if case.patient in source.test and case.label}
    test = frozenset(case.patient for case in cases if case.id in kept)
    for case in cases:
        if case.label and case.patient in test and case.id not in kept:
            raise InputError(f"{root}: patient {case.patient} has cases among the test cases, and {case.id} outside")
    return replace(source, cases=cases, test=test)


def _read_with(name: str, options: dict[str, Any]) -> str:
    """The plug-in's options with their defaults, so that one that is left out and its default are the same."""
    every = plugins.defaults("sources", name) | plugins.options("sources", name, options)
    kept = {key: value for key, value in every.items() if key not in _SAME_VOXELS}
    return json.dumps(jsonable(kept), default=str)  # not sorted: of segments that overlap, the one named last counts


def _from_file(path: Path) -> Callable[[str], str]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"source.patient_of: {path}: no such file") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, "JSON, {CASE: PATIENT}", error) from None
    if not isinstance(found, dict) or not all(isinstance(p, str) for p in found.values()):
        raise InputError(f"{path}: expected {{CASE: PATIENT}}, both as text")

    def patient(case: str) -> str:
        if case not in found:
            raise InputError(f"{path}: doesn't say whose case {case} is")
        return found[case]

    return patient


def _from_pattern(text: str) -> Callable[[str], str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(
            f"source.patient_of: expected FILE.json or a regular expression, got {text!r}: {error}"
        ) from None

    def patient(case: str) -> str:
        match = pattern.search(case)
        found = match and (match[1] if pattern.groups else match[0])
        if not found:
            raise InputError(f"source.patient_of: {text!r} finds no patient in the case {case}")
        return found

    return patient

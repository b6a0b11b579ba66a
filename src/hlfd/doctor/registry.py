"""The list of checks. A check is a small function; what is done about its findings stands beside it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from hlfd.doctor.facts import CaseFacts
from hlfd.labels import Labels

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
WHOLE = ""
"""In the place of a case: the finding is about the data set."""

Found = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class DataSet:
    """All that was read.

    Attributes:
        root: its folder.
        source: name of the plug-in that reads it.
        labels: what the source declares.
        cases: facts of each.
        deep: voxels were read.
        complaints: what the source says of files that make no case.
        unused: NIfTI files below the root that belong to no case.
        dicom: (code, key of the series or nothing, text) of what DICOM headers show.
        other: another data set, to look for the same patients in.
    """

    root: Path
    source: str
    labels: Labels
    cases: tuple[CaseFacts, ...]
    deep: bool
    complaints: tuple[str, ...] = ()
    unused: tuple[Path, ...] = ()
    dicom: tuple[tuple[str, str, str], ...] = ()
    other: "DataSet | None" = None

    @cached_property
    def patient(self) -> Mapping[str, str]:
        """Case -> patient."""
        return {facts.case.id: facts.case.patient for facts in self.cases}


@dataclass(frozen=True)
class Check:
    """One kind of finding.

    Attributes:
        code: its name.
        about: what it looks for.
        severity: ``error``: a command refuses the case, or its figures would be wrong; ``warning``: have a look;
            ``note``: good to know.
        by_default: what we do about it.
        option: what changes that; empty if nothing does.
        find: data set -> (case, what was found), case `WHOLE` for the data set.
        special: source -> (by_default, option), where a source does something else.
    """

    code: str
    about: str
    severity: Severity
    by_default: str
    option: str
    find: Callable[[DataSet], Iterable[tuple[str, str]]]
    special: Mapping[str, tuple[str, str]]

    def remedy(self, source: str) -> tuple[str, str]:
        """What is done about it by default, and the option that changes that."""
        return self.special.get(source, (self.by_default, self.option))


CHECKS: list[Check] = []


def check(
    code: str, severity: Severity, by_default: str, option: str = "", **special: tuple[str, str]
) -> Callable[[Callable[[DataSet], Found]], Callable[[DataSet], Found]]:
    """Put a function on the list that looks at the data set; see `Check`."""

    def add(find: Callable[[DataSet], Found]) -> Callable[[DataSet], Found]:
        assert all(known.code != code for known in CHECKS)
        CHECKS.append(Check(code, find.__doc__ or "", severity, by_default, option, find, special))
        return find

    return add


def check_case(
    code: str, severity: Severity, by_default: str, option: str = "", **special: tuple[str, str]
) -> Callable[[Callable[[CaseFacts, DataSet], Iterator[str]]], Callable[[CaseFacts, DataSet], Iterator[str]]]:
    """As `check`, for a function that looks at one case and gives what it found."""

    def add(find: Callable[[CaseFacts, DataSet], Iterator[str]]) -> Callable[[CaseFacts, DataSet], Iterator[str]]:
        def everywhere(data: DataSet) -> Found:
            for facts in data.cases:
                for text in find(facts, data):
                    yield facts.case.id, text

        everywhere.__doc__ = find.__doc__
        check(code, severity, by_default, option, **special)(everywhere)
        return find

    return add

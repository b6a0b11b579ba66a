"""A report for the terminal: one table, worst first, a row per kind of finding."""

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from hlfd.doctor.registry import SEVERITIES
from hlfd.doctor.report import Finding, Report

_STYLE = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_SHOWN = 3


def report_table(report: Report) -> Group:
    """What was looked at, the findings, and how many there are."""
    data = report.data
    labelled = sum(facts.case.label is not None for facts in data.cases)
    read = "headers and voxels" if data.deep else "headers only (--deep reads the voxels too)"
    cases = f"{len(data.cases)} case{'s' * (len(data.cases) != 1)}, {labelled} with labels"
    counts = [f"{n} {severity}{'s' * (n != 1)}" for severity in SEVERITIES if (n := report.count(severity))]
    lines = [Text(f"{data.root}: source {data.source}, {cases}; {read}")]
    if not counts:
        return Group(*lines, Text("nothing found"))
    return Group(*lines, _table(report.findings), Text(", ".join(counts)))


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=False)
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("found", ratio=1, overflow="fold")
    for _, group in groupby(sorted(findings, key=_place), key=lambda finding: finding.code):
        same = list(group)
        first = same[0]
        told = Text("\n").join([*_texts(same), *_remedy(first)])
        table.add_row(Text(first.severity, _STYLE[first.severity]), first.code, told)
    return table


def _place(finding: Finding) -> tuple[int, str]:
    return SEVERITIES.index(finding.severity), finding.code


def _texts(same: Sequence[Finding]) -> list[Text]:
    """What was found in the first cases; once, where it is the same in all of them."""
    if len(same) > 1 and len({finding.text for finding in same}) == 1:
        cases = [finding.case for finding in same if finding.case is not None]
        more = f" and {len(cases) - _SHOWN} more" if len(cases) > _SHOWN else ""
        return [Text(f"{', '.join(cases[:_SHOWN])}{more}: {same[0].text}" if cases else same[0].text)]
    lines = [Text(f"{finding.case}: {finding.text}" if finding.case else finding.text) for finding in same[:_SHOWN]]
    if len(same) > _SHOWN:
        lines.append(Text(f"... and {len(same) - _SHOWN} more (all of them with --json)"))
    return lines


def _remedy(finding: Finding) -> list[Text]:
    return [Text(f"by default: {finding.by_default}", "dim"), Text(f"instead: {finding.option or 'no option'}", "dim")]

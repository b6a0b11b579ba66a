"""An evaluation for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table

from hlfd.evaluation.protocol import Protocol


def evaluation_table(document: Mapping[str, Any], protocol: Protocol) -> Group:
    """A row per region and metric in 80 columns, the empty cases, and the figures over all cases.

    Args:
        document: contents of ``evaluation.json``.
        protocol: whose metrics to show.
    """
    cases = len(document["cases"])
    table = Table(title=f"Protocol {protocol.name}, {cases} case{'s' * (cases != 1)}", title_justify="left")
    table.add_column("region", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for column in ("mean", "95 % interval", "median", "n", "undefined"):
        table.add_column(column, justify="right", no_wrap=True)
    for region, metrics in document["labels"].items():
        first = region
        for metric in protocol.metrics:
            if (summary := metrics.get(metric)) is None:
                continue
            low, high = summary["low"], summary["high"]
            interval = "-" if low is None else f"{_figure(low)} to {_figure(high)}"
            mean, median = _figure(summary["mean"]), _figure(summary["median"])
            table.add_row(first, metric, mean, interval, median, f"{summary['patients']}", f"{summary['undefined']}")
            first = ""
        table.add_section()
    return Group(table, *_empty(document), *_totals(document))


def _empty(document: Mapping[str, Any]) -> list[str]:
    words = {"both": "both", "reference": "reference only", "prediction": "prediction only (missed)"}
    return [
        f"{region}: empty in " + ", ".join(f"{words[kind]} {count}" for kind, count in counts.items())
        for region, counts in document["empty"].items()
    ]


def _totals(document: Mapping[str, Any]) -> list[str]:
    return [
        f"{region}, all cases: " + ", ".join(f"{name} {_figure(value)}" for name, value in figures.items())
        for region, figures in document["global"].items()
    ]


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"

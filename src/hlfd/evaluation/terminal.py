"""An evaluation for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from hlfd.evaluation.protocol import Protocol

_SIZES = ("rvd", "rvd_evaluator", "abs_rvd", "volume_difference_ml", "abs_volume_difference_ml")
"""Metrics that a missed region is not the worst in: how many were missed stands beside them."""


def evaluation_table(document: Mapping[str, Any], protocol: Protocol) -> Group:
    """A row per region and metric in 80 columns, the figures over all cases, and how many were empty.

    Args:
        document: contents of ``evaluation.json``.
        protocol: whose metrics to show.
    """
    cases = len(document["cases"])
    means = _table(
        f"Protocol {protocol.name}, {cases} case{'s' * (cases != 1)}",
        ("region", "metric"),
        ("mean", "95 % interval", "median", "n", "undef."),
    )
    for region, metrics in document["labels"].items():
        for place, metric in enumerate(metric for metric in protocol.metrics if metric in metrics):
            found = metrics[metric]
            low, high = found["low"], found["high"]
            interval = "-" if low is None else f"{_figure(low)} to {_figure(high)}"
            counts = (str(found["patients"]), str(found["undefined"]))
            missed = document["empty"][region]["prediction"] if metric in _SIZES else 0
            named = f"{metric}, {missed} missed" if missed else metric
            means.add_row(
                "" if place else region, named, _figure(found["mean"]), interval, _figure(found["median"]), *counts
            )
    totals = _table("All cases together", ("region", "figure"), ("value",))
    for region, figures in document["global"].items():
        for place, (name, value) in enumerate(figures.items()):
            totals.add_row("" if place else region, name, _figure(value))
    empty = _table("Empty masks, cases", ("region",), ("both", "reference only", "prediction only: missed"))
    for region, counts in document["empty"].items():
        empty.add_row(region, *(str(counts[kind]) for kind in ("both", "reference", "prediction")))
    return Group(means, totals, empty)


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in left:
        table.add_column(column, no_wrap=True)
    for column in right:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"

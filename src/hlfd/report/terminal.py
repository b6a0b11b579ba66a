"""The comparison's table for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from hlfd.report.tables import remarks


def results_table(results: Mapping[str, Any]) -> Table:
    """A row per model and region, in 80 columns: Dice with its interval, VOE, RVD; parameters and time if known.

    Args:
        results: contents of ``results.json``.
    """
    models = results["models"]
    costs = "parameters" in models[0]
    table = Table(title="Mean over patients, 95 % interval of the mean")
    table.add_column("model", no_wrap=True)
    for column in ("param.", "ms") if costs else ():
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("region", no_wrap=True)
    for column in ("Dice", "interval", "VOE", "RVD"):
        table.add_column(column, justify="right", no_wrap=True)
    missed = [
        f"{region} of {model['name']}: {count} of {model['tests']}"
        for model in models
        for region, count in (model.get("missed") or {}).items()
        if count
    ]
    table.caption = "\n".join([*remarks(models), *([f"Missed, RVD -1: {', '.join(missed)}"] if missed else [])]) or None
    table.caption_justify = "left"
    for model in models:
        first = [model["name"]]
        if costs:
            first += [_count(model["parameters"]), f"{model['ms_per_slice']:.1f}"]
        for row, (region, metrics) in enumerate(model["labels"].items()):
            dice = metrics["dice"]
            interval = "-" if dice["low"] is None else f"{dice['low']:.3f}-{dice['high']:.3f}"
            rest = [
                _figure(dice["mean"]),
                interval,
                _figure(metrics["voe"]["mean"]),
                _figure(metrics["rvd"]["mean"], "+"),
            ]
            table.add_row(*(first if row == 0 else [""] * len(first)), region, *rest)
        table.add_section()
    return table


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number / 1e3:.0f} k"


def _figure(value: float | None, sign: str = "") -> str:
    if value is None:
        return "-"
    return f"{value:{sign}.3f}" if abs(value) < 10 else f"{value:{sign}.0f}"  # wide figures would squeeze the interval

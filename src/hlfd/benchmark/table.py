"""A benchmark for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

WIDE = 110
"""Columns from which on the table says more."""


def benchmark_table(document: Mapping[str, Any], width: int) -> Group:
    """A row for each model, way and number of threads, in 80 columns; in `WIDE` ones also how far it is from PyTorch.

    Args:
        document: contents of ``benchmark.json``.
        width: of the terminal, in columns.
    """
    wide = width >= WIDE
    batches: list[int] = document["settings"]["batches"] if wide else document["settings"]["batches"][:3]
    look: dict[str, Any] = {} if wide else {"padding": 0, "show_edge": False}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title=_title(document), **look)
    table.add_column("model, way", no_wrap=True, max_width=None if wide else 20)
    numbers = ["thr.", "ms/slice", "p95", "s/vol."]
    numbers += [f"img/s, {b}" if wide else f"/s,{b}" for b in batches]
    numbers += ["file", "memory"] + (["ready s", "max. diff.", "changed"] if wide else [])
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    for model in document["models"]:
        table.add_row(Text(model["name"], style="bold"))
        for way in model["ways"]:
            once = [_figure(way["file_mib"]), _figure(way["peak_mib"])]
            if wide:
                once += [_figure(way["ready_s"]), _small(way["max_difference"]), _share(way.get("labels_changed"))]
            for place, run in enumerate(way["runs"]):
                times = [_figure(run[key]) for key in ("ms_per_slice", "ms_per_slice_p95", "s_per_volume")]
                rates = [_figure(_rate(run, batch)) for batch in batches]
                row = [str(run["threads"]), *times, *rates]
                table.add_row("" if place else f"  {way['way']}", *row, *([""] * len(once) if place else once))
        table.add_section()
    return Group(table, *_notes(document))


def _title(document: Mapping[str, Any]) -> str:
    machine, volume = document["machine"], document["volume"]
    shape = " x ".join(map(str, volume["shape"]))
    return f"{machine['processor']}, {machine['cores']} cores; volume: {volume['said']}, {shape}"


def _notes(document: Mapping[str, Any]) -> list[Text]:
    lines = [
        "Medians of rounds in turn; /s: images a second in batches of that size; file, memory: MiB, memory of one "
        "image on its way, without the libraries.",
    ]
    for model in document["models"]:
        size = " x ".join(map(str, model["image"]))
        kind = "patch" if model["dims"] == 3 else "slice" if model["channels"] == 1 else "slice with neighbours"
        what = [f"{model['name']}: {model['network']}", f"{kind} of {size}"]
        if model["parameters"] is not None:
            what.append(f"{_count(model['parameters'])} parameters")
            what.append(f"{_count(model['multiply_adds_per_slice'])} multiply-adds a slice")
        lines.append(", ".join(what))
        lines += [f"{model['name']}: no {name}: {reason}" for name, reason in model["left_out"].items()]
    return [Text(line, style="dim") for line in lines]


def _rate(run: Mapping[str, Any], batch: int) -> float | None:
    rates = run["images_per_s"]
    return rates.get(batch, rates.get(str(batch)))


def _figure(value: float | None) -> str:
    """Three significant digits, no exponent."""
    if value is None:
        return "-"
    for limit, digits in ((99.95, 0), (9.995, 1), (0.9995, 2)):
        if value >= limit:
            return f"{value:.{digits}f}"
    return f"{value:.3f}"


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.1g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2g} %"


def _count(number: float) -> str:
    for limit, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= limit:
            return f"{number / limit:.3g}{prefix}"
    return f"{number:g}"

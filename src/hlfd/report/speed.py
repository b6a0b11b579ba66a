"""A benchmark as a chart: time of a slice of every model and way, in a report or as a picture of its own."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.colors import is_color_like, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from hlfd.errors import InputError, unreadable
from hlfd.io.files import write_atomic
from hlfd.report.figures import _GRID, _INK, _MODEL, _MUTED, _STYLE, _SURFACE, SLOTS, _axes, _svg, _tick
from hlfd.report.tables import Cell, Table, short

_WIDTH_PX, _ROW_PX, _GAP_PX, _LEFT_PX, _RIGHT_PX, _BOTTOM_PX = 560, 21, 12, 128, 48, 40
_PAPER = {
    **{_INK: "#16202c", _MUTED: "#586577", _GRID: "#e1e5eb", _SURFACE: "#ffffff"},
    **dict(
        zip(
            _MODEL,
            ("#4b5666", "#0067a8", "#c24a00", "#00795c", "#a83f86", "#8a6400", "#5a50c8", "#9c2b2b"),
            strict=False,
        )
    ),
}


@dataclass(frozen=True)
class Bar:
    """One line of the chart: a way to run a model, with the most threads that were measured.

    Attributes:
        model, slot: its model and that one's colour.
        way: for example ``onnxruntime-int8``.
        ms, p95: of a slice.
        run: what else was measured.
        once: what doesn't depend on threads.
    """

    model: str
    slot: int
    way: str
    ms: float
    p95: float
    run: Mapping[str, Any]
    once: Mapping[str, Any]


def read_benchmark(path: Path) -> dict[str, Any]:
    """Contents of a ``benchmark.json``, empty if there is none. Raises `InputError` if it isn't one."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise unreadable(path, "the file of a benchmark", error) from None
    try:
        bars(found, {})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return found


def bars(document: Mapping[str, Any], slots: Mapping[str, int]) -> list[Bar]:
    """The lines of a chart, model by model.

    Args:
        document: contents of ``benchmark.json``.
        slots: model -> colour; another model takes the next.

    Raises:
        InputError: not such a document.
    """
    taken = dict(slots)
    try:
        if document["version"] != 1:
            raise InputError(f"benchmark: expected version 1, got {document['version']}")
        for model in document["models"]:
            taken.setdefault(model["name"], len(taken) % SLOTS)
        return [
            Bar(
                model["name"],
                taken[model["name"]],
                way["way"],
                float(run["ms_per_slice"]),
                float(run["ms_per_slice_p95"]),
                run,
                way,
            )
            for model in document["models"]
            for way in model["ways"]
            for run in [max(way["runs"], key=lambda run: run["threads"])]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise error if isinstance(error, InputError) else InputError(f"benchmark: not one of ours, {error!r}") from None


def chart(found: Sequence[Bar]) -> Markup:
    """The chart for a page, in its colours."""
    spoken = "; ".join(f"{bar.model} {bar.way} {bar.ms:.3g} ms" for bar in found)
    with rc_context(_STYLE):
        return _svg(_figure(found), f"Milliseconds for a slice: {spoken}")


def table(found: Sequence[Bar]) -> Table:
    """The figures beside the chart."""
    headers = (
        ("ms per slice", "median"),
        ("95 %", "of slices, ms"),
        ("Volume", "s"),
        ("Images a second", "best batch"),
        ("File", "MiB"),
        ("Memory", "MiB, peak"),
    )
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    for bar in found:
        rate = max(bar.run["images_per_s"].values(), default=None)
        values = (bar.ms, bar.p95, bar.run["s_per_volume"], rate, bar.once["file_mib"], bar.once["peak_mib"])
        rows.append((f"{bar.model}, {bar.way}", tuple(Cell(short(value)) for value in values)))
    return Table(headers, tuple(rows))


def require_picture(path: Path) -> str:
    """``png`` or ``svg``, as the name ends. Raises `InputError` for any other name."""
    form = path.suffix.lower().removeprefix(".")
    if form not in ("png", "svg"):
        raise InputError(f"{path}: expected a name that ends in .png or .svg")
    return form


def write_picture(document: Mapping[str, Any], path: Path) -> Path:
    """The chart as a PNG or SVG file on white.

    Raises:
        InputError: another suffix.
    """
    form = require_picture(path)
    buffer = io.BytesIO()
    with rc_context(_STYLE):
        figure = _figure(bars(document, {}))
        for artist in figure.findobj():
            _recolour(artist)
        figure.savefig(buffer, format=form, dpi=160, facecolor="white")
    return write_atomic(path, buffer.getvalue())


def _recolour(artist: Any) -> None:
    """A page's stand-in colours to those of paper."""
    for part in ("color", "markeredgecolor", "edgecolor"):
        if hasattr(artist, f"set_{part}") and hasattr(artist, f"get_{part}"):
            found = getattr(artist, f"get_{part}")()
            if is_color_like(found) and to_hex(found) in _PAPER:
                getattr(artist, f"set_{part}")(_PAPER[to_hex(found)])


def _figure(found: Sequence[Bar]) -> Figure:
    """A point for the median and a line to the 95th percentile, on a logarithmic axis, models one below the other."""
    models = list(dict.fromkeys(bar.model for bar in found))
    height = (len(found) + len(models)) * _ROW_PX + len(models) * _GAP_PX + _BOTTOM_PX
    figure, axes = _axes(_WIDTH_PX, height, left=_LEFT_PX, right=_RIGHT_PX, top=4, bottom=_BOTTOM_PX)
    ends = [value for bar in found for value in (bar.ms, bar.p95)]
    axes.set(xscale="log", xlim=(min(ends) / 1.3, max(ends) * 1.3), ylim=(height - _BOTTOM_PX, 0))
    y, places = 0.0, list[float]()
    for model in models:
        y += _GAP_PX + _ROW_PX / 2
        own = [bar for bar in found if bar.model == model]
        colour, left = _MODEL[own[0].slot], (4 - _LEFT_PX) / (_WIDTH_PX - _LEFT_PX - _RIGHT_PX)
        head: dict[str, Any] = {"weight": "bold", "va": "center", "transform": axes.get_yaxis_transform()}
        axes.text(left, y, model, color=colour, **head)
        for bar in own:
            y += _ROW_PX
            axes.plot([bar.ms, bar.p95], [y, y], color=colour, lw=2, alpha=0.5)
            axes.plot([bar.ms], [y], color=colour, marker="o", ms=8, mec=_SURFACE, mew=1.2)
            told: dict[str, Any] = {"textcoords": "offset points", "va": "center", "color": _MUTED, "fontsize": 11}
            axes.annotate(f"{bar.ms:.3g}", (bar.p95, y), (7, 0), **told)
            places.append(y)
        y += _ROW_PX / 2
    axes.set_yticks(places, [bar.way for bar in found])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(ends) / min(ends) < 40 else (1,), numticks=9))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("ms per slice: median, line to 95 %", fontsize=11)
    return figure

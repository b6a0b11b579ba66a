"""Charts as inline SVG. Text stays text and colours are the page's variables, so they follow its font and its theme."""

import hashlib
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import IdentityTransform, ScaledTranslation

from hlfd.report.tables import TEACHER, Model

SLOTS = 12
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "<", ">", "h", "d")
# Stand-ins that matplotlib can parse, exchanged for the page's variables once the SVG is written.
_INK, _MUTED, _GRID, _SURFACE = "#010101", "#020202", "#030303", "#040404"
_MODEL = [f"#0b000{slot:x}" for slot in range(SLOTS)]
_VARIABLES = {
    **{_INK: "--ink", _MUTED: "--muted", _GRID: "--line", _SURFACE: "--card"},
    **{colour: f"--m{slot}" for slot, colour in enumerate(_MODEL)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 1,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "ytick.major.size": 0,
    "xtick.major.size": 4,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
}


def model_slots(models: Sequence[Model], others: Sequence[str] = ()) -> dict[str, int]:
    """Model -> number of its colour and marker, the same in every table, chart and caption.

    The teacher is neutral (0), the student alone 1 and the first HLFD student 2; any other takes the next that is free.
    """
    slots: dict[str, int] = {}
    methods = {str(m["name"]): m.get("method") for m in models}
    for slot, wanted in ((1, "seg"), (2, "hlfd")):
        name = next((n for n, method in methods.items() if method == wanted and n != TEACHER), None)
        if name is not None:
            slots[name] = slot
    if TEACHER in methods:
        slots[TEACHER] = 0
    free = [slot for slot in (1, 2, *range(3, SLOTS), 0) if slot not in slots.values()]
    waiting = [name for name in dict.fromkeys([*methods, *others]) if name not in slots]
    slots |= {name: (free or list(range(SLOTS)))[i % (len(free) or SLOTS)] for i, name in enumerate(waiting)}
    return {name: slots[name] for name in dict.fromkeys([*methods, *others])}


@dataclass(frozen=True)
class Point:
    """A model in the plane of cost and quality; low and high are the interval of the quality, None without one."""

    name: str
    slot: int
    cost: float
    quality: float
    low: float | None
    high: float | None


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both cost and quality, by rising cost; of equals the first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.quality)):
        if not front or point.quality > front[-1].quality:
            front.append(point)
    return front


def scatter(points: Sequence[Point], title: str) -> Markup:
    """Quality against cost (log axis), each model with its interval and, where there is room, its name."""
    with rc_context(_STYLE):
        figure, axes = _axes(440, 270, left=40, right=16, top=14, bottom=34)
        costs = np.array([p.cost for p in points])
        centre, reach = math.sqrt(costs.min() * costs.max()), max(costs.max() / costs.min(), 4.0) ** 0.75
        axes.set(xscale="log", xlim=(centre / reach, centre * reach), ylim=_quality_limits(points))
        axes.xaxis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if reach < 10 else (1, 3) if reach < 40 else (1,), numticks=9)
        )
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(visible=False, axis="x")
        shifts, crowd = _side_by_side([float(axes.transData.transform((c, 0.5))[0]) for c in costs], apart_px=11)
        places = [axes.transData.transform((p.cost, p.quality)) for p in points]
        places = [(float(x) + dx, float(y)) for (x, y), dx in zip(places, shifts, strict=True)]
        front = [places[points.index(point)] for point in pareto(points)]
        if len(front) > 1:  # a step: between two models there is none
            xs, ys = zip(*front, strict=True)
            look: dict[str, Any] = {
                "color": _MUTED,
                "lw": 1.2,
                "ls": (0, (4, 3)),
                "drawstyle": "steps-post",
                "zorder": 1,
            }
            axes.plot(xs, ys, transform=IdentityTransform(), **look)
        names: list[_Name] = []
        # Towards the middle, if the names of both sides have room there; else outwards, if they have room there.
        widest, xs = 8 * max(len(p.name) for p in points) + 11, [x for x, _ in places]
        inwards = max(xs) - min(xs) > 2 * widest
        outwards = not inwards and min(min(xs) - axes.bbox.x0, axes.bbox.x1 - max(xs)) > widest
        for point, dx, (x, y) in zip(points, shifts, places, strict=True):
            place = axes.transData + ScaledTranslation(dx / 72, 0, figure.dpi_scale_trans)
            colour = _MODEL[point.slot]
            if point.low is not None and point.high is not None:
                ends = [point.low, point.high]
                axes.plot([point.cost] * 2, ends, color=colour, lw=2, alpha=0.5, transform=place)
            look = {"ms": 9, "mec": _SURFACE, "mew": 1.2, "marker": _MARKERS[point.slot]}
            axes.plot([point.cost], [point.quality], color=colour, transform=place, **look)
            right = (point.cost <= centre) != outwards
            # Beside its point, and beside the neighbours that stand in the way.
            near = [px for px, py in places if abs(px - x) < 60 and abs(py - y) < 12]
            names.append(_Name(point.name, point.slot, max(near) + 11 if right else min(near) - 11, y, right))
        if crowd <= 3:  # more names than that in one place would hide each other: the legend tells
            _write(axes, names, backed=True, apart=inwards or outwards)
        return _svg(figure, title)


@dataclass(frozen=True)
class Line:
    """A model's values over training steps."""

    name: str
    slot: int
    points: Sequence[tuple[int, float]]


def curves(lines: Sequence[Line], title: str, *, small: bool = False, maxima: bool = False) -> Markup:
    """Lines over training steps; the large form names them at their ends, and marks their maxima if told to."""
    kept = [(line, _thinned(line.points)) for line in lines]
    values = np.concatenate([y for _, (_x, y) in kept])
    with rc_context(_STYLE):
        if small:
            figure, axes = _axes(230, 132, left=38, right=8, top=8, bottom=24)
        else:
            widest = max(len(line.name) for line in lines)
            figure, axes = _axes(440, 270, left=40, right=min(150, 14 + 6.6 * widest), top=14, bottom=34)
        for line, (x, y) in kept:
            axes.plot(x, y, color=_MODEL[line.slot], lw=1.6 if small else 2, solid_joinstyle="round")
            if maxima:
                top = int(np.argmax(y))
                look: dict[str, Any] = {"ms": 7, "mec": _SURFACE, "mew": 1.2, "marker": _MARKERS[line.slot]}
                axes.plot(x[top : top + 1], y[top : top + 1], color=_MODEL[line.slot], clip_on=False, **look)
        if not maxima and values.min() > 0 and values.max() / values.min() > 30:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=4))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(3 if small else 5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
        axes.xaxis.set_major_locator(MaxNLocator(3 if small else 6, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
        axes.grid(visible=False, axis="x")
        if not small:
            axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # settles the limits, which the names' places need
            ends = [axes.transData.transform((x[-1], y[-1])) for _, (x, y) in kept]
            _write(axes, [_Name(n.name, n.slot, px + 8, py, True) for n, (px, py) in zip(lines, ends, strict=True)])
        return _svg(figure, title)


def worth_drawing(points: Sequence[tuple[int, float]]) -> bool:
    """Whether there is a line to see: two finite values."""
    return sum(math.isfinite(value) for _, value in points) >= 2


def _thinned(points: Sequence[tuple[int, float]], most: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values; more than ``most`` of them are averaged in runs of equal length."""
    table = np.array([p for p in points if math.isfinite(p[1])], dtype=np.float64)
    parts = np.array_split(table, min(most, len(table)))
    means = np.array([part.mean(axis=0) for part in parts])
    return means[:, 0], means[:, 1]


def _axes(width: int, height: int, *, left: float, right: float, top: float, bottom: float) -> tuple[Figure, Axes]:
    """A figure of so many pixels (72 an inch, as in SVG) with margins in pixels."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    return figure, figure.add_axes(box)


def _quality_limits(points: Sequence[Point]) -> tuple[float, float]:
    ends = [v for p in points for v in (p.quality, p.low, p.high) if v is not None]
    margin = max(0.04, 0.12 * (max(ends) - min(ends)))
    return max(0.0, min(ends) - margin) - 0.005, min(1.0, max(ends) + margin) + 0.005


def _side_by_side(places_px: Sequence[float], apart_px: float) -> tuple[list[float], int]:
    """Shifts that set points of (almost) the same place side by side, and the size of the largest such group."""
    order = sorted(range(len(places_px)), key=lambda i: places_px[i])
    groups: list[list[int]] = []
    for i in order:
        if groups and places_px[i] - places_px[groups[-1][-1]] < apart_px:
            groups[-1].append(i)
        else:
            groups.append([i])
    shifts = [0.0] * len(places_px)
    for group in groups:
        centre = sum(places_px[i] for i in group) / len(group)
        # In the order they were given, so that equal costs keep the order of the tables.
        for rank, i in enumerate(sorted(group) if len({places_px[i] for i in group}) == 1 else group):
            shifts[i] = centre + (rank - (len(group) - 1) / 2) * apart_px - places_px[i]
    return shifts, max(len(group) for group in groups)


@dataclass(frozen=True)
class _Name:
    """A model's name to be written at a place in pixels, to its right or to its left."""

    text: str
    slot: int
    x: float
    y: float
    right: bool


def _write(
    axes: Axes, names: Sequence[_Name], line_px: float = 15, *, backed: bool = False, apart: bool = True
) -> None:
    """Write names beside their places, moved up or down until none lies on another; those of both sides ``apart``."""
    for sides in ((True,), (False,)) if apart else ((True, False),):
        column = sorted((n for n in names if n.right in sides), key=lambda n: n.y)
        if not column:
            continue
        up, down = [column[0].y], [column[-1].y]
        for name in column[1:]:
            up.append(max(name.y, up[-1] + line_px))
        for name in column[-2::-1]:
            down.append(min(name.y, down[-1] - line_px))
        # Pushing up alone or down alone keeps the distances, so their mean does too, and stays centred.
        heights = [(a + b) / 2 for a, b in zip(up, down[::-1], strict=True)]
        box = axes.bbox
        shift = min(0.0, box.y1 - heights[-1]) or max(0.0, box.y0 + line_px / 2 - heights[0])
        look: dict[str, Any] = {"va": "center", "transform": IdentityTransform()}
        if backed:  # lines pass behind
            look["bbox"] = {"facecolor": _SURFACE, "edgecolor": "none", "pad": 0.5}
        for name, height in zip(column, heights, strict=True):
            side = "left" if name.right else "right"
            axes.text(name.x, height + shift, name.text, color=_MODEL[name.slot], ha=side, **look)


def _tick(value: float, _position: int | None = None) -> str:
    """``2000`` as ``2 k``, ``0.3`` as ``0.3``."""
    for limit, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{prefix}"
    return f"{value:g}"


def _svg(figure: Figure, title: str) -> Markup:
    """The figure as an ``svg`` element for a page: named for screen readers, no ids that could meet another chart's."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    prefix = "c" + hashlib.sha256(title.encode()).hexdigest()[:8]
    used = set(re.findall(r"(?:url\(|href=\")#([\w-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{prefix}", text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    head = f'<svg class="chart" role="img" aria-label="{escape(title)}" {box[0]}'
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return Markup(re.sub(r"^<svg[^>]*>", lambda _: f"{head} {names}>", text))

"""Charts of agreement patient by patient: paired differences, volumes, lesions by size, calibration."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hlfd.evaluation.results import Calibration
from hlfd.report import figures
from hlfd.report.figures import _GRID, _INK, _MARKERS, _MODEL, _MUTED, _STYLE, _SURFACE, _axes, _svg, _tick

SIZES_MM = (0.0, 5.0, 10.0, 20.0, 40.0, math.inf)
_REFERENCE_LINE: dict[str, Any] = {"color": _MUTED, "lw": 1, "ls": (0, (4, 3)), "zorder": 1}


def differences(
    rows: Sequence[tuple[str, int, Sequence[float], tuple[float | None, float | None]]], title: str
) -> Markup:
    """Every patient's difference as a dot, a row a model, with the mean and its interval; right of 0 is better.

    Args:
        rows: (model, slot, differences, (low, high) of the mean's interval).
    """
    row_px, widest = 34, max(len(name) for name, *_ in rows)
    height = row_px * len(rows) + 44
    with rc_context(_STYLE):
        figure, axes = _axes(440, height, left=min(190, 12 + 6.8 * widest), right=14, top=8, bottom=36)
        axes.axvline(0, **_REFERENCE_LINE)
        for place, (_, slot, values, (low, high)) in enumerate(rows):
            # The same little shift for the same patient in every row and every run.
            shift = [0.26 * math.sin(2.4 * i) for i in range(len(values))]
            heights = [place + dy for dy in shift]
            axes.plot(values, heights, ls="", marker="o", ms=4.5, mec="none", color=_MODEL[slot], alpha=0.45)
            if low is not None and high is not None:
                axes.plot([low, high], [place] * 2, color=_INK, lw=2.2, solid_capstyle="butt")
            axes.plot([np.mean(values)], [place], marker=_MARKERS[slot], ms=8, mec=_INK, mew=1.3, color=_MODEL[slot])
        reach = max(0.05, *(abs(v) for _, _, values, _ in rows for v in values)) * 1.08
        axes.set(xlim=(-reach, reach), ylim=(len(rows) - 0.4, -0.6))
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
        for label, (_, slot, *_rest) in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_color(_MODEL[slot])
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(_signed))
        axes.grid(visible=False, axis="y")
        return _svg(figure, title)


def bland_altman(slot: int, pairs: Sequence[tuple[float, float]], title: str, most: float, reach: float) -> Markup:
    """Predicted minus reference volume against their mean, with the bias and the 95 % limits of agreement.

    Bland and Altman 1986, Lancet 327:307.

    Args:
        pairs: (reference, prediction), ml.
        most, reach: the axes' ends, the same for all models: mean volume, and difference either way.
    """
    table = np.asarray(pairs, dtype=np.float64)
    mean, difference = table.mean(1), table[:, 1] - table[:, 0]
    with rc_context(_STYLE):
        figure, axes = _axes(230, 150, left=44, right=8, top=8, bottom=36)
        axes.axhline(0, color=_GRID, lw=1)
        bias, low, high = limits_of_agreement(difference)
        axes.axhline(bias, color=_INK, lw=1.3)
        for end in (low, high):
            axes.axhline(end, **_REFERENCE_LINE)
        axes.plot(mean, difference, ls="", marker="o", ms=5, mec="none", color=_MODEL[slot], alpha=0.6, clip_on=False)
        axes.set(xlim=(0, most * 1.03), ylim=(-reach * 1.05, reach * 1.05))
        axes.set_xlabel("mean, ml", fontsize=11, labelpad=1)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], symmetric=True))
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
        axes.yaxis.set_major_formatter(FuncFormatter(_signed))
        axes.grid(visible=False)
        return _svg(figure, title)


def limits_of_agreement(difference: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Bias, and the bias minus and plus 1.96 standard deviations; the bias thrice for a single case."""
    values = np.asarray(difference, dtype=np.float64)
    bias = float(values.mean())
    half = 1.96 * float(values.std(ddof=1)) if values.size > 1 else 0.0
    return bias, bias - half, bias + half


def detection_by_size(lesions: Mapping[str, tuple[int, Sequence[tuple[float, float]]]], title: str) -> Markup:
    """Share of the reference's lesions that were found, by diameter; the numbers below are how many there are.

    Args:
        lesions: model -> (slot, (diameter in mm, share of the seeds that found it) of each lesion).
    """
    bins = list(itertools.pairwise(SIZES_MM))
    shown = [k for k, (a, b) in enumerate(bins) if any(a <= d < b for _, found in lesions.values() for d, _ in found)]
    with rc_context(_STYLE):
        figure, axes = _axes(440, 270, left=40, right=14, top=14, bottom=62)
        width = 0.7 / max(1, len(lesions))
        for place, (slot, found) in enumerate(lesions.values()):
            for x, k in enumerate(shown):
                values = [hit for d, hit in found if bins[k][0] <= d < bins[k][1]]
                if not values:
                    continue
                at, share = x + (place - (len(lesions) - 1) / 2) * width, sum(values) / len(values)
                axes.plot([at, at], [0, share], color=_MODEL[slot], lw=1.6, alpha=0.5)
                look: dict[str, Any] = {"ms": 8, "mec": _SURFACE, "mew": 1, "marker": _MARKERS[slot], "clip_on": False}
                axes.plot([at], [share], color=_MODEL[slot], **look)
        first = next(iter(lesions.values()))[1] if lesions else ()  # the reference's are the same for every model
        counts = [sum(bins[k][0] <= d < bins[k][1] for d, _ in first) for k in shown]
        names = [
            (f"{a:g} to {b:g}" if math.isfinite(b) else f"{a:g} and more") + f" mm\n{n} lesion{'s' * (n != 1)}"
            for (a, b), n in zip((bins[k] for k in shown), counts, strict=True)
        ]
        axes.set_xticks(range(len(shown)), names)
        axes.set(xlim=(-0.5, len(shown) - 0.5), ylim=(0, 1.02))
        axes.grid(visible=False, axis="x")
        return _svg(figure, title)


def reliability(models: Mapping[str, tuple[int, Calibration]], title: str, least_voxels: int = 50) -> Markup:
    """How often the most probable class was right, against how probable it was; on the diagonal is honest.

    Args:
        models: model -> (slot, its reliability).
        least_voxels: a bin with fewer is left out.
    """
    with rc_context(_STYLE):
        figure, axes = _axes(440, 270, left=40, right=14, top=14, bottom=40)
        axes.plot([0, 1], [0, 1], **_REFERENCE_LINE)
        for slot, found in models.values():
            kept = [i for i, n in enumerate(found.voxels) if n >= least_voxels]
            x = [found.confidence[i] / found.voxels[i] for i in kept]
            y = [found.correct[i] / found.voxels[i] for i in kept]
            look: dict[str, Any] = {"ms": 6, "mec": _SURFACE, "mew": 0.8, "marker": _MARKERS[slot]}
            axes.plot(x, y, color=_MODEL[slot], lw=1.8, clip_on=False, **look)
        lowest = min(
            (found.confidence[i] / n for _, found in models.values() for i, n in enumerate(found.voxels) if n),
            default=0,
        )
        axes.set(xlim=(max(0.0, math.floor(10 * lowest) / 10), 1), ylim=(0, 1.02))
        axes.set_xlabel("probability of the chosen class", fontsize=11, labelpad=2)
        axes.grid(visible=False, axis="x")
        return _svg(figure, title)


def _signed(value: float, _position: int | None = None) -> str:
    text = figures._tick(abs(value))
    return "0" if abs(value) < 1e-12 else ("+" if value > 0 else "−") + text

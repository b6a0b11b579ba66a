"""CT slices with contours and importance maps, as PNG in data URIs."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from scipy import ndimage

Regions = Mapping[str, tuple[int, ...]]

# Colours of regions on grey CT: told apart with any colour vision, and none of them is a model's.
REGION_COLOURS = ("#35d0ff", "#ffb000", "#ff7ac6")
REFERENCE_COLOUR = "#ffffff"
_DPI = 100
_SHADOW: list[patheffects.AbstractPathEffect] = [patheffects.withStroke(linewidth=2.6, foreground="#000000b0")]


@dataclass(frozen=True)
class Box:
    """A part of a slice, in mm from its corner: rows top to bottom, columns left to right."""

    top: float
    bottom: float
    left: float
    right: float


def whole(shape: tuple[int, ...], spacing_mm: tuple[float, float]) -> Box:
    """All of a slice of this shape."""
    return Box(0.0, shape[0] * spacing_mm[0], 0.0, shape[1] * spacing_mm[1])


def focus(
    reference: np.ndarray,
    predictions: Sequence[np.ndarray],
    regions: Regions,
    spacing_mm: tuple[float, float],
    *,
    margin_mm: float = 14.0,
    least_mm: float = 80.0,
) -> Box:
    """The square to enlarge: around the smallest region of the reference, so that a small tumour in a wide organ shows.

    Without any region in the reference it is around the smallest prediction; without that, the whole slice.
    """
    field = whole(reference.shape, spacing_mm)
    present = [mask for ids in regions.values() if (mask := np.isin(reference, ids)).any()]
    present = present or [mask for prediction in predictions if (mask := prediction > 0).any()]
    if not present:
        return field
    mask = min(present, key=np.count_nonzero)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    spans = [
        (float(line[0] * mm), float((line[-1] + 1) * mm)) for line, mm in zip((rows, columns), spacing_mm, strict=True)
    ]
    side = max(least_mm, 2 * margin_mm + max(high - low for low, high in spans))
    side = min(side, field.bottom, field.right)
    starts = [
        min(max((low + high - side) / 2, 0.0), end - side)
        for (low, high), end in zip(spans, (field.bottom, field.right), strict=True)
    ]
    return Box(starts[0], starts[0] + side, starts[1], starts[1] + side)


def body(
    image: np.ndarray, window: tuple[float, float], spacing_mm: tuple[float, float], margin_mm: float = 6.0
) -> Box:
    """The part of a slice that holds the patient: around the largest thing that isn't black, or the whole slice."""
    field = whole(image.shape, spacing_mm)
    labelled: Any = ndimage.label(image > window[0] + 0.05 * (window[1] - window[0]))
    things: np.ndarray = labelled[0]
    if not things.any():
        return field
    largest = 1 + int(np.argmax(np.bincount(things.ravel())[1:]))
    spans = ndimage.find_objects(things)[largest - 1]
    (top, bottom), (left, right) = (
        (max(0.0, part.start * mm - margin_mm), min(end, part.stop * mm + margin_mm))
        for part, mm, end in zip(spans, spacing_mm, (field.bottom, field.right), strict=True)
    )
    return Box(top, bottom, left, right)


def slice_picture(
    image: np.ndarray,
    window: tuple[float, float],
    spacing_mm: tuple[float, float],
    regions: Regions,
    view: Box,
    *,
    labels: np.ndarray,
    reference: np.ndarray | None = None,
    marked: Box | None = None,
    width_px: int = 420,
) -> str:
    """A slice with the contours of ``labels`` in the regions' colours and, dashed, those of the reference.

    Args:
        image: H x W; rows run to posterior, columns to the patient's left.
        window: values shown as black and as white.
        spacing_mm: distance between rows, between columns.
        regions: region -> class indices; one colour each.
        view: the part to show.
        labels: H x W class indices.
        reference: H x W class indices, or None to draw no reference.
        marked: a part to frame; a picture without one counts as enlarged and gets a scale.
        width_px: width of the PNG.
    """
    figure, axes = _canvas(image, window, spacing_mm, view, width_px)
    close = marked is None
    # The reference lies below: it shows where a model differs from it.
    for ids in regions.values() if reference is not None else ():
        assert reference is not None
        contour(axes, np.isin(reference, ids), spacing_mm, REFERENCE_COLOUR, 1.8 if close else 1.1, dashed=True)
    for i, ids in enumerate(regions.values()):
        contour(axes, np.isin(labels, ids), spacing_mm, REGION_COLOURS[i % len(REGION_COLOURS)], 2.4 if close else 1.7)
    if marked is not None:
        size = (marked.right - marked.left, marked.bottom - marked.top)
        axes.add_patch(Rectangle((marked.left, marked.top), *size, fill=False, ec="#ffffffd0", lw=1.1, ls=(0, (2, 2))))
    if close:
        _scale_bar(axes, view)
    else:
        write(axes, "R", 0.03, 0.5, "left")
        write(axes, "L", 0.97, 0.5, "right")
    return _png(figure, Image.Quantize.MEDIANCUT)  # nearly every grey keeps its own entry


def importance_picture(
    image: np.ndarray,
    window: tuple[float, float] | None,
    spacing_mm: tuple[float, float],
    importance: np.ndarray | None,
    target: np.ndarray,
    *,
    width_px: int = 300,
) -> str:
    """A slice, darkened under an importance map scaled to its own range, with the contour of the target.

    Args:
        image: H x W.
        window: values shown as black and as white; the 1st and 99th percentile if None.
        spacing_mm: distance between rows, between columns.
        importance: h x w, spread over the whole slice; None shows the slice alone.
        target: H x W, True in the region to look at.
        width_px: width of the PNG.
    """
    low, high = window or (float(np.percentile(image, 1)), float(np.percentile(image, 99)))
    window = (low, max(high, low + 1e-6))
    field, view = whole(image.shape, spacing_mm), body(image, window, spacing_mm)
    figure, axes = _canvas(image, window, spacing_mm, view, width_px)
    if importance is not None:
        strength = np.nan_to_num(importance.astype(np.float64))
        least, most = float(strength.min()), float(strength.max())
        strength = (strength - least) / (most - least) if most > least else np.zeros_like(strength)
        extent = (field.left, field.right, field.bottom, field.top)
        axes.imshow(
            strength,
            cmap="inferno",
            vmin=0,
            vmax=1,
            extent=extent,
            # What is not looked at stays visible, but dim.
            alpha=0.35 + 0.5 * strength,
            interpolation="bilinear",
        )
        axes.set(xlim=(view.left, view.right), ylim=(view.bottom, view.top))
    contour(axes, target, spacing_mm, REFERENCE_COLOUR, 1.3)
    return _png(figure, Image.Quantize.MAXCOVERAGE)


def _canvas(
    image: np.ndarray, window: tuple[float, float], spacing_mm: tuple[float, float], view: Box, width_px: int
) -> tuple[Figure, Axes]:
    height_px = width_px * (view.bottom - view.top) / (view.right - view.left)
    figure = Figure(figsize=(width_px / _DPI, height_px / _DPI), dpi=_DPI, facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    field = whole(image.shape, spacing_mm)
    extent = (field.left, field.right, field.bottom, field.top)
    axes.imshow(
        np.clip(image, *window), cmap="gray", vmin=window[0], vmax=window[1], extent=extent, interpolation="bicubic"
    )
    axes.set(xlim=(view.left, view.right), ylim=(view.bottom, view.top), aspect="auto")
    return figure, axes


def contour(
    axes: Axes,
    mask: np.ndarray,
    spacing_mm: tuple[float, float],
    colour: str,
    width: float,
    *,
    dashed: bool = False,
) -> None:
    """Draw the border of a boolean mask (rows, columns)."""
    if not mask.any():
        return
    padded = np.pad(mask, 1).astype(np.float64)  # a mask that touches the border has a closed line too
    rows, columns = ((np.arange(n) - 0.5) * mm for n, mm in zip(padded.shape, spacing_mm, strict=True))
    lines = axes.contour(
        columns, rows, padded, [0.5], colors=colour, linewidths=width, linestyles=[(0, (3, 2.2)) if dashed else "solid"]
    )
    lines.set_path_effects(_SHADOW)


def _scale_bar(axes: Axes, view: Box) -> None:
    side = view.right - view.left
    length = next((mm for mm in (100, 50, 20, 10, 5) if mm < 0.35 * side), 1)
    right, y = view.right - 0.04 * side, view.bottom - 0.05 * side
    axes.plot([right - length, right], [y, y], color="white", lw=2, solid_capstyle="butt", path_effects=_SHADOW)
    write(axes, f"{length} mm", 0.96, 0.07, "right")


def write(axes: Axes, text: str, x: float, y: float, side: str) -> None:
    """Write on a slice; ``x`` and ``y`` as shares of its size, from the lower left."""
    axes.text(
        x, y, text, ha=side, va="bottom", color="white", fontsize=13, transform=axes.transAxes, path_effects=_SHADOW
    )


def _png(figure: Figure, palette: Image.Quantize) -> str:
    """The figure as a PNG of 256 colours, which takes half the space or less of one in true colour."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    picture.quantize(256, palette, dither=Image.Dither.NONE).save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

"""preview: a few cases as they are and as a network is shown them, with their labels' outlines, as PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hlfd.cases import Case, DataSource
from hlfd.data import views
from hlfd.data.geometry import Geometry
from hlfd.data.preprocess import AXCODES, Preprocess
from hlfd.data.store import Store
from hlfd.errors import InputError
from hlfd.io.files import replacing
from hlfd.report.pictures import REGION_COLOURS
from hlfd.study.steps import Workspace

_BOX, _PATCH = "#7dff7d", "#ffe14d"


@dataclass(frozen=True)
class Panel:
    """One stack: (slices, rows, columns), what is black and white, its labels, its spacing, and boxes to draw.

    Attributes:
        tumor: the classes to cut at.
        boxes: colour -> first and end voxel, of a part of the stack.
    """

    title: str
    image: np.ndarray
    window: tuple[float, float]
    label: np.ndarray | None
    spacing_mm: Sequence[float]
    tumor: Sequence[int]
    boxes: dict[str, tuple[Any, Any]]


def preview(workspace: Workspace, folder: Path, *, cases: int = 3) -> list[Path]:
    """``CASE.png`` of some cases of a recipe, before and after; nothing is prepared but in memory.

    Args:
        folder: gets the files.
        cases: how many, evenly spread over the data.
    """
    source, preprocess = workspace.source, workspace.preprocess
    return [_draw(folder, case.id, _before_and_after(source, case, preprocess)) for case in _some(source.cases, cases)]


def preview_store(root: Path, folder: Path, *, cases: int = 3) -> list[Path]:
    """``CASE.png`` of some cases of a prepared store, as a network is shown them."""
    store = Store(root)
    written: list[Path] = []
    for case in _some(list(store.cases.values()), cases):
        image, label = store.slices(case.id)
        labels = None if label is None else np.asarray(label[:])
        panel = _after(image[:], labels, case.geometry, store.preprocess, store.tumor_classes)
        written.append(_draw(folder, case.id, [panel]))
    return written


def _some(things: Sequence[Any], count: int) -> list[Any]:
    if not things:
        raise InputError("preview: there is no case")
    places = np.unique(np.linspace(0, len(things) - 1, min(count, len(things))).round().astype(int))
    return [things[i] for i in places]


def _before_and_after(source: DataSource, case: Case, preprocess: Preprocess) -> list[Panel]:
    image, label = source.read_image(case), None
    geometry, upright, tumor = preprocess.geometry(image), image.oriented(AXCODES), source.labels.tumor_classes
    prepared, labels = preprocess.prepared(image, geometry).voxels, None
    if case.label is not None:
        label = source.read_label(case)
        image.require_same_grid(label, f"case {case.id}: image and label")
        labels = preprocess.prepared_label(label, geometry).voxels
    ratio = np.divide(geometry.upright, geometry.resampled)
    box = (np.multiply(geometry.start, ratio), np.multiply(np.add(geometry.start, geometry.shape), ratio))
    turned = None if label is None else label.oriented(AXCODES).voxels
    boxes = {_BOX: box} if geometry.shape != geometry.resampled else {}
    before = Panel("as it is", upright.voxels, preprocess.window_hu, turned, upright.spacing_mm, tumor, boxes)
    return [before, _after(prepared, labels, geometry, preprocess, tumor)]


def _after(
    image: np.ndarray, label: np.ndarray | None, geometry: Geometry, preprocess: Preprocess, tumor: Sequence[int]
) -> Panel:
    spacing = [float(mm) for mm in np.linalg.norm(geometry.affine[:3, :3], axis=0)]
    panel = Panel("as a network is shown it", image, (-1.0, 1.0), label, spacing, tumor, {})
    if preprocess.patch is not None:
        window, key = preprocess.window(image.shape), _key(panel)
        starts = views.overlapping(image.shape, window)
        middles = np.array(starts) + np.array(window) / 2
        nearest = starts[int(np.abs(middles - np.array(key)).max(1).argmin())]
        panel.boxes[_PATCH] = (nearest, np.add(nearest, window))
    return panel


def _key(panel: Panel) -> tuple[int, int, int]:
    """A voxel to cut at: in the middle of the tumour, else of all that is labelled, in the slice that shows most of it.

    Without labels, the middle of the stack.
    """
    if panel.label is None or not panel.label.any():
        slices, rows, columns = panel.image.shape
        return slices // 2, rows // 2, columns // 2
    tumor = np.isin(panel.label, panel.tumor)
    mask = tumor if tumor.any() else panel.label > 0
    k = int(mask.sum((1, 2)).argmax())
    row, column = (int(np.median(places)) for places in np.nonzero(mask[k]))
    return k, row, column


def _draw(folder: Path, case: str, panels: Sequence[Panel]) -> Path:
    """Axial above, coronal below; a column a panel."""
    figure = Figure(figsize=(4.6 * len(panels), 8.4), layout="constrained", facecolor="black")
    grid: Any = figure.subplots(2, len(panels), squeeze=False)
    for column, panel in enumerate(panels):
        key = _key(panel)
        size = " x ".join(map(str, panel.image.shape))
        spacing = " x ".join(f"{mm:.2f}" for mm in panel.spacing_mm)
        for row, (name, axis, shown) in enumerate((("axial", 0, (1, 2)), ("coronal", 1, (0, 2)))):
            axes: Axes = grid[row, column]
            _show(axes, panel, axis, key[axis], shown)
            title = f"{case}, {panel.title}\n{size} voxels, {spacing} mm" if row == 0 else f"{name} {key[axis]}"
            axes.set_title(title, color="white", fontsize=9)
    path = folder / f"{case}.png"
    with replacing(path, ".png") as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
    return path


def _show(axes: Axes, panel: Panel, axis: int, place: int, shown: tuple[int, int]) -> None:
    pixels = np.take(panel.image, place, axis)
    high_mm, wide_mm = (panel.spacing_mm[a] for a in shown)
    up = "lower" if axis == 1 else "upper"  # superior is at the top
    axes.imshow(pixels, cmap="gray", vmin=panel.window[0], vmax=panel.window[1], aspect=high_mm / wide_mm, origin=up)
    if panel.label is not None:
        marked = np.take(panel.label, place, axis)
        for value in np.unique(marked[marked > 0]).tolist():
            colour = REGION_COLOURS[(value - 1) % len(REGION_COLOURS)]
            if min(marked.shape) > 1:
                axes.contour(marked == value, [0.5], colors=[colour], linewidths=1.0)
    for colour, (first, end) in panel.boxes.items():
        if first[axis] <= place < end[axis]:
            (top, left), (bottom, right) = ([float(side[a]) - 0.5 for a in shown] for side in (first, end))
            box = Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, linewidth=1.0)
            axes.add_patch(box)
    axes.set_axis_off()

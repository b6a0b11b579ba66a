"""A preview of a segmented volume: an axial and a coronal slice with contours, as PNG."""

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hlfd.labels import Labels
from hlfd.report.pictures import REGION_COLOURS, contour, whole, write
from hlfd.volume import AXCODES, Volume

HEIGHT_PX, DPI, FOOT_PX = 560, 100, 40


def preview(image: Volume, classes: Volume, labels: Labels, window_hu: tuple[float, float]) -> bytes:
    """Draw the axial and the coronal slice that show most of the last region that was found, the tumour where there is.

    Without any region in the volume they are the middle ones. The patient's right is on the left, as radiologists look.

    Args:
        image: HU.
        classes: class indices on the same grid.
        labels: what they mean: one contour for each region.
        window_hu: HU shown as black and as white.
    """
    upright, found = image.oriented(AXCODES), classes.oriented(AXCODES).voxels
    slice_mm, row_mm, column_mm = upright.spacing_mm
    axial, coronal = (_fullest(found, labels, axis) for axis in (0, 1))
    # The coronal slice from the top down: superior is the first row.
    panels = [
        (upright.voxels[axial], found[axial], (row_mm, column_mm), f"axial {axial + 1} of {len(found)}"),
        (
            upright.voxels[::-1, coronal],
            found[::-1, coronal],
            (slice_mm, column_mm),
            f"coronal {coronal + 1} of {found.shape[1]}",
        ),
    ]
    fields = [whole(pixels.shape, spacing) for pixels, _, spacing, _ in panels]
    widths = [HEIGHT_PX * min(max(field.right / field.bottom, 0.4), 2.5) for field in fields]
    figure = Figure(figsize=(sum(widths) / DPI, (HEIGHT_PX + FOOT_PX) / DPI), dpi=DPI, facecolor="black")
    left, foot = 0.0, FOOT_PX / (HEIGHT_PX + FOOT_PX)
    for (pixels, mask, spacing, title), field, width in zip(panels, fields, widths, strict=True):
        axes = figure.add_axes((left / sum(widths), foot, width / sum(widths), 1 - foot))
        left += width
        axes.set_axis_off()
        shown = np.clip(pixels, *window_hu).astype(np.float32)
        extent = (field.left, field.right, field.bottom, field.top)
        axes.imshow(shown, cmap="gray", vmin=window_hu[0], vmax=window_hu[1], extent=extent, interpolation="bilinear")
        for index, ids in enumerate(labels.regions.values()):
            contour(axes, np.isin(mask, ids), spacing, REGION_COLOURS[index % len(REGION_COLOURS)], 1.6)
        write(axes, "R", 0.03, 0.5, "left")
        write(axes, "L", 0.97, 0.5, "right")
        write(axes, title, 0.03, 0.02, "left")
    for index, name in enumerate(labels.regions):
        colour = REGION_COLOURS[index % len(REGION_COLOURS)]
        figure.text(0.02 + 0.16 * index, foot / 2, name, color=colour, fontsize=13, va="center")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": "hlfd"})
    return buffer.getvalue()


def _fullest(found: np.ndarray, labels: Labels, axis: int) -> int:
    """The place on an axis with most of the last region that is there at all; the middle one if none is."""
    others = tuple(a for a in range(3) if a != axis)
    for ids in reversed([*labels.regions.values()]):
        counts = np.isin(found, ids).sum(axis=others)
        if counts.any():
            return int(counts.argmax())
    return found.shape[axis] // 2

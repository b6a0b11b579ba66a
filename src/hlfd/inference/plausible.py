"""Whether an image looks like those that a model was trained on: warnings, with figures."""

from collections.abc import Sequence

import numpy as np

from hlfd.segmenter import Segmenter
from hlfd.volume import AXCODES, Volume

STEP = 4
"""Every fourth voxel of each axis is looked at."""

AIR_HU, BONE_HU, LEAST_IN_WINDOW, FACTOR = -300, 150, 0.02, 1.5


def doubts(image: Volume, model: Segmenter) -> list[str]:
    """What looks odd about an image (HU, any grid), one line each; nothing if all is as expected.

    Values are compared with what any CT of a body has and with the model's window, spacing with the range of the
    training images, if the model knows it (``facts.training_spacing_mm``: slices, rows, columns).
    """
    found: list[str] = []
    voxels = image.voxels[::STEP, ::STEP, ::STEP]
    low, high = float(voxels.min()), float(voxels.max())
    if low > AIR_HU:
        found.append(f"the lowest value is {low:g} and air has -1000 HU: are these HU?")
    if high < BONE_HU:
        found.append(f"the highest value is {high:g} and bone has hundreds of HU: are these HU?")
    first, last = model.preprocess.window_hu
    share = float(np.count_nonzero((voxels > first) & (voxels < last)) / voxels.size)
    if share < LEAST_IN_WINDOW:
        found.append(f"{100 * share:.2g} % of the voxels lie within the model's window, {first:g} to {last:g} HU")
    known: Sequence[tuple[float, float]] = model.facts.get("training_spacing_mm") or ()
    spacing_mm = image.oriented(AXCODES).spacing_mm
    for what, mm, span in zip(("slices", "rows", "columns"), spacing_mm, known, strict=False):
        least, most = span
        if not least / FACTOR <= mm <= most * FACTOR:
            seen = f"{least:.3g} mm" if most - least < 0.01 else f"{least:.3g} to {most:.3g} mm"
            found.append(f"{what} are {mm:.3g} mm apart, the model was trained on {seen}")
    return found

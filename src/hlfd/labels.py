"""Labels: what the values of a source's label files mean, and what a network predicts from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hlfd.errors import InputError

Task = Literal["tumor", "organ", "both"]


@dataclass(frozen=True)
class Labels:
    """Classes a network predicts, and the regions they are judged on.

    Attributes:
        raw: value in a label file -> class index; 0 is background. A value that is not listed is an error.
        regions: name -> the class indices it is made of. An organ contains its tumour, so with the task ``both``
            ``{"kidney": (1, 2), "tumor": (2,)}``.
        names: class index - 1 -> name, for the foreground classes.
    """

    raw: Mapping[int, int]
    regions: Mapping[str, tuple[int, ...]]
    names: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Number of classes with background: the channels of the logits."""
        return len(self.names) + 1

    def to_classes(self, values: np.ndarray, where: str) -> np.ndarray:
        """Values of a label file as class indices (uint8, same shape). Raises `InputError` for a value not declared."""
        present = values_present(values)
        unknown = [v for v in present.tolist() if v not in self.raw]
        if unknown:
            shown = ", ".join(f"{v:g}" for v in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            raise InputError(f"{where}: unknown label values {shown}; expected only {sorted(self.raw)}")
        classes = np.zeros_like(values, dtype=np.uint8)  # like: in the order of memory, which copyto keeps to
        for value in present.tolist():
            if self.raw[int(value)]:
                np.copyto(classes, np.uint8(self.raw[int(value)]), where=values == value)
        return classes

    def region(self, classes: np.ndarray, name: str) -> np.ndarray:
        """Boolean mask of region ``name`` in an array of class indices."""
        return np.isin(classes, self.regions[name])


def values_present(values: np.ndarray) -> np.ndarray:
    """As `np.unique`, without sorting a volume of small integers, and in little memory."""
    if values.dtype.kind in "iu" and values.size and values.min() >= 0 and values.max() < 1 << 16:
        flat, found = values.ravel(order="K"), np.zeros(int(values.max()) + 1, dtype=np.int64)
        for start in range(0, flat.size, 1 << 20):  # counting makes 8-byte integers: a part of them at a time
            found += np.bincount(flat[start : start + (1 << 20)], minlength=found.size)
        return np.flatnonzero(found)
    return np.unique(values)


def organ_and_tumor(
    task: Task, organ: str, organ_value: int = 1, tumor_value: int | None = 2, ignore: tuple[int, ...] = ()
) -> Labels:
    """Labels of a source with an organ and, unless ``tumor_value`` is None, its tumour.

    Args:
        task: ``tumor`` (binary), ``organ`` (binary, the organ with its tumour) or ``both`` (two classes).
        organ: the organ's name, for example ``kidney``.
        organ_value, tumor_value: their values in the label files.
        ignore: further values in the files that count as background.
    """
    if tumor_value is None and task != "organ":
        raise InputError(f"task '{task}' needs a tumour label and this source has none: use task 'organ'")
    organ_class = 0 if task == "tumor" else 1
    tumor_class = 2 if task == "both" else 1
    raw = {0: 0, **dict.fromkeys(ignore, 0), organ_value: organ_class}
    if tumor_value is not None:
        raw[tumor_value] = tumor_class
    if task == "tumor":
        return Labels(raw, {"tumor": (1,)}, ("tumor",))
    if task == "organ":
        return Labels(raw, {organ: (1,)}, (organ,))
    return Labels(raw, {organ: (1, 2), "tumor": (2,)}, (organ, "tumor"))

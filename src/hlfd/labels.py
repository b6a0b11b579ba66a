"""Labels: what the values of a source's label files mean, and what a network predicts from them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hlfd.errors import InputError, UndeclaredError, nearest

Task = Literal["tumor", "organ", "both"]

LabelValues = dict[str, int | tuple[int, ...]]
"""Name -> its value, or values, in label files; ``background`` names values beside 0 that count as background."""

RegionNames = dict[str, str | tuple[str, ...]]
"""Name of a region -> names of the labels it is made of."""

BACKGROUND = "background"
TUMORS = ("tumor", "tumour", "cancer", "lesion", "mass")
"""What a tumour is called. Where a source knows one organ and its tumour, the organ's region contains it."""

LESION = re.compile(r"(tumou?r|cancer|carcinoma|neoplasm|lesion|masse?|cyst|metastas[ei]|nodule)s?")
"""A word that names lesions."""


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

    @property
    def tumor_classes(self) -> tuple[int, ...]:
        """The classes of the region that is called as a tumour is, the first name of `TUMORS` that one has.

        Without one, the last class. KiTS's ``mass``, which holds cysts too, comes after its ``tumor``.
        """
        found = {name.lower(): region for name, region in self.regions.items()}
        return next((found[name] for name in TUMORS if name in found), (len(self.names),))

    def to_classes(self, values: np.ndarray, where: str) -> np.ndarray:
        """Values of a label file as class indices (uint8, same shape; the array itself where they are that already).

        Raises:
            UndeclaredError: a value that is not declared.
        """
        present = values_present(values)
        unknown = [v for v in present.tolist() if v not in self.raw]
        if unknown:
            shown = ", ".join(f"{v:g}" for v in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            raise UndeclaredError(f"{where}: unknown label values {shown}; expected only {sorted(self.raw)}")
        if all(self.raw[int(v)] == v for v in present.tolist()):
            return values.astype(np.uint8, copy=False)
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


def consists_of_lesions(region: str, classes: Sequence[str]) -> bool:
    """Whether the region's name is that of a lesion, and those of its classes, as far as they have any, are too."""
    parts = re.split(r"(?<![a-z])(?:and|with)(?![a-z])", region.lower())
    named = [name for name in classes if not re.fullmatch(r"label_\d+", name)]
    return all(map(_names_a_lesion, [*parts, *named]))


def _names_a_lesion(name: str) -> bool:
    return any(LESION.fullmatch(word) for word in re.findall("[a-z]+", name.lower()))


def from_names(values: Mapping[str, int | Sequence[int]], regions: RegionNames | None = None) -> Labels:
    """Labels from the names of the values in label files.

    Names that share no value are the classes, in their order, and without ``regions`` each is a region; one organ and
    its tumour (`TUMORS`) are the exception: the organ contains it. Names that share values are regions, as in nnU-Net:
    ``{"kidney_and_mass": (1, 2, 3), "mass": (2, 3), "tumor": 2}``. Each value is then a class, called by the smallest
    region that has it.

    Raises:
        InputError: a value below 0 or above 65535, background's 0 under another name, a name without values, a region
            of unknown labels.
    """
    listed = {name: (v,) if isinstance(v, int) else tuple(v) for name, v in values.items()}
    for name, those in listed.items():
        if not (those or name == BACKGROUND) or not all(0 <= v < 1 << 16 for v in those):
            raise InputError(f"labels.{name}: expected whole numbers from 0 to 65535, got {list(those)}")
    background = {0, *listed.pop(BACKGROUND, ())}
    for name, those in listed.items():
        if background & set(those):
            raise InputError(f"labels.{name}: {min(background & set(those))} is background, expected other values")
    if not listed:
        raise InputError("labels: expected a name beside 'background', got none")
    all_values = [v for those in listed.values() for v in those]
    raw = dict.fromkeys(sorted(background), 0)
    if len(set(all_values)) == len(all_values):
        names = tuple(listed)
        raw |= {v: names.index(name) + 1 for name, those in listed.items() for v in those}
        made_of: Mapping[str, tuple[int, ...]] = {name: (index,) for index, name in enumerate(names, 1)}
        if len(names) == 2 and names[1].lower() in TUMORS and "vessel" not in names[0].lower():
            made_of = {names[0]: (1, 2), names[1]: (2,)}
    else:
        raw |= {v: index for index, v in enumerate(sorted(set(all_values)), 1)}
        names = _names_of_values(listed)
        made_of = {name: tuple(sorted(raw[v] for v in those)) for name, those in listed.items()}
    if len(names) > 255:
        raise InputError(f"labels: expected at most 255 classes, got {len(names)}")
    return Labels(raw, made_of if regions is None else _regions(regions, names), names)


def _names_of_values(listed: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    names: list[str] = []
    for value in sorted({v for those in listed.values() for v in those}):
        name = min((n for n in listed if value in listed[n]), key=lambda n: len(listed[n]))
        names.append(name if name not in names else f"{name}_{value}")
    return tuple(names)


def _regions(regions: RegionNames, names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for region, listed in regions.items():
        parts = (listed,) if isinstance(listed, str) else listed
        for part in parts:
            if part not in names:
                raise InputError(f"regions.{region}: there is no label '{part}'{nearest(part, names)}")
        if not parts:
            raise InputError(f"regions.{region}: expected names of labels, got none")
        found[region] = tuple(sorted({names.index(part) + 1 for part in parts}))
    if not found:
        raise InputError("regions: expected at least one, got none")
    return found


def for_task(labels: Labels, task: Task) -> Labels:
    """What a network learns of them: all (``both``), all together (``organ``), or the class ``tumor`` alone.

    Raises:
        InputError: ``tumor`` without a class of that name.
    """
    if task == "both":
        return labels
    if task == "organ":
        organ = labels.names[0]
        return Labels({v: min(c, 1) for v, c in labels.raw.items()}, {organ: (1,)}, (organ,))
    if "tumor" not in labels.names:
        raise InputError(f"task 'tumor': there is no label 'tumor'{nearest('tumor', labels.names)}")
    chosen = labels.names.index("tumor") + 1
    return Labels({v: int(c == chosen) for v, c in labels.raw.items()}, {"tumor": (1,)}, ("tumor",))


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
    values: LabelValues = {BACKGROUND: ignore, organ: organ_value}
    if tumor_value is not None:
        values["tumor"] = tumor_value
    return for_task(from_names(values), task)

"""What is done to a label map after the network: components that can't be, taken out."""

from collections.abc import Iterable, Mapping
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt

from hlfd.errors import InputError, nearest
from hlfd.labels import Labels, consists_of_lesions
from hlfd.plugins import Section


class Postprocess(Section):
    """Off, unless something is set. Components touch by faces, edges or corners.

    Attributes:
        largest: region -> how many of its largest components stay, with what is in them: ``{"liver": 1}``,
            ``{"kidney": 2}``. The others become background.
        lesions_inside: a lesion stays only if it touches the organ that it is a region of.
        smallest_lesion_mm3: a lesion below this becomes the organ that it touches, or background.
    """

    largest: Mapping[str, PositiveInt] = Field(default_factory=dict)
    lesions_inside: bool = False
    smallest_lesion_mm3: Annotated[float, Field(ge=0)] = 0.0

    def __bool__(self) -> bool:
        return bool(self.largest or self.lesions_inside or self.smallest_lesion_mm3)

    def require_fits(self, labels: Labels) -> None:
        """Raise `InputError` unless these labels have the regions, and lesions or organs where they are needed."""
        for region in self.largest:
            if region not in labels.regions:
                raise InputError(f"postprocess: there is no region '{region}'{nearest(region, labels.regions)}")
        named = ", ".join(labels.regions)
        if self.smallest_lesion_mm3 and not lesion_regions(labels):
            raise InputError(f"postprocess: smallest_lesion_mm3 needs a lesion among the regions, got {named}")
        if self.lesions_inside and not _organs(labels):
            raise InputError(f"postprocess: lesions_inside needs an organ that contains a lesion, got {named}")

    def apply(self, classes: np.ndarray, voxel_mm3: float, labels: Labels) -> np.ndarray:
        """Class indices (three axes) after post-processing: a new array, or the same one if nothing is set."""
        if not self:
            return classes
        self.require_fits(labels)
        cleaned = classes.copy(order="K")
        for region, count in self.largest.items():
            numbers, box, sizes = components(mask_of(cleaned, labels.regions[region]))
            _clear(cleaned[box], numbers, np.argsort(-sizes, kind="stable")[count:])
        organs = _organs(labels)
        if self.lesions_inside:
            for whole, organ in organs.items():
                numbers, box, sizes = components(mask_of(cleaned, whole))
                inside = np.bincount(numbers[mask_of(cleaned[box], organ)], minlength=len(sizes) + 1)[1:]
                _clear(cleaned[box], numbers, np.flatnonzero(inside == 0))
        if self.smallest_lesion_mm3:
            for region in lesion_regions(labels):
                ids = labels.regions[region]
                organ = next((own for whole, own in organs.items() if set(ids) < set(whole)), ())
                _drop_small(cleaned, ids, organ, self.smallest_lesion_mm3 / voxel_mm3)
        return cleaned


def lesion_regions(labels: Labels) -> list[str]:
    """The regions that are lesions: a part of another region, or called so."""
    ids = [set(region) for region in labels.regions.values()]
    return [
        name
        for name, own in labels.regions.items()
        if any(set(own) < other for other in ids) or consists_of_lesions(name, [])
    ]


def _organs(labels: Labels) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Classes of each region that contains others and lies in none -> those of them that are in none of the others."""
    ids = [set(region) for region in labels.regions.values()]
    outer = [own for own in ids if any(other < own for other in ids) and not any(own < other for other in ids)]
    return {tuple(sorted(own)): tuple(sorted(own.difference(*(x for x in ids if x < own)))) for own in outer}


def mask_of(classes: np.ndarray, ids: Iterable[int]) -> np.ndarray:
    """Where class indices (uint8) are among ``ids``; as `np.isin`, faster."""
    table = np.zeros(256, dtype=bool)
    table[list(ids)] = True
    return table[classes]


def components(mask: np.ndarray) -> tuple[np.ndarray, tuple[slice, ...], np.ndarray]:
    """Connected components of a boolean mask with three axes.

    Returns:
        numbers from 1 (int32) within the box around the mask; the box; voxels of each component.
    """
    from scipy import ndimage

    lines = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = tuple(slice(int(line[0]), int(line[-1]) + 1) if line.size else slice(0, 0) for line in lines)
    numbers = np.zeros(mask[box].shape, dtype=np.int32)
    if numbers.size:
        ndimage.label(mask[box], np.ones((3, 3, 3)), output=numbers)
    return numbers, box, np.bincount(numbers.ravel(order="K"), minlength=1)[1:]


def _clear(classes: np.ndarray, numbers: np.ndarray, which: np.ndarray) -> None:
    """Make the components ``which`` (counted from 0) background."""
    gone = np.zeros(int(numbers.max(initial=0)) + 1, dtype=bool)
    gone[which + 1] = True
    classes[gone[numbers]] = 0


def _drop_small(classes: np.ndarray, ids: tuple[int, ...], organ: tuple[int, ...], voxels: float) -> None:
    """Components below a size become the class of the organ that most of their neighbours have, or background."""
    from scipy import ndimage

    numbers, box, sizes = components(mask_of(classes, ids))
    if not sizes.size:
        return
    places = ndimage.find_objects(numbers)
    for index in np.flatnonzero(sizes < voxels):
        inner = tuple(slice(b.start + p.start, b.start + p.stop) for b, p in zip(box, places[index], strict=True))
        near = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in inner)
        before = [i.start - n.start for i, n in zip(inner, near, strict=True)]
        mask = np.zeros(classes[near].shape, dtype=bool)
        mask[tuple(slice(a, a + i.stop - i.start) for a, i in zip(before, inner, strict=True))] = (
            numbers[places[index]] == index + 1
        )
        around = classes[near][ndimage.binary_dilation(mask, np.ones((3, 3, 3))) & ~mask]
        counts = [int((around == own).sum()) for own in organ]
        classes[near][mask] = organ[int(np.argmax(counts))] if any(counts) else 0

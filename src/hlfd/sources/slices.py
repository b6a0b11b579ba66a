"""A folder of 2D slices: ``images/`` and ``masks/`` with equal names, ``case_XXXXX_slice_YYYY.png``."""

import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np

from hlfd.cases import Case, DataSource
from hlfd.errors import InputError, complain
from hlfd.io import images
from hlfd.labels import LabelValues, RegionNames, Task, for_task, from_names, organ_and_tumor
from hlfd.sources import _layouts
from hlfd.volume import Volume

LAYOUT = "images/case_0_slice_0.png, masks/case_0_slice_0.png"
_NAME = re.compile(r"(?P<patient>.+)_slice_(?P<number>\d+)$")


def recognises(root: Path) -> bool:
    """Whether there are images as PNG or NPY, and masks."""
    folder = root / "images"
    return (root / "masks").is_dir() and folder.is_dir() and any(p.suffix in images.SUFFIXES for p in folder.iterdir())


def build(
    root: Path,
    *,
    task: Task = "organ",
    labels: LabelValues | None = None,
    regions: RegionNames | None = None,
    organ: str = "organ",
    organ_value: int = 1,
    tumor_value: int | None = None,
    window_hu: tuple[float, float] = (0.0, 255.0),
) -> DataSource:
    """2D slices as PNG or NPY; all slices of a patient are one case.

    Args:
        root: the folder with ``images/`` and ``masks/``.
        task: what to learn: ``tumor``, ``organ`` (with its tumour) or ``both``.
        labels: name -> value, or values, in the masks, instead of what follows.
        regions: name -> names of the labels it is made of; default: the organ contains its tumour.
        organ: the organ's name in tables.
        organ_value, tumor_value: values in the masks; ``tumor_value`` None: the masks know no tumour.
        window_hu: pixel values mapped to [-1, 1]; 8-bit files usually hold HU cut to 0..255.

    The files carry no spacing: distances and volumes count pixels.
    """
    cases = _cases(_layouts.require_folder(root) / "images", root / "masks")
    broken = [case.id for case in cases if gaps(case)]
    notes: tuple[str, ...] = ()
    if broken:
        shown = ", ".join(broken[:3]) + (", ..." if len(broken) > 3 else "")
        notes = (f"{len(broken)} of {len(cases)} cases lack slices ({shown}): those beside a gap count as neighbours",)
    if labels is None and regions is None:
        declared = organ_and_tumor(task, organ, organ_value, tumor_value)
    else:
        values: LabelValues = {organ: organ_value}
        if tumor_value is not None:
            values["tumor"] = tumor_value
        declared = for_task(from_names(labels or values, regions), task)

    def read_image(case: Case) -> Volume:
        return images.read_stack(case.image)

    def read_label(case: Case) -> Volume:
        assert case.label is not None
        masks: list[np.ndarray] = []
        for image, mask in zip(case.image, case.label, strict=True):
            pixels, expected = images.read_slice(mask), images.read_slice(image).shape
            if pixels.shape != expected:
                raise InputError(f"{mask}: expected the image's shape {expected}, got {pixels.shape}")
            masks.append(declared.to_classes(pixels, str(mask)))
        return Volume(np.stack(masks), images.SLICE_AFFINE)

    return DataSource("slices", cases, declared, window_hu, read_image, read_label, notes)


def _cases(image_folder: Path, mask_folder: Path) -> list[Case]:
    files, drawn = _files(_layouts.require_folder(image_folder)), defaultdict[str, list[Path]](list)
    if not files:
        raise InputError(f"{image_folder}: expected case_XXXXX_slice_YYYY.png or .npy, found none")
    for mask in _files(mask_folder) if mask_folder.is_dir() else []:
        drawn[mask.stem].append(mask)
    patients: dict[str, dict[int, tuple[Path, Path]]] = defaultdict(dict)
    for path in files:
        match, masks = _NAME.match(path.stem), drawn.get(path.stem, [])
        if match is None:
            complain(f"{path}: expected a name like case_XXXXX_slice_YYYY{path.suffix}")
        elif len(masks) > 1:
            complain(f"{masks[1]}: expected one mask for {path.name}, got {masks[0].name} too")
        elif not masks:
            complain(f"{path}: has no mask, expected {mask_folder / path.name}")
        elif (first := patients[match["patient"]].setdefault(int(match["number"]), (path, masks[0]))[0]) != path:
            complain(f"{path}: expected each slice once, got {first.name} too")
    for stem in sorted(drawn.keys() - {path.stem for path in files}):
        complain(f"{drawn[stem][0]}: has no image, expected {image_folder / drawn[stem][0].name}")
    cases: list[Case] = []
    for patient, numbered in sorted(patients.items()):
        images_, masks_ = zip(*(pair for _, pair in sorted(numbered.items())), strict=True)
        cases.append(Case(patient, patient, images_, masks_))
    return cases


def _files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.suffix in images.SUFFIXES and p.name[0] != "."]


def gaps(case: Case) -> list[tuple[int, int]]:
    """Numbers of the slices on either side of each gap: where the next number is farther away than most are."""
    numbers = [int(match["number"]) for path in case.image if (match := _NAME.match(path.stem))]
    steps = np.diff(numbers)
    return [pair for pair, step in zip(pairwise(numbers), steps, strict=False) if step > np.median(steps)]

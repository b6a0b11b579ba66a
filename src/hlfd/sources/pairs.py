"""Two folders of volumes, ``images`` and ``labels``, matched by name."""

from pathlib import Path

from hlfd.cases import Case, DataSource
from hlfd.errors import InputError, complain
from hlfd.labels import LabelValues, RegionNames, from_names
from hlfd.sources import _layouts

LAYOUT = "images/NAME.nii.gz or NAME_0000.nii.gz, labels/NAME.nii.gz"


def recognises(root: Path) -> bool:
    """Whether there are volumes in ``images`` and a folder ``labels``."""
    return (root / "labels").is_dir() and bool(_layouts.nifti_files(root / "images"))


def build(
    root: Path,
    *,
    images: str = "images",
    label_files: str = "labels",
    labels: LabelValues | None = None,
    regions: RegionNames | None = None,
    window_hu: tuple[float, float] = _layouts.ABDOMEN_HU,
) -> DataSource:
    """A folder of volumes and a folder of label maps, matched by name.

    Args:
        root: the folder that both are in.
        images, label_files: names of the two, or their paths. ``NAME.nii.gz``, ``NAME.nii`` and ``NAME_0000.nii.gz``
            go with ``NAME.nii.gz`` or ``NAME.nii``.
        labels: name -> value, or values, in the label maps; default: ``{foreground: 1}``.
        regions: name -> names of the labels it is made of; default: each alone, and where there are an organ and its
            tumour the organ contains it.
        window_hu: mapped to [-1, 1].

    Images without a label map are cases without labels.
    """
    image_folder, label_folder = (_layouts.require_folder(root / name) for name in (images, label_files))
    maps = _by_stem(label_folder)
    cases: dict[str, Case] = {}
    for stem, path in _by_stem(image_folder).items():
        base, _, number = stem.rpartition("_")
        if stem not in maps and base in maps and number.isdigit() and len(number) == 4:
            if number != "0000":  # another channel of the image
                continue
            stem = base  # noqa: PLW2901
        if stem in cases:
            complain(f"{path}: expected one image for {maps[stem]}, got {cases[stem].image[0].name} too")
            continue
        cases[stem] = Case(stem, stem, (path,), (maps[stem],) if stem in maps else None)
    for stem, path in maps.items():
        if stem not in cases:
            complain(f"{path}: has no image, expected {image_folder / path.name}")
    if not cases:
        raise InputError(f"{image_folder}: expected volumes, .nii or .nii.gz, found none")
    declared = from_names(labels or {"foreground": 1}, regions)
    return _layouts.nifti_source("pairs", list(cases.values()), declared, window_hu)


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _layouts.nifti_files(folder):
        stem = _layouts.stem(path)
        if found.setdefault(stem, path) != path:
            complain(f"{folder}: expected each volume once, got {found[stem].name} and {path.name}")
    return found

"""What there is to segment: NIfTI files, DICOM folders and zips, or a folder of them."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from hlfd.errors import InputError
from hlfd.io import nifti
from hlfd.volume import AXCODES, Volume

if TYPE_CHECKING:
    from hlfd.io.dicom import Series

LOOKED_AT = 64
"""Files of a folder that are opened to see whether it holds DICOM."""


@dataclass(frozen=True)
class Input:
    """One thing to segment.

    Attributes:
        path: a NIfTI file, or a folder, zip or file of DICOM.
        kind: which of them.
        name: what its outputs are called; None: the key of its DICOM series, as folders are often named after patients.
        series: of several in a DICOM folder the one that is meant, or its key, UID or number.
    """

    path: Path
    kind: Literal["nifti", "dicom"]
    name: str | None = None
    series: "str | Series | None" = None


@dataclass(frozen=True, eq=False)
class Image:
    """What was read.

    Attributes:
        name: what its results are called.
        volume: HU; None: its results are there already.
        series: the DICOM series it came from.
    """

    name: str
    volume: Volume | None
    series: "Series | None" = None


def find_inputs(path: Path, series: str | None = None, *, leave_out: Path | None = None) -> list[Input]:
    """What is to be segmented at ``path``.

    A file or a zip is one image. A folder with DICOM files in it is one, with the folders in it. Any other folder holds
    images: its NIfTI files, its zips, its folders of DICOM, and its folders with one NIfTI file (or
    ``imaging.nii.gz``, as KiTS has it).

    Args:
        path: what the user names.
        series: which one to take where there are several; ``all``: each of them.
        leave_out: a folder that is no input, because outputs go there.

    Raises:
        InputError: nothing there.
    """
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder; expected a NIfTI, a DICOM folder or zip, or a folder of them"
        )
    found = [each for one in _found(path, leave_out) for each in _series(one, series)]
    if not found:
        raise InputError(f"{path}: expected .nii or .nii.gz files, DICOM files or zips of them, found none")
    return found


def read_input(one: Input, name: str | None, ready: Callable[[str], bool]) -> Image:
    """Read a volume, each slice in one piece of memory.

    Args:
        one: what to read.
        name: what its results are called; None: as its DICOM series.
        ready: tells of a name whether the results are there, and need no volume.

    Raises:
        InputError: as the readers do.
    """
    if one.kind == "nifti":
        assert name is not None
        return Image(name, None if ready(name) else by_slices(nifti.read_image(one.path, compact=True)))
    from hlfd.io import dicom

    series = one.series
    if series is None or isinstance(series, str):
        series = dicom.choose(dicom.scan(one.path), one.path, series)
    name = name or series.key
    if ready(name):
        return Image(name, None, series)
    try:
        return Image(name, by_slices(dicom.read_volume(series)), series)
    except InputError as error:
        raise InputError(f"{one.path}: {error}") from None


def by_slices(image: Volume) -> Volume:
    """The same volume with the voxels of an axial slice side by side in memory; itself where they are."""
    upright = image.oriented(AXCODES).voxels
    if abs(upright.strides[0]) == max(map(abs, upright.strides)):
        return image
    return image.restored(np.ascontiguousarray(upright), AXCODES)


def _found(path: Path, leave_out: Path | None) -> Iterator[Input]:
    if path.is_file():
        yield _file(path) or Input(path, "dicom")
        return
    files, folders = _contents(path)
    known = [one for file in files if (one := _file(file))]
    if not known and _holds_dicom(files):
        yield Input(path, "dicom")
        return
    yield from known
    for folder in folders:
        if leave_out is not None and folder.resolve() == leave_out.resolve():
            continue
        inside = [file for file in _contents(folder)[0] if nifti.suffix_of(file)]
        images = [file for file in inside if file.name.startswith("imaging.")] or inside
        if _holds_dicom(_below(folder)):
            yield Input(folder, "dicom")
        elif not known and len(images) == 1:
            yield Input(images[0], "nifti", folder.name)


def _file(path: Path) -> Input | None:
    suffix = nifti.suffix_of(path)
    if suffix:
        return Input(path, "nifti", path.name.removesuffix(suffix))
    return Input(path, "dicom") if path.suffix.lower() == ".zip" else None


def _series(one: Input, series: str | None) -> list[Input]:
    if one.kind == "nifti":
        return [one]
    if series != "all":
        return [Input(one.path, "dicom", series=series)]
    from hlfd.io import dicom

    return [Input(one.path, "dicom", series=found) for found in dicom.list_series(one.path)]


def _contents(folder: Path) -> tuple[list[Path], list[Path]]:
    inside = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    return [path for path in inside if path.is_file()], [path for path in inside if path.is_dir()]


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(files))


def _holds_dicom(files: Iterator[Path] | list[Path]) -> bool:
    for _, path in zip(range(LOOKED_AT), files, strict=False):
        if path.suffix.lower() in (".dcm", ".ima"):
            return True
        with path.open("rb") as file:
            if file.read(132)[128:] == b"DICM":
                return True
    return False

"""What there is to segment: NIfTI files, DICOM folders and zips, or a folder of them."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Literal
from zipfile import BadZipFile, ZipFile

import numpy as np

from hlfd.errors import InputError
from hlfd.inference.results import is_result
from hlfd.io import nifti
from hlfd.io.files import content_key, files_below
from hlfd.volume import AXCODES, Volume

if TYPE_CHECKING:
    from hlfd.io.dicom import Series

LOOKED_AT = 64
"""Files of a folder that are opened to see whether it holds DICOM."""

NOTED = ("single-slice", "gantry-tilt")
"""Of what isn't wrong with a series what the reader of its result should know."""

NAMED = 5
"""Names that a line about what is passed over lists."""


@dataclass(frozen=True)
class Input:
    """One thing to segment.

    Attributes:
        path: a NIfTI file, or a folder, zip or file of DICOM.
        kind: which of them.
        name: what its outputs are called; None: its key, as folders of DICOM are often named after patients.
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
        key: names it without identifying anybody: the series' key, or `content_key`; None: not needed, as ``volume``.
        volume: HU; None: its results are there already.
        series: the DICOM series it came from.
        notes: what is worth knowing about how its slices lie.
    """

    name: str
    key: str | None
    volume: Volume | None
    series: "Series | None" = None
    notes: tuple[str, ...] = ()


def find_inputs(
    path: Path,
    series: str | None = None,
    *,
    leave_out: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Input]:
    """What is to be segmented at ``path``.

    A file or a zip is one image. A folder holds images: its NIfTI files, its zips, its folders with DICOM anywhere in
    them, its folders with one NIfTI file (or ``imaging.nii.gz``, as KiTS has it). If DICOM files lie in it themselves,
    they are one image together with all DICOM below them. Results of an earlier prediction are none.

    What can't be opened is an input all the same, which says why when it is read.

    Args:
        path: what the user names.
        series: which one to take where there are several; ``all``: each of them.
        leave_out: a folder that is no input, because outputs go there.
        tell: called with a line about what is passed over.

    Raises:
        InputError: nothing there.
    """
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder; expected a NIfTI, a DICOM folder or zip, or a folder of them"
        )
    found, aside = _found(path, leave_out) if path.is_dir() else ([_file(path) or _single(path)], [])
    if not found:
        raise InputError(f"{path}: expected .nii or .nii.gz files, DICOM files or zips of them, found none")
    if aside:
        more = f" and {len(aside) - NAMED} more" if len(aside) > NAMED else ""
        tell(f"{path}: passed over, no image or several in a folder: {', '.join(aside[:NAMED])}{more}")
    return [each for one in found for each in _series(one, series)]


def read_input(one: Input, name: str | None, ready: Callable[[str], bool]) -> Image:
    """Read a volume, each slice in one piece of memory.

    Args:
        one: what to read.
        name: what its results are called; None: its key.
        ready: tells of a name whether the results are there, and need no volume.

    Raises:
        InputError: as the readers do.
    """
    if one.kind == "nifti":
        if name is not None and ready(name):
            return Image(name, None, None)
        key = content_key(one.path)
        name = name or key
        return Image(name, key, None if ready(name) else by_slices(nifti.read_image(one.path, compact=True)))
    from hlfd.io import dicom

    series = one.series
    if series is None or isinstance(series, str):
        series = dicom.choose(dicom.scan(one.path), one.path, series)
    name = name or series.key
    if ready(name):
        return Image(name, series.key, None, series)
    try:
        volume = by_slices(dicom.read_volume(series))
    except InputError as error:
        raise InputError(f"{one.path}: {error}") from None
    notes = tuple(each.text for each in dicom.problems(series) if each.code in NOTED)
    return Image(name, series.key, volume, series, notes)


def names_in(path: Path) -> set[str]:
    """What files and folders are called in a folder and in its zips, or in a zip, with suffix and without."""
    files = [path]
    with suppress(InputError):
        files += files_below(path) if path.is_dir() else ()
    inner: list[PurePath] = [file.relative_to(path) for file in files]
    for file in files:
        if file.suffix.lower() == ".zip" and file.is_file():
            with suppress(OSError, BadZipFile), ZipFile(file) as packed:
                inner += [PurePosixPath(name.replace("\\", "/")) for name in packed.namelist()]
    parts = {part for each in inner for part in each.parts}
    names = parts | {part.partition(".")[0] for part in parts}
    return {name for name in names if len(name) > 1 and not (name.isdecimal() and len(name) < 4)}


def by_slices(image: Volume) -> Volume:
    """The same volume with the voxels of an axial slice side by side in memory; itself where they are."""
    upright = image.oriented(AXCODES).voxels
    if abs(upright.strides[0]) == max(map(abs, upright.strides)):
        return image
    return image.restored(np.ascontiguousarray(upright), AXCODES)


def _found(path: Path, leave_out: Path | None) -> tuple[list[Input], list[str]]:
    """The images of a folder, and the names of what is none."""
    files, folders = _contents(path)
    known = [one for file in files if (one := _file(file)) and not is_result(file)]
    others = [file for file in files if not _file(file)]
    here = _holds_dicom(others)  # then what is DICOM below belongs to it
    found, aside = [Input(path, "dicom")] if here else [], list[str]()
    found += [one for one in known if not (here and one.kind == "dicom")]
    lost = [file for file in others if not file.exists()]  # links that lead nowhere
    if here:
        aside += [file.name for file in lost]
    else:
        found += [Input(file, "dicom") for file in lost]
        aside += [file.name for file in others if file not in lost and not is_result(file)]
    for folder in folders:
        if leave_out is not None and folder.resolve() == leave_out.resolve():
            continue
        one, beside = _folder(folder)
        aside += [str(file.relative_to(path)) for file in beside]
        if one and not (here and one.kind == "dicom"):
            found.append(one)
    return found, aside


def _folder(folder: Path) -> tuple[Input | None, list[Path]]:
    """The one image that a folder in a folder is, and what is passed over."""
    try:
        inside = [file for file in _contents(folder)[0] if nifti.suffix_of(file) and not is_result(file)]
        if _holds_dicom(files_below(folder)):
            return Input(folder, "dicom"), inside
    except InputError:  # one in it can't be opened
        return Input(folder, "dicom"), []
    images = [file for file in inside if file.name.lower().startswith("imaging.")] or inside
    return (Input(images[0], "nifti", folder.name), []) if len(images) == 1 else (None, [folder])


def _file(path: Path) -> Input | None:
    suffix = nifti.suffix_of(path)
    if suffix:
        return Input(path, "nifti", path.name[: -len(suffix)])
    return Input(path, "dicom") if path.suffix.lower() == ".zip" else None


def _single(path: Path) -> Input:
    from hlfd.io import dicom

    with path.open("rb") as file:
        start = file.read(132)
    if path.suffix.lower() not in dicom.SUFFIXES and not dicom.begins_as_dicom(start):
        raise InputError(f"{path}: expected a NIfTI (.nii, .nii.gz), a DICOM file or a zip of them; convert it first")
    return Input(path, "dicom")


def _series(one: Input, series: str | None) -> list[Input]:
    if one.kind == "nifti":
        return [one]
    if series != "all":
        return [Input(one.path, "dicom", series=series)]
    from hlfd.io import dicom

    try:
        return [Input(one.path, "dicom", series=found) for found in dicom.list_series(one.path)]
    except InputError:
        return [Input(one.path, "dicom")]  # says it again when it is read, and the others go on


def _contents(folder: Path) -> tuple[list[Path], list[Path]]:
    """What isn't a folder, and what is. Raises `InputError` if it can't be read."""
    try:
        inside = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: can't be read: {error.strerror}") from None
    return [path for path in inside if not path.is_dir()], [path for path in inside if path.is_dir()]


def _holds_dicom(files: Iterable[Path]) -> bool:
    for _, path in zip(range(LOOKED_AT), files, strict=False):
        if path.suffix.lower() in (".dcm", ".ima"):
            if not is_result(path):
                return True
            continue
        if not path.is_file():
            continue
        with suppress(OSError), path.open("rb") as file:  # one that may not be read says so in the end
            if file.read(132)[128:] == b"DICM":
                return True
    return False

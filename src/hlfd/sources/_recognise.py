"""Which source a folder is laid out for."""

import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from hlfd import plugins
from hlfd.errors import InputError
from hlfd.io import dicom
from hlfd.io.files import files_below, no_such

DICOM_LAYOUT = "a folder, a tree of folders or a zip of DICOM files"
_LOOKED_AT = 2000
"""Files of a tree that are looked at before it is held for no DICOM."""


def recognise(root: Path) -> str:
    """Name of the source plug-in whose layout ``root`` has, for a recipe or a command that names none.

    Names, not contents, decide, but for ``dataset.json`` and the magic number of DICOM.

    Raises:
        InputError: no such folder; none of the layouts, with what was looked for and what is there.
    """
    if not root.exists():
        raise no_such(root)
    found = _recognised(root)
    if found is not None:
        return found
    folders = [child for child in sorted(root.iterdir()) if child.is_dir()] if root.is_dir() else []
    inside = [child for child in folders if _recognised(child)]
    if inside:
        raise InputError(f"{root}: no data set itself, did you mean {' or '.join(map(str, inside[:4]))}?")
    known = "; ".join(f"{name} ({layout})" for name, layout in sorted(_layouts().items()))
    raise InputError(f"{root}: expected the layout of a source that is known: {known}; found {_found(root)}")


def _recognised(root: Path) -> str | None:
    for name, module in _modules():
        if name != "dicom" and module.recognises(root):
            return name
    return "dicom" if holds_dicom(root) else None  # last: it reads files


def _layouts() -> dict[str, str]:
    return {"dicom": DICOM_LAYOUT} | {name: module.LAYOUT for name, module in _modules()}


def _modules() -> Iterator[tuple[str, Any]]:
    """Plug-ins that say which layout they read, those that can be imported here."""
    for name in plugins.names("sources"):
        with suppress(InputError):
            module = plugins.module("sources", name)
            if hasattr(module, "recognises") and hasattr(module, "LAYOUT"):
                yield name, module


def holds_dicom(root: Path) -> bool:
    """Whether a file is a zip or begins as DICOM does; whether one in a folder's tree, or in a zip there, does."""
    if root.is_file():
        return root.suffix.lower() == ".zip" or _is_dicom(root)  # what is wrong with a zip is said where it is read
    files = islice(files_below(root), _LOOKED_AT)
    return any(_zip_holds_dicom(path) if path.suffix.lower() == ".zip" else _is_dicom(path) for path in files)


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return dicom.begins_as_dicom(file.read(132))
    except OSError:
        return False


def _zip_holds_dicom(path: Path) -> bool:
    try:
        with ZipFile(path) as archive:
            for member in islice((m for m in archive.infolist() if not m.is_dir()), 50):
                with archive.open(member) as file:
                    if dicom.begins_as_dicom(file.read(132)):
                        return True
    except (OSError, EOFError, zlib.error, BadZipFile, NotImplementedError, RuntimeError):
        return False  # damaged, of another compression, encrypted
    return False


def _found(root: Path) -> str:
    if root.is_file():
        return f"the file {root.name}"
    names = sorted(child.name + "/" * child.is_dir() for child in root.iterdir())
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "nothing"

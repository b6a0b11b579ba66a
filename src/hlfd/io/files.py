"""Files written whole or not at all; what lies in a folder, and what a file is called where its name must not stand."""

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from hlfd.errors import InputError


def files_below(root: Path) -> Generator[Path]:
    """The files of a folder and of the folders in it, in order; links are followed, hidden ones left out.

    Raises:
        InputError: a folder that can't be read.
    """
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: can't be read: {error.strerror}")

    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path


def no_such(path: Path, kind: str = "folder") -> InputError:
    """The `InputError` for a path that isn't there, which says so if it is an address of data elsewhere."""
    scheme, colon, rest = str(path).partition(":/")  # a `Path` has one slash of two
    if colon and re.fullmatch(r"[a-z][a-z0-9+.-]+", scheme):
        url = f"{scheme}://{rest.lstrip('/')}"
        return InputError(f"{url}: data are read from local disks: mount it, or copy it first (as aws s3 sync does)")
    return InputError(f"{path}: no such {kind}")


def content_key(path: Path) -> str:
    """The first eight digits of a file's SHA-256: they name it where its own name, a patient's perhaps, must not stand.

    Raises:
        InputError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:8]
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None


def require_writable(folder: Path) -> None:
    """Make the folder. Raises `InputError` if no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: can't be written: {error.strerror}") from None


@contextmanager
def replacing(path: str | Path, suffix: str = ".tmp") -> Generator[Path]:
    """A temporary path beside ``path`` for the caller to write, which takes the place of ``path`` when the block ends.

    The folder is created. A reader sees the old file or the new one, never a part; if the block fails, the temporary
    file is removed and whatever was at ``path`` stays. Links stay too: what they lead to is replaced. A pipe or a
    device is written into.

    Args:
        path: the file to write.
        suffix: what the temporary name ends in, for writers that go by the name.
    """
    path = Path(path)
    special = path.exists() and not path.is_file() and not path.is_dir()
    target = path if special else Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    name = None
    try:
        beside = None if special else target.parent
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=suffix, dir=beside)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        if special:
            with temporary.open("rb") as file, target.open("wb") as into:
                shutil.copyfileobj(file, into)
        else:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(_mode(target))
            os.replace(temporary, target)
    except OSError as error:
        if error.errno and (name is None or error.filename in (None, name)):  # a full disk: say which file
            error.filename = str(path)
        raise
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)


def write_atomic(path: str | Path, data: bytes | str) -> Path:
    """Write ``data`` (text as UTF-8) to ``path``, whole or not at all. The folder is created.

    Names of files that are no UTF-8 have their odd bytes as in ``\\udcfc``, which JSON reads back.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode(errors="backslashreplace") if isinstance(data, str) else data)
    return Path(path)


def write_json(path: str | Path, obj: object) -> Path:
    """Write ``obj`` as indented JSON, atomically: numpy values and paths are fine, NaN and infinity become null.

    Raises:
        TypeError: for a value JSON has no form for.
    """
    return write_atomic(path, json.dumps(jsonable(obj), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def jsonable(obj: object) -> Any:
    """``obj`` as plain Python: mappings with string keys, lists, and numbers, where NaN and infinity become None."""
    if isinstance(obj, Mapping):
        return {str(key): jsonable(value) for key, value in cast(Mapping[object, object], obj).items()}
    if isinstance(obj, np.ndarray | np.generic):
        return jsonable(cast(object, obj.tolist()))
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, Path):
        return str(obj)
    if isinstance(obj, Sequence) and not isinstance(obj, str | bytes):
        return [jsonable(value) for value in cast(Sequence[object], obj)]
    return obj


def _mode(path: Path) -> int:
    """Permissions for the new file: those of the one it replaces, else what the process's umask allows."""
    if path.exists():
        return path.stat().st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask

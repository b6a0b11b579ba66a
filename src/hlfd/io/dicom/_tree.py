"""Where DICOM objects lie: files in folders and members of zips, which are read where they are."""

import zipfile
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from hlfd.errors import InputError
from hlfd.io.files import files_below, no_such

MAX_MEMBER = 4 * 2**30
MAX_RATIO, RATIO_FROM = 200, 2**30  # CT shrinks to a half or a third


@dataclass(frozen=True, slots=True)
class Item:
    """A file, or a member of a zip.

    Attributes:
        path: the file or the zip.
        member: name in the zip.
        size: bytes, uncompressed.
    """

    path: Path
    member: str | None = None
    size: int = 0

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name if self.member is None else PurePosixPath(self.member).name

    @property
    def folder(self) -> str:
        """What it lies in."""
        return str(self.path.parent) if self.member is None else f"{self.path}/{PurePosixPath(self.member).parent}"


def items(root: str | Path) -> list[Item]:
    """All files of a folder and the folders in it, members of zips among them; of a zip; or the one file.

    Raises:
        InputError: there is nothing, a folder can't be read, a zip is damaged, climbs out of its folder or is a bomb.
    """
    root = Path(root)
    if not root.exists():
        raise no_such(root, "file or folder")
    if root.is_file():
        packed = root.suffix.lower() == ".zip" or zipfile.is_zipfile(root)
        return _members(root) if packed else [Item(root, size=root.stat().st_size)]
    found: list[Item] = []
    for path in files_below(root):
        if path.suffix.lower() == ".zip":
            found += _members(path)
        else:
            found.append(Item(path, size=path.stat().st_size))
    return found


def opened(wanted: Iterable[Item]) -> Generator[tuple[Item, IO[bytes]]]:
    """Each item with its bytes as a file. A zip stays open as long as its members come one after another."""
    archive: zipfile.ZipFile | None = None
    try:
        for item in wanted:
            if item.member is None:
                try:
                    file = item.path.open("rb")
                except OSError as error:
                    raise InputError(f"{item}: can't be read: {error.strerror}") from None
                with file:
                    yield item, file
                continue
            if archive is None or archive.filename != str(item.path):
                if archive is not None:
                    archive.close()
                archive = zipfile.ZipFile(item.path)
            try:
                member = archive.open(item.member)
            except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:  # encrypted, or of a kind unknown
                raise InputError(f"{item}: can't be read from the zip: {error}") from None
            with member:
                yield item, member
    finally:
        if archive is not None:
            archive.close()


def _members(path: Path) -> list[Item]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: expected a whole zip, it can't be read: {error}") from None
    for info in infos:
        name = info.filename.replace("\\", "/")
        if name.startswith("/") or ".." in name.split("/") or name[1:2] == ":":
            raise InputError(f"{path}: expected members inside the zip's own folder, one is named '{name[:80]}'")
        if info.file_size > MAX_MEMBER:
            raise InputError(f"{path}: {name}: claims {info.file_size / 2**30:.0f} GiB, refused above 4")
    total, packed = sum(info.file_size for info in infos), path.stat().st_size
    if total > RATIO_FROM and total > MAX_RATIO * packed:
        raise InputError(
            f"{path}: {packed / 2**20:.1f} MiB claim to hold {total / 2**30:.0f} GiB, "
            f"refused above {MAX_RATIO} times the size"
        )
    infos.sort(key=lambda info: info.filename)
    return [
        Item(path, info.filename, info.file_size)
        for info in infos
        if not PurePosixPath(info.filename).name.startswith(".") and not info.filename.startswith("__MACOSX/")
    ]


def read_bytes(item: Item, file: IO[bytes]) -> Any:
    """The file itself, or the member's bytes: libraries that jump about in a file want it whole."""
    if item.member is None:
        return file
    import io

    try:
        return io.BytesIO(file.read())
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise InputError(f"{item}: can't be read from the zip: {error}") from None

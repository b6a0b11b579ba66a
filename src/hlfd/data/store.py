"""The prepared data set on disk: a chunk a slice, compressed with blosc2, a JSON file beside each case."""

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from hlfd.cases import Case
from hlfd.data.preprocess import Preprocess
from hlfd.errors import InputError, unreadable
from hlfd.io.files import write_atomic, write_json
from hlfd.volume import Volume

VERSION = 1


@dataclass(frozen=True)
class StoredCase:
    """What is known of a prepared case without reading its voxels.

    Attributes:
        shape: slices, rows, columns.
        counts: pixels of each class in each slice, shape (slices, classes); (slices, 0) for a case without labels.
        cropped_away: labelled pixels that lie outside the crop.
        sha256: of the image's and the label's bytes.
    """

    id: str
    patient: str
    shape: tuple[int, int, int]
    counts: np.ndarray
    cropped_away: int
    sha256: str

    @property
    def labelled(self) -> bool:
        """Whether the case has labels."""
        return self.counts.shape[1] > 0


class Store:
    """A prepared data set, opened read-only. Any number of processes may read it.

    Raises:
        InputError: no store there, one of another version, or one whose preparation has not finished.
    """

    def __init__(self, root: Path):
        self.root = root
        settings = read_settings(root)
        if settings is None:
            raise InputError(f"{root}: no prepared store here; run 'hlfd prepare' first")
        self.preprocess = Preprocess(**settings["preprocess"])
        self.classes: int = settings["classes"]
        missing = [c for c in settings["cases"] if not _side(root, c).exists()]
        if missing:
            raise InputError(
                f"{root}: preparation has not finished, {len(missing)} of {len(settings['cases'])} cases are missing; "
                "run the same 'hlfd prepare' again"
            )
        self.cases = {c: _stored(json.loads(_side(root, c).read_text())) for c in settings["cases"]}

    def digest(self, patients: Collection[str]) -> str:
        """A hash of all voxels and labels of these patients."""
        voxels = [f"{c.id} {c.sha256}" for c in self.cases.values() if c.patient in patients]
        return hashlib.sha256("\n".join(sorted(voxels)).encode()).hexdigest()

    @property
    def patients(self) -> list[str]:
        """Sorted, each once."""
        return sorted({case.patient for case in self.cases.values()})

    def slices(self, case: str) -> tuple[Any, Any]:
        """Image (float16) and label (uint8) of a case, (slices, rows, columns) each; a slice is read when indexed.

        The label is None for a case without labels.
        """
        kinds = ("image", "label") if self.cases[case].labelled else ("image",)
        arrays = [blosc2.open(str(_file(self.root, case, kind)), mode="r") for kind in kinds]
        return arrays[0], arrays[1] if len(arrays) > 1 else None


def read_settings(root: Path) -> dict[str, Any] | None:
    """The store's settings, or None if ``root`` holds no store. Raises `InputError` for one of another version."""
    path = root / "store.json"
    if not path.exists():
        return None
    try:
        settings = json.loads(path.read_text())
    except ValueError as error:
        raise unreadable(path, "a store's settings", error) from None
    if settings.get("version") != VERSION:
        raise InputError(
            f"{path}: expected a store of version {VERSION}, got version {settings.get('version')}; prepare it again"
        )
    return settings


def write_case(
    root: Path,
    case: Case,
    image: Volume,
    label: Volume | None,
    *,
    preprocess: Preprocess,
    classes: int,
    source: list[list[Any]],
) -> None:
    """Write one prepared case. The JSON file comes last: where it exists the case is whole."""
    pixels = preprocess.to_crop(image.voxels, -1.0).astype(np.float16)
    counts, cropped_away, targets = np.zeros((len(pixels), 0), int), 0, np.zeros(0, np.uint8)
    if label is not None:
        targets = preprocess.to_crop(label.voxels, 0)
        counts = np.stack([(targets == c).sum((1, 2)) for c in range(classes)], axis=1)
        cropped_away = int((label.voxels > 0).sum() - (targets > 0).sum())
    _side(root, case.id).unlink(missing_ok=True)  # of an older preparation, which is overwritten now
    for kind, array in (("image", pixels), ("label", targets)):
        if array.size:
            write_atomic(_file(root, case.id, kind), _pack(array))
    side = {
        "version": VERSION,
        "patient": case.patient,
        "shape": list(pixels.shape),
        "affine_before_crop": image.affine.tolist(),
        "counts": counts.tolist(),
        "cropped_away": cropped_away,
        "sha256": hashlib.sha256(pixels.tobytes() + targets.tobytes()).hexdigest(),
        "source": source,
    }
    write_json(_side(root, case.id), {"id": case.id, **side})


def finished(root: Path, case: str, source: list[list[Any]]) -> bool:
    """Whether the case has been prepared from files that have not changed since."""
    side = _side(root, case)
    return side.exists() and json.loads(side.read_text())["source"] == source


def _pack(array: np.ndarray) -> bytes:
    chunk = (1, *array.shape[1:])
    packed: Any = blosc2.asarray(
        np.ascontiguousarray(array),  # pyright: ignore[reportArgumentType]
        chunks=chunk,
        blocks=chunk,
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": 5, "nthreads": 1},
    )
    return packed.to_cframe()


def _stored(side: dict[str, Any]) -> StoredCase:
    shape, counts = tuple(side["shape"]), np.array(side["counts"]).reshape(side["shape"][0], -1)
    return StoredCase(side["id"], side["patient"], shape, counts, side["cropped_away"], side["sha256"])


def _file(root: Path, case: str, kind: str) -> Path:
    return root / "cases" / f"{case}.{kind}.b2nd"


def _side(root: Path, case: str) -> Path:
    return root / "cases" / f"{case}.json"


def iterate_slices(store: Store, patients: set[str]) -> Iterator[tuple[str, int]]:
    """(case, slice) of every slice of these patients."""
    for case in store.cases.values():
        if case.patient in patients:
            yield from ((case.id, k) for k in range(case.shape[0]))

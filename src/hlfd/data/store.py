"""The prepared data set on disk: compressed stacks, a JSON file beside each case, a manifest of all."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hlfd.cases import Case
from hlfd.data import frames
from hlfd.data.frames import Kept, Packed, Stack, Steps
from hlfd.data.geometry import SLAB, Geometry
from hlfd.data.preprocess import AXCODES, Preprocess
from hlfd.errors import InputError, unreadable
from hlfd.io.files import write_atomic, write_json
from hlfd.volume import Volume

VERSION = 3
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class StoredCase:
    """What is known of a prepared case without reading its voxels.

    Attributes:
        geometry: where it lies; ``geometry.shape`` is that of its stack.
        counts: pixels of each class in each slice, shape (slices, classes); (slices, 0) for a case without labels.
        cropped_away: labelled pixels that lie outside the crop.
        sha256: of the image's and the label's voxels.
        files: file name -> sha256 of its bytes.
        steps: how the image's HU are kept.
    """

    id: str
    patient: str
    geometry: Geometry
    counts: np.ndarray
    cropped_away: int
    sha256: str
    files: Mapping[str, str]
    steps: Steps

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns of the prepared stack."""
        return self.geometry.shape

    @property
    def labelled(self) -> bool:
        """Whether the case has labels."""
        return self.counts.shape[1] > 0

    @property
    def image_sha256(self) -> str:
        """Of the image's file: the same scan, prepared alike, has the same, whoever labelled it."""
        return next(sha256 for name, sha256 in self.files.items() if name.startswith(f"{self.id}.image."))


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
        self.tumor_classes: tuple[int, ...] = tuple(settings["tumor_classes"])
        self.plan: dict[str, Any] | None = settings.get("plan")
        missing = [c for c in settings["cases"] if not _side(root, c).exists()]
        if missing:
            raise InputError(
                f"{root}: preparation has not finished, {len(missing)} of {len(settings['cases'])} cases are missing; "
                "run the same 'hlfd prepare' again"
            )
        self.cases = {c: _stored(_read_side(root, c)) for c in settings["cases"]}

    def digest(self, patients: Collection[str]) -> str:
        """A hash of all voxels and labels of these patients."""
        voxels = [f"{c.id} {c.sha256}" for c in self.cases.values() if c.patient in patients]
        return hashlib.sha256("\n".join(sorted(voxels)).encode()).hexdigest()

    @property
    def patients(self) -> list[str]:
        """Sorted, each once."""
        return sorted({case.patient for case in self.cases.values()})

    def slices(self, case: str) -> tuple[Stack, Any]:
        """Image (float32 in [-1, 1]) and label (uint8) of a case, (slices, rows, columns) each.

        What is indexed is read, a slice or a patch. The label is None for a case without labels.
        """
        known = self.cases[case]
        image = Stack(_file(self.root, case, "image"), known.steps, self.preprocess)
        return image, Kept(_file(self.root, case, "label")) if known.labelled else None

    def manifest(self) -> dict[str, Any]:
        """Version, settings and, of every case, the sha256 of its voxels and of its files."""
        return {
            "version": VERSION,
            "preprocess": self.preprocess.model_dump(mode="json"),
            "classes": self.classes,
            "cases": {case.id: {"voxels": case.sha256, "files": dict(case.files)} for case in self.cases.values()},
        }

    def damage(self, advance: Callable[[], object] = lambda: None) -> list[str]:
        """What differs from the manifest, a line each: files that are missing, damaged, or not in it.

        Args:
            advance: called after each case.

        Raises:
            InputError: there is no manifest, or it is of other cases.
        """
        path = self.root / MANIFEST
        try:
            kept = json.loads(path.read_text())
        except FileNotFoundError:
            raise InputError(f"{path}: no manifest; run 'hlfd prepare' again, which writes it") from None
        except ValueError as error:
            raise unreadable(path, "a manifest", error) from None
        found, problems = self.manifest(), list[str]()
        for key in ("version", "preprocess", "classes"):
            if kept.get(key) != found[key]:
                problems.append(f"{path}: expected {key} {found[key]}, got {kept.get(key)}")
        listed: dict[str, Any] = kept.get("cases") or {}
        for case in sorted({*listed, *self.cases}):
            expected, now = listed.get(case), found["cases"].get(case)
            if expected != now:
                problems.append(f"case {case}: expected {_short(expected)} in the manifest, got {_short(now)}")
            for name, sha256 in (now or {"files": {}})["files"].items():
                stored = self.root / "cases" / name
                if not stored.is_file():
                    problems.append(f"{stored}: no such file")
                elif (got := _sha256(stored)) != sha256:
                    problems.append(f"{stored}: damaged, expected sha256 {sha256[:12]}, got {got[:12]}")
            advance()
        return problems


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
            f"{path}: expected a store of version {VERSION}, got version {settings.get('version')}: "
            f"remove {root} and prepare again"
        )
    return settings


def pack_image(image: Volume, preprocess: Preprocess, geometry: Geometry) -> tuple[Packed, Steps]:
    """An image (HU on any grid) as the bytes of a file, worked on slab by slab."""
    upright = image.oriented(AXCODES).voxels
    unchanged = geometry.upright == geometry.resampled
    whole = unchanged and (upright.dtype.kind in "iu" or all(_whole(upright[s]) for s in _slabs(len(upright))))
    steps = Steps.of(preprocess, whole=whole)
    slabs = (geometry.image(upright, s, -np.inf).numpy() for s in _slabs(geometry.shape[0]))
    return frames.pack((steps.encode(slab, preprocess) for slab in slabs), geometry.shape, np.uint16), steps


def pack_label(label: Volume, geometry: Geometry, classes: int) -> tuple[Packed, np.ndarray, int]:
    """A label map as the bytes of a file; pixels of each class in each slice; labelled pixels outside the crop."""
    upright, counts, everywhere = label.oriented(AXCODES).voxels, list[np.ndarray](), 0
    if geometry.upright == geometry.resampled:
        everywhere = int(np.count_nonzero(label.voxels))
    elif geometry.shape != geometry.resampled:
        whole = Geometry(geometry.upright, geometry.resampled, (0, 0, 0), geometry.resampled, geometry.affine)
        everywhere = sum(int(np.count_nonzero(whole.label(upright, s))) for s in _slabs(whole.shape[0]))

    def counted() -> Iterator[np.ndarray]:
        for s in _slabs(geometry.shape[0]):
            slab = geometry.label(upright, s)
            counts.extend(np.bincount(one.ravel(), minlength=classes) for one in slab)
            yield slab

    packed = frames.pack(counted(), geometry.shape, np.uint8)
    found = np.stack(counts)
    return packed, found, max(everywhere - int(found[:, 1:].sum()), 0)


def write_case(
    root: Path,
    case: Case,
    image: tuple[Packed, Steps],
    label: tuple[Packed, np.ndarray, int] | None,
    *,
    geometry: Geometry,
    source: str,
) -> None:
    """Write one prepared case. The JSON file comes last: where it exists the case is whole.

    Args:
        source: stands for what the case was made from, as in `finished`.
    """
    (packed, steps), counts, cropped_away = image, np.zeros((geometry.shape[0], 0), int), 0
    parts = {"image": packed}
    if label is not None:
        parts["label"], counts, cropped_away = label
    _side(root, case.id).unlink(missing_ok=True)  # of an older preparation, which is overwritten now
    for kind, part in parts.items():
        write_atomic(_file(root, case.id, kind), part.data)
    voxels = [str(asdict(steps)), *(part.sha256 for part in parts.values())]
    side = {
        "version": VERSION,
        "patient": case.patient,
        "geometry": geometry.dump(),
        "counts": counts.tolist(),
        "cropped_away": cropped_away,
        "steps": asdict(steps),
        "sha256": hashlib.sha256(" ".join(voxels).encode()).hexdigest(),
        "files": {_file(root, case.id, k).name: hashlib.sha256(p.data).hexdigest() for k, p in parts.items()},
        "source": source,
    }
    write_json(_side(root, case.id), {"id": case.id, **side})


def finished(root: Path, case: Case, source: str) -> bool:
    """Whether the case has been prepared, for the same patient, from the same files, read alike, and is all there."""
    if not _side(root, case.id).exists():
        return False
    found = _read_side(root, case.id)
    there = all((root / "cases" / name).exists() for name in found["files"])
    return there and found["source"] == source and found["patient"] == case.patient


def _slabs(count: int) -> list[slice]:
    return [slice(first, min(first + SLAB, count)) for first in range(0, count, SLAB)]


def _whole(voxels: np.ndarray) -> bool:
    return bool((voxels == np.rint(voxels)).all())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(entry: dict[str, Any] | None) -> str:
    return "none" if entry is None else f"voxels {entry['voxels'][:12]}"


def _read_side(root: Path, case: str) -> dict[str, Any]:
    path = _side(root, case)
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise unreadable(path, "a prepared case's description", error) from None


def _stored(side: dict[str, Any]) -> StoredCase:
    geometry = Geometry.load(side["geometry"])
    counts = np.array(side["counts"]).reshape(geometry.shape[0], -1)
    return StoredCase(
        side["id"],
        side["patient"],
        geometry,
        counts,
        side["cropped_away"],
        side["sha256"],
        side["files"],
        Steps(**side["steps"]),
    )


def _file(root: Path, case: str, kind: str) -> Path:
    return root / "cases" / f"{case}.{kind}.b2nd"


def _side(root: Path, case: str) -> Path:
    return root / "cases" / f"{case}.json"


def iterate_slices(store: Store, patients: set[str]) -> Iterator[tuple[str, int]]:
    """(case, slice) of every slice of these patients."""
    for case in store.cases.values():
        if case.patient in patients:
            yield from ((case.id, k) for k in range(case.shape[0]))

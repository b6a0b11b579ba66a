"""What is known of a case: its headers, read once, and with ``deep`` its voxels, read once too."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hlfd.cases import Case, DataSource
from hlfd.doctor.anatomy import Anatomy, examine_anatomy
from hlfd.doctor.voxels import ImageValues, LabelCounts, count_labels, describe_image
from hlfd.errors import InputError, UndeclaredError
from hlfd.io import nifti
from hlfd.labels import Labels


@dataclass(frozen=True, eq=False)
class Grid:
    """Where an image lies, as headers of another format than NIfTI say it."""

    shape: tuple[int, ...]
    affine: np.ndarray


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """One case.

    Attributes:
        image, label: headers, for NIfTI; None for other formats and for files that can't be read.
        grid: of the image in other formats that tell it.
        problems: what the readers said of files that can't be read, a line each.
        undeclared: what they said of labels that were not declared, where the header alone doesn't show the values.
        values, counts, anatomy: of the voxels, with ``deep``.
    """

    case: Case
    image: nifti.Header | None = None
    label: nifti.Header | None = None
    grid: Grid | None = None
    problems: tuple[str, ...] = ()
    undeclared: str | None = None
    values: ImageValues | None = None
    counts: LabelCounts | None = None
    anatomy: Anatomy | None = None


@dataclass(frozen=True, eq=False)
class Voxels:
    """As stored: HU, or label value, is ``slope`` x stored + ``inter``."""

    stored: np.ndarray
    affine: np.ndarray
    slope: float = 1.0
    inter: float = 0.0


def examine(source: DataSource, case: Case, *, deep: bool) -> CaseFacts:
    """Read a case. A file that can't be read is one of ``problems``."""
    problems: list[str] = []
    image, label = (_header(files, problems) for files in (case.image, case.label or ()))
    grid = _grid(source, case) if image is None else None
    if not deep or problems or not all(_readable(header, source.name) for header in (image, label)):
        return CaseFacts(case, image, label, grid, tuple(problems))
    values = counts = thin = anatomy = undeclared = None
    try:
        voxels = _image(source, case, image)
        values = describe_image(voxels.stored, voxels.affine, voxels.slope, voxels.inter)
        thin = _Thin.of(voxels)
        del voxels  # before the label map comes
    except (InputError, MemoryError) as error:
        problems.append(_line(error, case.image[0]))
    try:
        classes, declared = None, source.labels
        if case.label is not None:
            labels, declared = _label(source, case, label if _one_volume(image) else None)
            counts = count_labels(labels.stored, labels.slope, labels.inter)
            classes = thin and thin.classes(labels, declared)
        if thin is not None:
            anatomy = examine_anatomy(thin.hu, thin.affine, classes, declared)
    except UndeclaredError as error:
        undeclared = str(error)
    except (InputError, MemoryError) as error:
        problems.append(_line(error, (case.label or case.image)[0]))
    problems = list(dict.fromkeys(problems))  # masks may need their images, which can't be read either
    return CaseFacts(case, image, label, grid, tuple(problems), undeclared, values, counts, anatomy)


@dataclass(frozen=True, eq=False)
class _Thin:
    """Every voxel that is about 4 mm from the next."""

    hu: np.ndarray
    affine: np.ndarray
    shape: tuple[int, ...]  # of the whole
    steps: tuple[int, ...]

    @classmethod
    def of(cls, voxels: Voxels) -> "_Thin | None":
        """None for an affine that places nothing."""
        affine = voxels.affine
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            return None
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        steps = np.clip(np.rint(4 / spacing_mm), 1, np.array(voxels.stored.shape) // 16 + 1).astype(int)
        with np.errstate(over="ignore", invalid="ignore"):
            hu = _every(voxels.stored, steps).astype(np.float32) * np.float32(voxels.slope) + np.float32(voxels.inter)
        return cls(np.nan_to_num(hu), affine @ np.diag([*steps, 1.0]), voxels.stored.shape, tuple(steps.tolist()))

    def classes(self, labels: Voxels, declared: Labels) -> np.ndarray | None:
        """Class indices of the same voxels, None where the label map has another shape."""
        if labels.stored.shape != self.shape:
            return None
        raw = np.rint(_every(labels.stored, self.steps) * np.float64(labels.slope) + labels.inter)
        found = np.zeros(raw.shape, np.uint8)
        for value, index in declared.raw.items():
            found[raw == value] = index
        return found


def _every(stored: np.ndarray, steps: Sequence[int] | np.ndarray) -> np.ndarray:
    return stored[tuple(slice(None, None, int(step)) for step in steps)]


def _header(files: tuple[Path, ...], problems: list[str]) -> nifti.Header | None:
    if len(files) != 1 or not nifti.suffix_of(files[0]):
        return None
    try:
        return nifti.read_header(files[0])
    except InputError as error:
        problems.append(str(error))
        return None


def _grid(source: DataSource, case: Case) -> Grid | None:
    if source.read_grid is None:
        return None
    try:
        found = source.read_grid(case)
    except InputError:  # what is wrong with the series is a finding of its own
        return None
    return Grid(found.shape, found.affine)


def _readable(header: nifti.Header | None, source: str) -> bool:
    """Whether there are voxels to read, as far as the header tells; else there is a finding that says so."""
    return header is None or (header.dtype.kind in "iuf" and not wrong_axes(header, source))


def wrong_axes(header: nifti.Header, source: str) -> bool:
    """Whether a source, which reads one volume a file, can't read this one."""
    return len(header.shape) < 3 or (len(header.shape) > 3 and source in ("kits", "lits", "nnunet", "pairs"))


def _line(error: Exception, path: Path) -> str:
    return str(error) if isinstance(error, InputError) else f"{path}: not enough memory for its voxels"


def _image(source: DataSource, case: Case, header: nifti.Header | None) -> Voxels:
    if header is None or not _one_volume(header):  # slices, DICOM, several channels
        volume = source.read_image(case)
        return Voxels(volume.voxels, volume.affine)
    stored, _ = nifti.read_stored(case.image[0])
    return Voxels(stored, header.affine, header.slope, header.inter)


def _one_volume(header: nifti.Header | None) -> bool:
    return header is not None and len(header.shape) == 3


def _label(source: DataSource, case: Case, header: nifti.Header | None) -> tuple[Voxels, Labels]:
    """The label map, and what its values mean: the source's own reader gives class indices, on the image's grid."""
    if header is None or not _one_volume(header):
        volume = source.read_label(case)
        declared = source.labels
        itself = Labels({i: i for i in range(declared.classes)}, declared.regions, declared.names)
        return Voxels(volume.voxels, volume.affine), itself
    assert case.label is not None
    stored, _ = nifti.read_stored(case.label[0])
    return Voxels(stored, header.affine, header.slope, header.inter), source.labels

"""What is known of a case: its headers, read once, and with ``deep`` its voxels, read once too."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hlfd.cases import Case, DataSource
from hlfd.doctor.anatomy import Anatomy, examine_anatomy
from hlfd.doctor.voxels import ImageValues, LabelCounts, count_labels, describe_image
from hlfd.errors import InputError
from hlfd.io import nifti
from hlfd.labels import Labels


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """One case.

    Attributes:
        image, label: headers, for NIfTI; None for other formats and for files that can't be read.
        problems: what the readers said of files that can't be read, a line each.
        values, counts, anatomy: of the voxels, with ``deep``.
    """

    case: Case
    image: nifti.Header | None = None
    label: nifti.Header | None = None
    problems: tuple[str, ...] = ()
    values: ImageValues | None = None
    counts: LabelCounts | None = None
    anatomy: Anatomy | None = None

    @property
    def placed(self) -> bool:
        """Whether the files say where the voxels lie; PNG and NPY don't."""
        return self.case.image[0].suffix not in (".png", ".npy")


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
    if not deep or problems or not all(_readable(header, source.name) for header in (image, label)):
        return CaseFacts(case, image, label, tuple(problems))
    values = counts = anatomy = None
    voxels = None
    try:
        voxels = _image(source, case, image)
        values = describe_image(voxels.stored, voxels.affine, voxels.slope, voxels.inter)
    except (InputError, MemoryError) as error:
        problems.append(_line(error, case.image[0]))
    try:
        labels, declared = (None, source.labels) if case.label is None else _label(source, case, label)
        if labels is not None:
            counts = count_labels(labels.stored, labels.slope, labels.inter)
        if voxels is not None and (labels is None or labels.stored.shape == voxels.stored.shape):
            anatomy = _anatomy(voxels, labels, declared)
    except (InputError, MemoryError) as error:
        problems.append(_line(error, (case.label or case.image)[0]))
    return CaseFacts(case, image, label, tuple(problems), values, counts, anatomy)


def _header(files: tuple[Path, ...], problems: list[str]) -> nifti.Header | None:
    if len(files) != 1 or not files[0].name.endswith(nifti.SUFFIXES):
        return None
    try:
        return nifti.read_header(files[0])
    except InputError as error:
        problems.append(str(error))
        return None


def _readable(header: nifti.Header | None, source: str) -> bool:
    """Whether there are voxels to read, as far as the header tells; else there is a finding that says so."""
    return header is None or (header.dtype.kind in "iuf" and not wrong_axes(header, source))


def wrong_axes(header: nifti.Header, source: str) -> bool:
    """Whether a source, which reads one volume a file, can't read this one."""
    return len(header.shape) < 3 or (len(header.shape) > 3 and source in ("kits", "lits", "nnunet", "pairs"))


def _line(error: Exception, path: Path) -> str:
    return str(error) if isinstance(error, InputError) else f"{path}: not enough memory for its voxels"


def _image(source: DataSource, case: Case, header: nifti.Header | None) -> Voxels:
    if header is None or len(header.shape) != 3:  # slices, DICOM, several channels
        volume = source.read_image(case)
        return Voxels(volume.voxels, volume.affine)
    stored, _ = nifti.read_stored(case.image[0])
    return Voxels(stored, header.affine, header.slope, header.inter)


def _label(source: DataSource, case: Case, header: nifti.Header | None) -> tuple[Voxels, Labels]:
    """The label map, and what its values mean: the source's own reader gives class indices."""
    if header is None or len(header.shape) != 3:
        volume = source.read_label(case)
        declared = source.labels
        itself = Labels({i: i for i in range(declared.classes)}, declared.regions, declared.names)
        return Voxels(volume.voxels, volume.affine), itself
    assert case.label is not None
    stored, _ = nifti.read_stored(case.label[0])
    return Voxels(stored, header.affine, header.slope, header.inter), source.labels


def _anatomy(voxels: Voxels, labels: Voxels | None, declared: Labels) -> Anatomy | None:
    """On every voxel that is about 4 mm from the next."""
    if not np.isfinite(voxels.affine).all() or abs(np.linalg.det(voxels.affine[:3, :3])) < 1e-9:
        return None
    spacing_mm = np.linalg.norm(voxels.affine[:3, :3], axis=0)
    steps = np.clip(np.rint(4 / spacing_mm), 1, np.array(voxels.stored.shape) // 16 + 1).astype(int)
    thin = tuple(slice(None, None, int(step)) for step in steps)
    hu = voxels.stored[thin].astype(np.float32) * np.float32(voxels.slope) + np.float32(voxels.inter)
    classes = None
    if labels is not None:
        raw = np.rint(labels.stored[thin] * np.float64(labels.slope) + labels.inter)
        classes = np.zeros(raw.shape, np.uint8)
        for value, index in declared.raw.items():
            classes[raw == value] = index
    return examine_anatomy(np.nan_to_num(hu), voxels.affine @ np.diag([*steps, 1.0]), classes, declared)

"""Case and DataSource: what every source plug-in builds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hlfd.labels import Labels
from hlfd.volume import Volume


@dataclass(frozen=True)
class Case:
    """One examination of one patient.

    Attributes:
        id: unique in its source; also the stem of the files we write for the case. Bytes of a file's name that are no
            UTF-8 are spelt as in ``\\udcfc``, here and in the patient.
        patient: splits never divide a patient.
        image: the image file, or one file per slice.
        label: the label file or files, or None for a case without labels.
    """

    id: str
    patient: str
    image: tuple[Path, ...]
    label: tuple[Path, ...] | None

    def __post_init__(self) -> None:
        for key in ("id", "patient"):
            object.__setattr__(self, key, getattr(self, key).encode(errors="backslashreplace").decode())


@dataclass(frozen=True)
class DataSource:
    """A data set on disk.

    Attributes:
        name: the plug-in's name.
        cases: in the order of their ids.
        labels: what the label files hold and what a network learns from them.
        window_hu: intensities mapped to [-1, 1] unless the user says otherwise.
        read_image: case -> Volume in HU: float32, or int16 where they are whole numbers.
        read_label: case -> Volume of class indices (uint8) on the grid of the image.
        notes: what the user should know of the data and what is done about it, a line each.
        splits: a split file that comes with the data.
        test: patients that the data set itself keeps for testing.
        read_grid: case -> Volume of its image's shape and affine, whose voxels hold nothing, from headers; None: these
            don't tell, or are NIfTI's.
        read_with: the options that decide what is read from the files, as JSON: with others, cases are prepared again.
    """

    name: str
    cases: Sequence[Case]
    labels: Labels
    window_hu: tuple[float, float]
    read_image: Callable[[Case], Volume]
    read_label: Callable[[Case], Volume]
    notes: tuple[str, ...] = ()
    splits: Path | None = None
    test: frozenset[str] = frozenset()
    read_grid: Callable[[Case], Volume] | None = None
    read_with: str = ""

"""Where results go, and how they are written: each file whole or not at all."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from hlfd.errors import InputError
from hlfd.inference.inputs import Input
from hlfd.inference.results import is_result
from hlfd.io import nifti
from hlfd.io.files import replacing, require_writable
from hlfd.labels import Labels
from hlfd.volume import Volume

OTHERS = (".nrrd", ".mha", ".mhd", ".hdr", ".img", ".npy", ".npz", ".png", ".json", ".zip", ".gz")


@dataclass(frozen=True)
class Wanted:
    """What is written for each image.

    Attributes:
        nifti: a label map, ``NAME.nii.gz``.
        separate: in place of one label map a mask of each class, ``NAME/CLASS.nii.gz``.
        seg: a DICOM segmentation object, ``NAME.dcm``.
        probabilities: of every class, ``probabilities/NAME.nii.gz``: I x J x K x classes, background first.
        statistics: ``NAME.json``.
        preview: ``NAME.png``.
    """

    nifti: bool = True
    separate: bool = False
    seg: bool = False
    probabilities: bool = False
    statistics: bool = False
    preview: bool = False


@dataclass(frozen=True)
class Target:
    """Folder of the results.

    Attributes:
        folder: all of them lie here.
        wanted: which.
        stem: what the one image's results are called, if the user named a file.
        suffix: of label maps.
        resume: keep results that are there.
        named: the file that the user named, which may take another's place.
    """

    folder: Path
    wanted: Wanted
    stem: str | None = None
    suffix: str = ".nii.gz"
    resume: bool = False
    named: Path | None = None

    @classmethod
    def of(cls, output: Path, wanted: Wanted, inputs: Sequence[Input], *, resume: bool = False) -> "Target":
        """What the user means by ``output``: a folder, or the file of the one image's label map.

        Raises:
            InputError: a file for several images, or one of no kind that is written here; results that would overwrite
                an image, each other or a file that is no result; a folder that can't be written.
        """
        suffix = nifti.suffix_of(output) or (".dcm" if output.suffix.lower() == ".dcm" else None)
        if suffix is None and output.suffix.lower() in OTHERS and not output.is_dir():
            raise InputError(f"{output}: expected a folder, or a file name ending in .nii, .nii.gz or .dcm")
        if suffix is None:
            target = cls(output, wanted, resume=resume)
        else:
            if len(inputs) > 1:
                raise InputError(f"{output}: expected a folder for the results of {len(inputs)} images")
            stem = output.name[: -len(suffix)]
            maps = ".nii.gz" if suffix == ".dcm" else suffix
            named = output.parent / (stem + suffix)
            target = cls(output.parent, wanted, stem, maps, resume, named)
        target._require_no_clash(inputs)
        require_writable(target.folder)
        return target

    def label_maps(self, name: str, labels: Labels | None = None) -> dict[int | None, Path]:
        """Class (None: all of them) -> file."""
        if not self.wanted.nifti:
            return {}
        if not self.wanted.separate:
            return {None: self.folder / f"{name}{self.suffix}"}
        names = labels.names if labels else ()
        return {index: self.folder / name / f"{each}{self.suffix}" for index, each in enumerate(names, 1)}

    def others(self, name: str) -> dict[str, Path]:
        """Kind of result -> file, without label maps."""
        files = {
            "seg": self.folder / f"{name}.dcm",
            "probabilities": self.folder / "probabilities" / f"{name}{self.suffix}",
            "statistics": self.folder / f"{name}.json",
            "preview": self.folder / f"{name}.png",
        }
        return {kind: path for kind, path in files.items() if getattr(self.wanted, kind)}

    def all_of(self, name: str, labels: Labels | None = None) -> list[Path]:
        """Every file of one image."""
        return [*self.others(name).values(), *self.label_maps(name, labels).values()]

    def ready(self, name: str, labels: Labels | None = None) -> bool:
        """Whether an image is to be passed over, as all its files are there; a file for each label needs the labels."""
        known = labels is not None or not self.wanted.separate
        return self.resume and known and all(path.is_file() for path in self.all_of(name, labels))

    def require_replaceable(self, name: str, labels: Labels | None = None) -> None:
        """Raise `InputError` if a file of the user's is where a result of this image would go."""
        for path in self.all_of(name, labels):
            if path != self.named and path.exists() and not is_result(path):
                raise InputError(f"{path}: is there and no result of hlfd predict; choose another output")

    def name_of(self, one: Input) -> str | None:
        """What the results of an image are called; None: that is known when its series is."""
        return self.stem or one.name

    def _require_no_clash(self, inputs: Sequence[Input]) -> None:
        images = {one.path.resolve() for one in inputs if one.kind == "nifti"}
        named: dict[str, Path] = {}
        for one in inputs:
            name = self.name_of(one)
            if name is None:
                if one.kind == "nifti" and self.folder.resolve() == one.path.parent.resolve():
                    raise InputError(f"{self.folder}: holds images to segment; choose another output")
                continue
            if name in named:
                raise InputError(f"{one.path}: its results would be called '{name}' like those of {named[name].name}")
            named[name] = one.path
            for path in self.all_of(name):
                within = one.kind == "dicom" and path.exists() and path.resolve().is_relative_to(one.path.resolve())
                if within or path.resolve() in images:
                    raise InputError(f"{path}: is an image to segment and would be overwritten; choose another output")
            if not self.ready(name):
                self.require_replaceable(name)


def write_label_maps(target: Target, name: str, classes: Volume, labels: Labels) -> Iterator[tuple[str, Path]]:
    """Write the label maps of an image; gives what each is and its file when it is there."""
    text = "hlfd " + " ".join(f"{i}={each}" for i, each in enumerate(labels.names, 1))
    for index, path in target.label_maps(name, labels).items():
        if index is None:
            nifti.write_label(path, classes, text)
            yield "labels", path
        else:
            label = labels.names[index - 1]
            nifti.write_label(path, classes.like(classes.voxels == index), f"hlfd 1={label}")
            yield f"labels/{label}", path


def write_probabilities(path: Path, probabilities: np.ndarray, affine: np.ndarray, names: Iterable[str]) -> None:
    """Write class probabilities, I x J x K x classes in steps of 1 / 65535, with the header's slope saying so."""
    image = nib.Nifti1Image(probabilities, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"hlfd probabilities {' '.join(names)}".encode("ascii", "replace")[:79]
    image.header.set_slope_inter(1 / 65535, 0)
    with replacing(path, nifti.require_writable_name(path)) as temporary:
        nib.save(image, temporary)

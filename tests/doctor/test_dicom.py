"""DICOM: each thing that is wrong with a series is a finding of its own, under the case it belongs to."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from dicom_files import ID, NAME, ct_affine, dataset, phantom_hu, save, write_series
from hlfd.doctor import check_root
from hlfd.doctor.checks import CHECKS
from hlfd.io import dicom


def in_order(data: Dataset, k: int) -> None:
    data.InstanceNumber = k + 1


def write(root: Path, change: Callable[[Dataset, int], None] = in_order, **options) -> None:
    write_series(root / "ct", change=change, **options)


def at_slice_3(**tags) -> Callable[[Dataset, int], None]:
    """Tags of one slice; ``shift`` moves it, along x, y, z."""

    def change(data: Dataset, k: int) -> None:
        in_order(data, k)
        if k == 3:
            for name, value in tags.items():
                if name == "shift":
                    moved = zip(data.ImagePositionPatient, value, strict=True)
                    data.ImagePositionPatient = [float(at) + by for at, by in moved]
                else:
                    setattr(data, name, value)

    return change


def truncated(root: Path) -> None:
    write(root)
    path = sorted((root / "ct").iterdir())[2]
    path.write_bytes(path.read_bytes()[:400])


def copied(root: Path) -> None:
    write(root)
    shutil.copy(sorted((root / "ct").iterdir())[0], root / "again")


def mixed(root: Path) -> None:
    write(root)
    write(root, series="1.2.840.2", name="B{n}", seed=1)


def beside(root: Path) -> None:
    write(root)
    save(dataset(phantom_hu(), ct_affine(), 0, Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), root / "mr")


def twice_labelled(root: Path) -> None:
    write(root)
    image = dicom.read_series(root)
    for name, voxel in (("kidney", (2, 2, 2)), ("tumor", (4, 4, 4))):
        labels = np.zeros(image.volume.shape, np.uint8)
        labels[voxel] = 1
        dicom.write_seg(root / f"{name}.dcm", image.volume.like(labels), image.series, [name])


BROKEN: dict[str, Callable[[Path], None]] = {
    "damaged-file": truncated,
    "no-position": lambda r: write(r, PixelSpacing=None),
    "duplicate-position": lambda r: write(r, at_slice_3(shift=(0, 0, -2.5))),
    "missing-slices": lambda r: write(r, skip=(3,)),
    "unequal-spacing": lambda r: write(r, at_slice_3(shift=(0, 0, 0.9))),
    "off-grid": lambda r: write(r, at_slice_3(shift=(2, 0, 0))),
    "no-rescale": lambda r: write(r, RescaleSlope=None),
    "not-hu": lambda r: write(r, RescaleType="OD"),
    "gantry-tilt": lambda r: write(r, affine=ct_affine(tilt_degrees=12)),
    "single-slice": lambda r: write(r, hu=phantom_hu((12, 10, 1))),
    "rescale-differs": lambda r: write(r, at_slice_3(RescaleIntercept=-1000.0)),
    "instance-order": lambda r: write(r, lambda *_: None),
    "several-segs": twice_labelled,
    "copies": copied,
    "several-series": mixed,
    "set-aside": beside,
}
ALSO = {"damaged-file": {"dicom-missing-slices"}, "duplicate-position": {"dicom-instance-order"}}
TREE = {"several-series", "set-aside"}


def codes(root: Path, **options) -> set[str]:
    return {f.code for f in check_root(root, "dicom", **options, workers=1).findings} - {"no-label", "not-hu"}


def test_every_finding_of_the_reader_has_its_check_and_its_test():
    known = {check.code.removeprefix("dicom-") for check in CHECKS if check.code.startswith("dicom-")}
    assert known == set(BROKEN)
    assert all(f"``{code}``" in str(dicom.Finding.__doc__) for code in known)
    assert str(dicom.Finding.__doc__).count("``") == 2 * len(known)


def test_a_sound_series(tmp_path: Path):
    write(tmp_path)
    assert codes(tmp_path) == codes(tmp_path, deep=True) == set()
    (case,) = check_root(tmp_path, deep=True, workers=1).document()["cases"]  # recognised
    assert (case["shape"], case["spacing_mm"]) == ([12, 10, 6], [0.8, 0.7, 2.5])


def test_series_in_one_zip_are_no_copies(tmp_path: Path):
    mixed(tmp_path / "tree")
    shutil.make_archive(str(tmp_path / "both"), "zip", tmp_path / "tree")
    assert codes(tmp_path / "both.zip") == {"dicom-several-series"}
    write(tmp_path / "tree" / "later", series="1.2.840.3")
    assert codes(tmp_path / "tree") == {"dicom-several-series"}  # another series UID makes other files
    assert codes(tmp_path / "tree", deep=True) == {"dicom-several-series", "duplicate-case"}


def test_spacing_and_axes_of_series(tmp_path: Path):
    for n in range(9):
        spacing_mm = (0.8, 0.7, 15.0 if n == 4 else 2.5)
        turn = Rotation.from_euler("x", 20 if n == 5 else 0, degrees=True).as_matrix()
        write_series(
            tmp_path / str(n), phantom_hu(seed=n), ct_affine(spacing_mm, turn=turn), series=f"1.2.{n}", change=in_order
        )
    report = check_root(tmp_path, workers=1)
    found = {(finding.code, finding.case): finding.text for finding in report.findings if finding.case}
    keys = {case["case"].partition("_")[2]: case["case"] for case in report.document()["cases"]}
    thick, turned = (keys[dicom.list_series(tmp_path / str(n))[0].key] for n in (4, 5))
    assert "15 mm between slices, mostly 2.5 to 2.5" in found["spacing-outlier", thick]
    assert "0.8 x 0.7 x 15 mm: CT has pixels" in found["implausible-spacing", thick]
    assert "turned 20 degrees" in found["oblique-axes", turned]
    assert len([code for code, _ in found if code != "no-label"]) == 3
    cases = {case["case"]: case for case in report.document()["cases"]}
    assert (cases[thick]["shape"], cases[thick]["spacing_mm"]) == ([12, 10, 6], [0.8, 0.7, 15.0])


@pytest.mark.parametrize("code", BROKEN)
def test_what_is_wrong_with_a_series(tmp_path: Path, code: str):
    BROKEN[code](tmp_path)
    assert codes(tmp_path) == {f"dicom-{code}"} | ALSO.get(code, set())
    report = check_root(tmp_path, "dicom", deep=True, workers=1)
    found = [finding for finding in report.findings if finding.code not in ("no-label", "not-hu")]
    assert {finding.code for finding in found} == {f"dicom-{code}"} | ALSO.get(code, set())
    one = next(finding for finding in found if finding.code == f"dicom-{code}")
    assert one.case == (None if code in TREE else report.data.cases[0].case.id)
    wrong = {finding.code: finding.error for finding in dicom.findings(tmp_path)}
    assert (one.severity == "error") == wrong[code]  # an error is what the reader refuses
    said = str(report.document())
    assert NAME not in said and "Doe" not in said and ID not in said


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (None, ""),
        ("shape-mismatch", "image of 12 x 10 x 6 voxels, label of 12 x 10 x 5"),
        ("affine-mismatch", "image and label lie apart, a corner lies 3 mm away"),
    ],
)
def test_a_nifti_label_map_on_another_grid_is_seen_in_the_headers(tmp_path: Path, spoil: str | None, text: str):
    hu, affine = write_series(tmp_path / "ct")
    labels = np.zeros(hu.shape[: 2 + 1], np.uint8)
    labels[3:6, 3:6, 2:4] = 1
    if spoil == "affine-mismatch":
        affine = affine.copy()
        affine[0, 3] += 3
    image = nib.Nifti1Image(labels[:, :, :-1] if spoil == "shape-mismatch" else labels, affine)
    nib.save(image.as_reoriented([[0, 1], [1, -1], [2, 1]]), tmp_path / "ct_label.nii")  # as a converter writes it
    found = [f for f in check_root(tmp_path, "dicom", workers=1).findings if f.code.endswith("-mismatch")]
    assert [f.code for f in found] == ([spoil] if spoil else [])
    assert all(text in f.text for f in found)

"""Real CT: organs where they belong, and what flips do to them."""

from pathlib import Path

import numpy as np
import pytest

from hlfd.doctor import check_root
from hlfd.doctor.anatomy import examine_anatomy
from hlfd.io import nifti
from hlfd.io.images import read_slice
from hlfd.labels import Labels

LABELS = Labels({0: 0, 5: 1, 2: 2, 3: 3}, {"liver": (1,), "kidney": (2, 3)}, ("liver", "kidney_right", "kidney_left"))


@pytest.fixture(scope="module")
def scan(shared_data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU, class indices and affine of a trunk, 3 mm."""
    folder = shared_data / "totalsegmentator"
    if not (folder / "ct_3mm.nii.gz").is_file():
        pytest.skip("needs ../shared/data/totalsegmentator/ct_3mm.nii.gz")
    image, label = nifti.read_image(folder / "ct_3mm.nii.gz"), nifti.read_label(folder / "ct_3mm_segmentation.nii.gz")
    classes = np.zeros(label.shape, np.uint8)
    for value, index in LABELS.raw.items():
        classes[label.voxels == value] = index
    return image.voxels, classes, image.affine


def test_organs_of_a_real_trunk(scan):
    hu, classes, affine = scan
    found = examine_anatomy(hu, affine, classes, LABELS)
    assert found is not None and found.lungs_ml is not None and found.bones_front is not None
    assert found.right["liver"] > 0.2
    assert found.front["kidney"] < -0.2
    assert found.bones_front < 0
    assert found.lungs_ml[1] > 4 * found.lungs_ml[0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_of_a_real_trunk_shows(scan, axis: int):
    hu, classes, affine = scan
    found = examine_anatomy(np.flip(hu, axis), affine, np.flip(classes, axis), LABELS)
    assert found is not None and found.lungs_ml is not None
    assert (found.right["liver"] < -0.1) == (axis == 0)
    assert (found.front["kidney"] > 0.15) == (axis == 1)
    assert (found.lungs_ml[0] > 4 * found.lungs_ml[1]) == (axis == 2)


def test_a_series_beside_a_scan_that_is_not_its_own(shared_data: Path):
    root = shared_data / "totalsegmentator"
    report = check_root(root, workers=1)
    (facts,) = report.data.cases
    assert facts.case.label == (root / "ct_dicom_segmentation.nii.gz",)
    found = {finding.code: finding.text for finding in report.findings}
    assert set(found) == {"unpaired", "unused-file"}
    assert "ct_3mm_segmentation.nii.gz: has no series it belongs to" in found["unpaired"]
    assert found["unused-file"].endswith("1 NIfTI files belong to no case: ct_3mm.nii.gz")


ANATOMY = {"wrong-side", "back-to-front", "feet-first"}
SLICES = {
    "kits19_slices": {"organ": "kidney", "task": "both", "tumor_value": 2},
    "msd_liver_slices": {"organ": "liver"},
}


@pytest.mark.parametrize("name", SLICES)
def test_upright_8_bit_slices_raise_no_alarm(shared_data: Path, name: str):
    report = check_root(shared_data / name, options=SLICES[name], deep=True, workers=1)
    assert [finding for finding in report.findings if finding.code in ANATOMY] == []
    assert all(facts.anatomy and not facts.anatomy.front for facts in report.data.cases)


def test_mirrored_8_bit_livers_raise_one(shared_data: Path, tmp_path: Path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for path in (shared_data / "msd_liver_slices" / folder).glob("case_0000?_*"):
            np.save(tmp_path / folder / f"{path.stem}.npy", read_slice(path)[:, ::-1])
    report = check_root(tmp_path, options=SLICES["msd_liver_slices"], deep=True, workers=1)
    assert [finding.code for finding in report.findings if finding.code in ANATOMY] == ["wrong-side"] * 9


def test_labels_without_images(shared_data: Path):
    root = shared_data / "kits19_masks"
    if not root.is_dir():
        pytest.skip("needs ../shared/data/kits19_masks")
    report = check_root(root, workers=1)
    assert {finding.code for finding in report.findings} == {"unpaired"}
    assert report.count("error") == len(list(root.iterdir()))

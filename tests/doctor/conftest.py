"""A small abdomen with organs where they belong, written as KiTS19 or LiTS17 would."""

from pathlib import Path
from shutil import copytree

import nibabel as nib
import numpy as np
import pytest

SPACING_MM = 5.0
# Slices from the bottom, rows to posterior, columns to the patient's left.
AFFINE = np.array([[0, 0, -5.0, 130], [0, -5.0, 0, 110], [5.0, 0, 0, -75], [0, 0, 0, 1]])
SHAPE = (30, 44, 52)


def abdomen(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU, kidney labels (2 a tumour), liver labels."""
    random = np.random.default_rng(seed)
    z, y, x = (np.indices(SHAPE) - np.array([15, 21.5, 25.5])[:, None, None, None]) * SPACING_MM

    def ball(at: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        offsets = zip((x, y, z), at, radii, strict=True)
        return sum(((axis - middle) / radius) ** 2 for axis, middle, radius in offsets) < 1

    hu = np.full(SHAPE, -1000.0)
    hu[(x / 122) ** 2 + (y / 98) ** 2 < 1] = 40
    for side in (-1, 1):
        hu[ball((side * 60, 0, 75), (50, 60, 60))] = -850
    hu[(x / 18) ** 2 + ((y - 70) / 18) ** 2 < 1] = 600
    liver = ball((-60, -20, 10), (50, 50, 40))
    kidney = ball((-60, 45, -20), (22, 22, 40)) | ball((60, 45, -20), (22, 22, 40))
    hu[liver], hu[kidney] = 110, 180
    labels = kidney.astype(np.uint8)
    labels[ball((60, 45, -30), (14, 14, 14))] = 2
    noisy = np.clip(hu + random.normal(0, 12, SHAPE), -1024, 3071)
    return np.rint(noisy).astype(np.int16), labels, liver.astype(np.uint8)


def save(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is copied for each test: ``data`` in the KiTS19 layout, ``livers`` in that of LiTS17."""
    root = tmp_path_factory.mktemp("made")
    for number in range(3):
        hu, kidneys, liver = abdomen(number)
        folder = root / "data" / f"case_{number:05}"
        save(folder / "imaging.nii.gz", hu)
        save(folder / "segmentation.nii.gz", kidneys)
        if number < 2:
            save(root / "livers" / f"volume-{number}.nii", hu)
            save(root / "livers" / f"segmentation-{number}.nii", liver)
    return root


@pytest.fixture
def sound(made: Path, tmp_path: Path) -> Path:
    """A sound root of three cases in the KiTS19 layout."""
    return Path(copytree(made / "data", tmp_path / "data"))


@pytest.fixture
def livers(made: Path, tmp_path: Path) -> Path:
    """A sound root of two cases in the LiTS17 layout."""
    return Path(copytree(made / "livers", tmp_path / "livers"))

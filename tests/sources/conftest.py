"""Writers of each layout: ``layouts[NAME](root, {case: (image, label or None)})``, both as `Volume`."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlfd.volume import Volume

Cases = Mapping[str, tuple[Volume, Volume | None]]


def save(path: Path, volume: Volume, channels: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = volume.voxels
    if channels is not None:  # the volume itself is the last of them
        others = [np.full_like(voxels, n) for n in range(channels - 1)]
        voxels = np.stack([*others, voxels], axis=-1)
    image = nib.Nifti1Image(voxels, volume.affine)
    image.set_sform(volume.affine, 1)
    nib.save(image, path)


def save_pairs(cases: Cases, image: Callable[[str], Path], label: Callable[[str], Path], channels=None) -> None:
    for name, (ct, mask) in cases.items():
        save(image(name), ct, channels)
        if mask is not None:
            save(label(name), mask)


def kits(root: Path, cases: Cases, segmentation: str = "segmentation") -> Path:
    save_pairs(cases, lambda c: root / c / "imaging.nii.gz", lambda c: root / c / f"{segmentation}.nii.gz")
    return root


def kits21(root: Path, cases: Cases) -> Path:
    return kits(root, cases, "aggregated_MAJ_seg")


def kits23(root: Path, cases: Cases) -> Path:
    kits(root / "dataset", cases)
    for name in cases:
        (root / "dataset" / name / "instances").mkdir(exist_ok=True)
    return root


def lits(root: Path, cases: Cases) -> Path:
    """Both batches, and both endings; names are made numbers."""
    numbers = {name: n for n, name in enumerate(cases)}

    def place(kind: str) -> Callable[[str], Path]:
        return lambda c: (
            root / f"Training Batch {numbers[c] % 2 + 1}" / f"{kind}-{numbers[c]}.nii{'.gz' * (numbers[c] % 2)}"
        )

    save_pairs(cases, place("volume"), place("segmentation"))
    return root


def msd(root: Path, cases: Cases, channels: int | None = None) -> Path:
    save_pairs(
        cases,
        lambda c: root / ("imagesTr" if cases[c][1] else "imagesTs") / f"{c}.nii.gz",
        lambda c: root / "labelsTr" / f"{c}.nii.gz",
        channels,
    )
    described = {
        "name": "Liver",
        "modality": {str(n): "CT" if n == (channels or 1) - 1 else f"MRI{n}" for n in range(channels or 1)},
        "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "training": [
            {"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases if cases[c][1]
        ],
        "test": [f"./imagesTs/{c}.nii.gz" for c in cases if not cases[c][1]],
    }
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def nnunet(root: Path, cases: Cases, **described: object) -> Path:
    save_pairs(
        cases,
        lambda c: root / "imagesTr" / f"{c}_0000.nii.gz",
        lambda c: root / "labelsTr" / f"{c}.nii.gz",
    )
    default = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "kidney": 1, "tumor": 2},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps({**default, **described}))
    return root


def pairs(root: Path, cases: Cases) -> Path:
    save_pairs(cases, lambda c: root / "images" / f"{c}_0000.nii.gz", lambda c: root / "labels" / f"{c}.nii")
    return root


@pytest.fixture(scope="session")
def layouts() -> dict[str, Callable[..., Path]]:
    return {write.__name__: write for write in (kits, kits21, kits23, lits, msd, nnunet, pairs)}


def volume_pair(seed: int = 0, shape=(5, 12, 10), affine: np.ndarray | None = None) -> tuple[Volume, Volume]:
    random = np.random.default_rng(seed)
    affine = (
        np.array([[0, 0, -0.8, 20], [0, -0.7, 0, 30], [-2.5, 0, 0, -40], [0, 0, 0, 1.0]]) if affine is None else affine
    )
    label = random.integers(0, 3, shape).astype(np.uint8)
    image = random.integers(-100, 200, shape).astype(np.int16)
    return Volume(image, affine), Volume(label, affine)


@pytest.fixture(scope="session")
def volumes() -> Callable[..., tuple[Volume, Volume]]:
    """``volumes(seed, shape, affine)``: an image and its labels, 0 to 2."""
    return volume_pair


@pytest.fixture(scope="session")
def three() -> Cases:
    """Three cases."""
    return {f"case_{n:05}": volume_pair(n) for n in range(3)}

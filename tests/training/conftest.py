"""A tiny prepared data set in the KiTS19 layout, and jobs on it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from hlfd import plugins
from hlfd.data.prepare import prepare
from hlfd.data.preprocess import Preprocess
from hlfd.data.splits import Split
from hlfd.data.store import Store
from hlfd.labels import organ_and_tumor
from hlfd.sections import Method, Plugin, TeacherSection, TrainingSection
from hlfd.training.job import Job
from hlfd.training.run import run

PATIENTS = tuple(f"case_{n:05}" for n in range(7))
SPLIT = Split(train=PATIENTS[:4], validation=PATIENTS[4:6], test=PATIENTS[6:])
LABELS = organ_and_tumor("both", "kidney")
WINDOW_HU = (-200, 300)
SLICES = {patient: 4 + (patient in SPLIT.validation[1:]) for patient in PATIENTS}  # unequal, so that means differ


def volume(patient: int, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc (kidney) with a brighter one in it (tumour) on noise; slice 0 is empty. Axes S, P, L."""
    random = np.random.default_rng(patient)
    k, rows, columns = np.indices((slices, 32, 32))
    middle = random.integers(12, 20, 2)
    distance = np.hypot(rows - middle[0], columns - middle[1])
    label = ((distance < 9) & (k > 0)).astype(np.uint8)
    label[(distance < 4) & (k > 1)] = 2
    return np.array([-100, 80, 200])[label] + random.normal(0, 40, label.shape), label


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set's root."""
    root = tmp_path_factory.mktemp("kits")
    affine = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    for n, patient in enumerate(PATIENTS):
        image, label = volume(n, SLICES[patient])
        (root / patient).mkdir()
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), root / patient / "imaging.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), root / patient / "segmentation.nii.gz")
    return root


@pytest.fixture(scope="session")
def store(volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    make_source = partial(plugins.load, "sources", "kits", volumes)
    return prepare(make_source, Preprocess(window_hu=WINDOW_HU), tmp_path_factory.mktemp("store") / "store")


MakeJob = Callable[..., Job]


@pytest.fixture(scope="session")
def job_in(store: Store) -> MakeJob:
    """``job_in(root, "folder", method="hlfd", teacher=MODEL_FOLDER, lr=...)``: other keywords are settings."""
    return partial(job_on, store)


@pytest.fixture
def make_job(job_in: MakeJob, tmp_path: Path) -> MakeJob:
    """As ``job_in``, in the test's own folder."""
    return partial(job_in, tmp_path)


def job_on(
    store: Store,
    root: Path,
    folder: str = "run",
    *,
    method: str | dict[str, Any] | None = None,
    teacher: Path | None = None,
    teachers: tuple[TeacherSection, ...] = (),
    unseen_only: bool = False,
    cache: Path | None = None,
    network: Plugin | None = None,
    split: Split = SPLIT,
    seed: int = 3,
    data: str = "kits",
    **settings: Any,
) -> Job:
    # 9 steps an epoch: the first step after a checkpoint is the tenth, which is logged.
    section = {"epochs": 2, "samples_per_epoch": 36, "batch_size": 4, "head_steps": 3, "lr": 5e-3, **settings}
    if "kept" in section:
        section["cache"] = section.pop("kept")
    return Job(
        folder=root / folder,
        network=network or Plugin(name="unet", width=2),
        training=TrainingSection(**section),
        store=store,
        split=split,
        labels=LABELS,
        data=data,
        seed=seed,
        method=Method.model_validate({"name": method} if isinstance(method, str) else method) if method else None,
        teachers=(TeacherSection(model=teacher),) if teacher else teachers,
        unseen_only=unseen_only,
        cache=cache,
    )


@pytest.fixture(scope="session")
def teacher(job_in: MakeJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a teacher trained for one epoch."""
    return run(job_in(tmp_path_factory.mktemp("teacher"), epochs=1, network=Plugin(name="unet", width=3)))


@pytest.fixture(autouse=True)
def few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

"""The whole chain on real CT: a few slices from data to report, then the model on a volume in HU."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from hlfd import recipe
from hlfd.study.compare import compare

SMALL = {"epochs": 2, "samples_per_epoch": 24, "head_steps": 3, "lr": 5e-3}
PATIENTS = 8


@pytest.fixture(scope="module")
def comparison(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[recipe.Recipe, dict]:
    """A comparison of three tiny models on the slices of eight patients."""
    folder = tmp_path_factory.mktemp("chain")
    root = shared_data / "msd_liver_slices"
    patients = sorted({p.name.split("_slice")[0] for p in (root / "images").iterdir()})[:PATIENTS]
    for kind in ("images", "masks"):
        (folder / "data" / kind).mkdir(parents=True)
        for patient in patients:
            for path in (root / kind).glob(f"{patient}_slice_*"):
                (folder / "data" / kind / path.name).symlink_to(path)
    values = {
        "name": "chain",
        "output": str(folder / "run"),
        "source": {"name": "slices", "root": str(folder / "data"), "task": "organ", "organ": "liver"},
        "preprocess": {"size": [32, 32]},
        "split": {"validation": 2, "test": 3},
        "teacher": {"name": "unet", "width": 6},
        "student": {"name": "unet", "width": 2},
        "teacher_training": SMALL,
        "student_training": SMALL,
        "methods": [{"name": "seg"}, {"name": "kd"}, {"name": "hlfd"}],
    }
    chosen = recipe.from_values(values, "chain")
    return chosen, compare(chosen, workers=1)


def test_results_have_the_documented_form(comparison: tuple[recipe.Recipe, dict]) -> None:
    chosen, results = comparison
    assert json.loads((chosen.folder / "results.json").read_text()) == results
    assert [m["name"] for m in results["models"]] == ["teacher", "student", "student-kd", "student-hlfd"]
    assert [m["method"] for m in results["models"]] == ["seg", "seg", "kd", "hlfd"]
    for model in results["models"]:
        dice = model["labels"]["liver"]["dice"]
        assert 0 <= dice["low"] <= dice["mean"] <= dice["high"] <= 1
        assert dice["patients"] == 3
        assert model["parameters"] > 0
        assert model["multiply_adds"] > 0
        assert model["ms_per_slice"] > 0
    teacher, student, *_ = results["models"]
    assert teacher["parameters"] > 5 * student["parameters"]
    assert results["seconds"] > 0
    assert results["versions"]["torch"]


def test_patients_of_the_parts_are_disjoint_and_all_test_patients_are_judged(
    comparison: tuple[recipe.Recipe, dict],
) -> None:
    chosen, _ = comparison
    (split,) = json.loads((chosen.folder / "splits.json").read_text())["folds"]
    parts = [set(split[name]) for name in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == PATIENTS
    judged = json.loads((chosen.folder / "student-hlfd" / "evaluation.json").read_text())["cases"]
    assert {case["patient"] for case in judged} == parts[2]


def test_report_stands_alone_and_shows_every_model(comparison: tuple[recipe.Recipe, dict]) -> None:
    chosen, results = comparison
    page = (chosen.folder / "report.html").read_text()
    for model in results["models"]:
        assert model["name"] in page
    assert page.count("<img") > 3
    assert 'src="http' not in page
    assert "Research use only" in page


def test_running_again_trains_nothing_and_gives_the_same_figures(comparison: tuple[recipe.Recipe, dict]) -> None:
    chosen, results = comparison
    checkpoint = chosen.folder / "teacher" / "checkpoints" / "last.ckpt"
    before = checkpoint.stat().st_mtime_ns
    again = compare(chosen, workers=1)
    assert checkpoint.stat().st_mtime_ns == before
    assert [m["labels"] for m in again["models"]] == [m["labels"] for m in results["models"]]


def test_volume_in_hu_is_prepared_predicted_and_measured_on_its_own_grid(
    comparison: tuple[recipe.Recipe, dict], shared_data: Path, tmp_path: Path, hlfd: Callable[..., Any]
) -> None:
    model = comparison[0].folder / "student"
    root = shared_data / "ircad01_p01"
    steps = Path(__file__).parents[1] / "recipes" / "ircad01_p01.yaml"
    changes = (f"source.root={root}", f"output={tmp_path / 'run'}", "preprocess.size=[32, 32]")
    out = ("--output", tmp_path / "evaluation")
    for command in (
        ("prepare", steps, *changes),
        ("predict", "-m", model, "-i", root / "imaging.nii.gz", "-o", tmp_path / "labels.nii.gz"),
        ("evaluate", model, steps, *changes, "--part", "all", *out),
    ):
        ended = hlfd(*command)
        assert ended.code in (0, None), ended.err

    image, labels = nib.load(root / "imaging.nii.gz"), nib.load(tmp_path / "labels.nii.gz")
    assert labels.shape == image.shape
    assert np.allclose(labels.affine, image.affine, atol=1e-4)
    prediction = np.asarray(labels.dataobj) == 1
    reference = np.isin(np.asarray(nib.load(root / "segmentation.nii.gz").dataobj), (1, 2))
    dice = 2 * (prediction & reference).sum() / (prediction.sum() + reference.sum())
    (case,) = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["cases"]
    assert math.isclose(case["regions"]["liver"]["dice"], dice, rel_tol=1e-9)
    evaluated = nib.load(tmp_path / "evaluation" / "predictions" / "ircad01_p01.nii.gz")
    assert np.array_equal(np.asarray(evaluated.dataobj) == 1, prediction)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_is_valid_and_survives_its_dump(path: Path, tmp_path: Path) -> None:
    read = recipe.read(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.dump(read))
    assert recipe.read(copy) == read

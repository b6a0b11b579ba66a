"""A comparison with teachers that leave patients out, scans without labels, and several methods in one."""

import json

import numpy as np
import pytest

from hlfd import recipe
from hlfd.data.splits import inner_splits
from hlfd.errors import InputError
from hlfd.segmenter import Segmenter, patient_keys
from hlfd.study import steps
from hlfd.study.compare import compare, rebuild_report

SMALL = {"epochs": 1, "samples_per_epoch": 8, "batch_size": 4, "head_steps": 2, "validate_every": 1}


@pytest.fixture(scope="module")
def chosen(make_kits, tmp_path_factory) -> recipe.Recipe:
    folder = tmp_path_factory.mktemp("compare")
    root = make_kits(folder / "kits", 9, shape=(4, 32, 32))
    for case in (7, 8):
        (root / f"case_{case:05}" / "segmentation.nii.gz").unlink()
    values = {
        "name": "small",
        "output": str(folder / "run"),
        "source": {"name": "kits", "root": str(root), "task": "both"},
        "split": {"validation": 1, "test": 2, "labelled": 2},
        "teacher": {"name": "unet", "width": 3},
        "student": {"name": "unet", "width": 2},
        "teacher_training": SMALL,
        "student_training": {**SMALL, "unlabelled_share": 0.5},
        "teacher_folds": 2,
        "methods": [
            {"name": "seg"},
            {"name": "hlfd+cwd", "as": "both", "cwd": {"weight": 1}, "terms": {"cwd.*": {"warmup_epochs": 1}}},
        ],
    }
    return recipe.from_values(values, "test")


@pytest.fixture(scope="module")
def results(chosen) -> dict:
    return compare(chosen, workers=1)


def test_the_comparison_has_all_teachers_and_both_students(results, chosen):
    assert [m["name"] for m in results["models"]] == ["teacher-0", "teacher-1", "student", "student-both"]
    assert [d["name"] for d in results["differences"]] == ["student-both"]
    assert results["models"][3]["method"] == "hlfd+cwd"
    assert all(np.isfinite(m["labels"]["tumor"]["dice"]["mean"]) for m in results["models"])


def test_what_is_on_record(results, chosen):
    (split,) = json.loads((chosen.folder / "splits.json").read_text())["folds"]
    assert {len(split["train"]), len(split["test"])} == {2} and len(split["unlabelled"]) == 2 + 2
    assert {"case_00007", "case_00008"} <= set(split["unlabelled"])
    inner = json.loads((chosen.folder / "teacher-splits.json").read_text())["folds"]
    assert sorted(p for fold in inner for p in fold["test"]) == split["train"]
    student = Segmenter.load(chosen.folder / "student-both" / "model")
    assert patient_keys("kits", split["unlabelled"]) <= student.learned_from
    assert not patient_keys("kits", split["test"]) & student.learned_from
    assert {"hlfd.flfd.e1", "cwd.logits"} <= set(student.facts["terms"])


def test_the_report_shows_terms_and_their_pull(results, chosen):
    page = (chosen.folder / "report.html").read_text()
    assert page.count('class="chart arrows"') == 1
    assert "hlfd.plfd.d4" in page and 'class="pulls"' in page
    (chosen.folder / "report.html").unlink()
    rebuild_report(chosen.folder)
    assert 'class="pulls"' in (chosen.folder / "report.html").read_text()


def test_a_teacher_from_elsewhere_and_a_method_not_in_the_recipe(results, chosen):
    other = recipe.read(chosen.folder / "recipe.yaml", ["methods=[{name: kd}]", "teacher_folds=null"])
    workspace = steps.Workspace(other, workers=1)
    teacher = chosen.folder / "teacher-0" / "model"
    model = steps.train_student(workspace, 0, other.method("kd"), teacher)
    assert model == chosen.folder / "student-kd" / "model"
    with pytest.raises(InputError, match="teacher/model: no teacher there; run 'hlfd train RECIPE --role teacher'"):
        steps.train_student(workspace, 0, other.method("at"))


def test_another_split_of_the_teachers_is_refused(results, chosen):
    split = steps.Workspace(chosen).split(0)
    seed = next(s for s in range(20) if inner_splits(split, 2, s) != inner_splits(split, 2, chosen.seed))
    other = recipe.read(chosen.folder / "recipe.yaml", [f"seed={seed}"])
    workspace = steps.Workspace(other, workers=1)
    with pytest.raises(InputError, match=r"teacher-splits\.json: holds another split than the recipe asks for"):
        workspace.teacher_splits(0)

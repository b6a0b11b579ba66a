"""A comparison with teachers that leave patients out, scans without labels, and several methods in one."""

import json
from pathlib import Path

import numpy as np
import pytest

from hlfd import recipe
from hlfd.data.splits import inner_splits
from hlfd.errors import InputError
from hlfd.segmenter import Segmenter, patient_keys
from hlfd.study import preflight, steps
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
    tumor = [c for c in results["comparisons"] if c["region"] == "tumor"]
    assert [c["name"] for c in tumor] == ["teacher-0", "teacher-1", "student-both"]
    assert {c["minus"] for c in tumor} == {"student"}
    assert "no claim about student-both and student: 2 patients, at least 5 are needed" in tumor[2]["sentence"]
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


def test_a_split_file_can_not_put_patients_without_labels_to_the_test(chosen, tmp_path: Path):
    fold = {"train": ["case_00000"], "validation": ["case_00001"], "test": ["case_00007"]}
    (tmp_path / "s.json").write_text(json.dumps({"folds": [fold]}))
    (tmp_path / "good.json").write_text(json.dumps({"folds": [fold | {"test": ["case_00002"]}]}))
    recipes = [changed(chosen, tmp_path, split={"file": str(tmp_path / name)}) for name in ("s.json", "good.json")]
    with pytest.raises(InputError, match=r"s\.json: patient 'case_00007' has no labels, it can only be unlabelled"):
        steps.Workspace(recipes[0]).split(0)
    assert steps.Workspace(recipes[1]).split(0).test == ("case_00002",)
    assert steps.Workspace(recipes[1]).split(0).test == ("case_00002",)  # as on record


def changed(chosen: recipe.Recipe, folder: Path, **values: object) -> recipe.Recipe:
    """The recipe, with other values and nothing done yet."""
    dumped = chosen.model_dump(mode="json", by_alias=True)
    return recipe.from_values({**dumped, "output": str(folder / "run"), **values}, "test")


SHARE = {"student_training": {**SMALL, "unlabelled_share": 0.5}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"student": {"name": "resnet18", "width": 2}}, "the student has no tap 'd5'"),
        ({"teacher": {"name": "resnet18", "width": 2}}, "the teacher has no tap 'd5'"),
        ({"methods": [{"name": "kd", "terms": {"plfd.*": {}}}]}, r"there is no term 'plfd\.\*'"),
        ({"methods": [{"name": "hlfd", "feature": False, "pixel": False}]}, "method 'hlfd' is left without a term"),
        ({"methods": [{"name": "ifvd"}]}, "method 'ifvd': every term needs labels"),
        (
            {"methods": [{"name": "seg"}, {"name": "fitnet"}], "student_training": {**SMALL, "cache": "require"}},
            r"cache: require: fitnet\.e3: needs whole feature maps",
        ),
        (
            {"source": "labelled", "split": {"validation": 1, "test": 2}, **SHARE},
            "unlabelled_share: fold 0 has no patient without labels",
        ),
        ({"teacher_models": ["nowhere/model"], "teacher_folds": None}, "nowhere/model: no such folder"),
    ],
)
def test_what_can_be_known_before_training_is_said_before_it(chosen, values, message, tmp_path, make_kits, monkeypatch):
    if values.get("source") == "labelled":
        root = make_kits(tmp_path / "kits", 5, shape=(4, 32, 32))
        values = {**values, "source": {"name": "kits", "root": str(root)}}
    _forbid_training(monkeypatch)
    with pytest.raises(InputError, match=message):
        compare(changed(chosen, tmp_path, **values), workers=1)


def test_teachers_are_checked_for_all_folds_before_the_first(results, chosen, tmp_path, monkeypatch):
    _forbid_training(monkeypatch)
    model = chosen.folder / "teacher-0" / "model"
    ((fold,), learned) = json.loads((chosen.folder / "splits.json").read_text())["folds"], Segmenter.load(model)
    seen = [p for p in fold["train"] if patient_keys("kits", [p]) <= learned.learned_from]
    other = {**fold, "train": fold["test"], "test": seen}
    (tmp_path / "s.json").write_text(json.dumps({"folds": [fold, other]}))
    given = {"split": {"file": str(tmp_path / "s.json")}, "teacher_models": [str(model)], "teacher_folds": None}
    with pytest.raises(InputError, match=r"learned from 1 of the 1 test patients"):
        compare(changed(chosen, tmp_path, **given, folds=[0, 1]), workers=1)
    with pytest.raises(
        InputError, match=r"unseen_only: every teacher learned from 1 of the 6 training patients of fold"
    ):
        compare(changed(chosen, tmp_path, **given, unseen_only=True), workers=1)
    preflight.check(steps.Workspace(changed(chosen, tmp_path, **given), workers=1))
    classes = [{"model": str(model), "classes": {"kidney": "kidnee", "tumor": "tumor"}}]
    with pytest.raises(InputError, match=r"classes\.kidney: the teacher has no class 'kidnee'"):
        compare(changed(chosen, tmp_path, **{**given, "teacher_models": classes}), workers=1)


def _forbid_training(monkeypatch):
    def train(*_: object):
        raise AssertionError("a training began")

    monkeypatch.setattr(steps, "train_teachers", train)
    monkeypatch.setattr(steps, "train_student", train)

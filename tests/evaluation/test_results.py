"""Cases to regions to patients to files."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from hlfd.errors import InputError
from hlfd.evaluation import protocols
from hlfd.evaluation.overlap import Counts
from hlfd.evaluation.protocols import CaseResult, Lesion, Scores, evaluate_case, read_evaluation, summarize
from hlfd.evaluation.results import Calibration, write_evaluation
from hlfd.labels import organ_and_tumor
from hlfd.volume import Volume

LABELS = organ_and_tumor("both", "kidney")
AFFINE = np.diag([0.8, 0.8, 5.0, 1.0])
DEFAULT = protocols.load("default")
NAN = float("nan")


def volume(voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Volume:
    return Volume(voxels.astype(np.uint8), affine)


def scores(dice: float, rvd: float = 0.0) -> Scores:
    return Scores(dice=dice, voe=1 - dice / (2 - dice), rvd=rvd, abs_rvd=abs(rvd))


def result(case: str, patient: str, **regions: Scores) -> CaseResult:
    return CaseResult(case, patient, regions, dict.fromkeys(regions, Counts(3, 4, 2)))


def test_an_organ_contains_its_tumor():
    reference, prediction = np.zeros((4, 4, 2)), np.zeros((4, 4, 2))
    reference[:2, :, 0], reference[0, :2, 0] = 1, 2  # 8 voxels of kidney, 2 of them tumour
    prediction[:2, :, 0] = 1  # the same kidney, the tumour missed
    got = evaluate_case(volume(prediction), volume(reference), LABELS, "case_0", protocol=DEFAULT, patient="p")
    assert list(got.regions) == ["kidney", "tumor"]
    assert (got.case, got.patient) == ("case_0", "p")
    assert got.regions["kidney"].dice == 1.0
    missed = got.regions["tumor"]
    assert (missed.dice, missed["voe"], missed["rvd"], missed["abs_rvd"], missed["recall"]) == (0.0, 1.0, -1.0, 1.0, 0)
    assert got.voxels == {"kidney": Counts(8, 8, 8), "tumor": Counts(0, 2, 0)}
    assert list(got.lesions) == ["tumor"]
    (lesion,) = got.lesions["tumor"]
    assert (lesion.side, lesion.detected, lesion.group) == ("reference", False, None)
    assert lesion.volume_ml == pytest.approx(2 * 0.8 * 0.8 * 5 / 1000)
    assert lesion.diameter_mm == pytest.approx(2 * (3 * 6.4 / (4 * math.pi)) ** (1 / 3))


def test_false_positives_on_slices_without_reference_count():
    reference, prediction = np.zeros((4, 4, 5)), np.zeros((4, 4, 5))
    reference[:2, :2, 0] = prediction[:2, :2, 0] = 2
    prediction[0, 0, 1:] = 2
    got = evaluate_case(volume(prediction), volume(reference), LABELS, "c", protocol=DEFAULT)
    assert got.regions["tumor"].dice == pytest.approx(8 / 12)


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (volume(np.zeros((2, 2, 3))), r"case_7: prediction: expected shape \(2, 2, 2\), got \(2, 2, 3\)"),
        (volume(np.zeros((2, 2, 2)), np.diag([1.0, 0.8, 5.0, 1.0])), "case_7: prediction: the affines differ"),
        (volume(np.full((2, 2, 2), 3)), "case_7: prediction: expected class indices 0 to 2, got 3"),
        (Volume(np.full((2, 2, 2), -1), AFFINE), "case_7: prediction: expected class indices 0 to 2, got -1"),
        (Volume(np.zeros((2, 2, 2)), AFFINE), "case_7: prediction: expected integer class indices, got float64"),
    ],
)
def test_refuses_a_prediction(prediction: Volume, words: str):
    with pytest.raises(InputError, match=words):
        evaluate_case(prediction, volume(np.zeros((2, 2, 2))), LABELS, "case_7", protocol=DEFAULT)


def test_refuses_a_reference_of_raw_label_values():
    with pytest.raises(InputError, match="case_7: reference"):
        evaluate_case(volume(np.zeros((2, 2, 2))), volume(np.full((2, 2, 2), 4)), LABELS, "case_7", protocol=DEFAULT)


def test_a_patient_with_many_cases_counts_once():
    cases = [
        result("a1", "a", tumor=scores(0.2, -0.5)),
        result("a2", "a", tumor=scores(0.4, 0.1)),
        result("b1", "b", tumor=scores(0.9, 0.3)),
    ]
    got = summarize(cases)["tumor"]
    assert got["dice"]["mean"] == pytest.approx((0.3 + 0.9) / 2)
    assert got["rvd"]["mean"] == pytest.approx((-0.2 + 0.3) / 2)
    assert got["abs_rvd"]["mean"] == pytest.approx((0.3 + 0.3) / 2)  # per case, then per patient: 0.2 would hide errors
    assert got["dice"]["patients"] == 2
    assert set(got) == {"dice", "voe", "rvd", "abs_rvd"}


def test_undefined_cases_leave_the_patient_defined():
    cases = [
        result("a1", "a", tumor=scores(0.0, NAN)),
        result("a2", "a", tumor=scores(0.5, -0.4)),
        result("b1", "b", tumor=scores(0.0, NAN)),
    ]
    got = summarize(cases)["tumor"]
    assert (got["rvd"]["mean"], got["rvd"]["patients"], got["rvd"]["undefined"]) == (-0.4, 1, 1)
    assert (got["dice"]["mean"], got["dice"]["patients"], got["dice"]["undefined"]) == (0.125, 2, 0)
    assert got["rvd"]["low"] is None
    assert got["rvd"]["high"] is None


def test_refuses_cases_that_cannot_be_summarized():
    one = result("a", "a", tumor=scores(0.5))
    with pytest.raises(InputError, match="no cases"):
        summarize([])
    with pytest.raises(InputError, match="case a occurs twice"):
        summarize([one, one])
    with pytest.raises(InputError, match="b: expected regions"):
        summarize([one, result("b", "b", kidney=scores(0.5))])
    with pytest.raises(InputError, match="b: tumor: expected metrics"):
        summarize([one, result("b", "b", tumor=Scores(dice=0.5))])


def evaluated() -> list[CaseResult]:
    reference, prediction = np.zeros((6, 6, 3)), np.zeros((6, 6, 3))
    reference[1:5, 1:5], prediction[1:5, 1:4] = 1, 1
    prediction[2:3, 2:3, 1] = 2  # an invented tumour
    second = reference.copy()
    second[2:4, 2:4, 1] = 2
    bins = {"all": Calibration([0, 3], [0.0, 2.4], [0, 3])}
    return [
        evaluate_case(volume(p), volume(r), LABELS, case, protocol=DEFAULT, patient=case[0], calibration=bins)
        for p, r, case in ((prediction, reference, "a,1"), (prediction, second, "b1"))
    ]


def test_files(tmp_path: Path):
    cases = evaluated()
    written = write_evaluation(tmp_path / "run", cases, DEFAULT)
    document = json.loads((tmp_path / "run" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert written == document
    assert (document["protocol"], document["options"]) == ("default", {"tolerance_mm": 2.0})
    assert "undefined" in document["empty_policy"]
    first = document["cases"][0]
    assert (first["case"], first["patient"]) == ("a,1", "a")
    assert first["regions"]["tumor"]["rvd"] is None
    assert first["regions"]["kidney"]["dice"] == cases[0].regions["kidney"].dice
    assert document["labels"] == json.loads(json.dumps(summarize(cases)))
    assert document["empty"] == {
        "kidney": {"both": 0, "reference": 0, "prediction": 0},
        "tumor": {"both": 0, "reference": 1, "prediction": 0},
    }
    assert document["global"]["kidney"]["dice_global"] == pytest.approx(2 * 72 / (72 + 96))
    assert document["global"]["calibration"] == {"ece_all": pytest.approx(0.2)}
    rows = list(csv.DictReader((tmp_path / "run" / "evaluation.csv").read_text().splitlines()))
    assert [(r["case"], r["patient"], r["region"], r["empty"]) for r in rows] == [
        ("a,1", "a", "kidney", ""),
        ("a,1", "a", "tumor", "reference"),
        ("b1", "b", "kidney", ""),
        ("b1", "b", "tumor", ""),
    ]
    assert (rows[1]["rvd"], rows[0]["lesion_recall"]) == ("", "")
    assert math.isclose(float(rows[3]["rvd"]), cases[1].regions["tumor"]["rvd"], rel_tol=1e-15)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["evaluation.csv", "evaluation.json"]


def test_what_is_written_is_read(tmp_path: Path):
    cases = evaluated()
    write_evaluation(tmp_path, cases, DEFAULT)
    assert repr(read_evaluation(tmp_path / "evaluation.json")) == repr(cases)  # repr: NaN equals NaN
    assert any(isinstance(x, Lesion) and x.detected for case in cases for x in case.lesions["tumor"])


def test_a_file_of_version_1_is_read(tmp_path: Path):
    case = {"case": "a", "patient": "p", "regions": {"tumor": {"dice": 0.5, "rvd": None}}}
    (tmp_path / "e.json").write_text(json.dumps({"protocol": "default", "cases": [case]}))
    (read,) = read_evaluation(tmp_path / "e.json")
    assert (read.case, read.regions["tumor"].dice, math.isnan(read.regions["tumor"]["rvd"])) == ("a", 0.5, True)


@pytest.mark.parametrize("text", ["{", "{}", '{"cases": [{"case": "a"}]}', '{"cases": 3}', "[]"])
def test_refuses_a_file_that_is_no_evaluation(tmp_path: Path, text: str):
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(InputError, match=r"e\.json: not the file of an evaluation"):
        read_evaluation(tmp_path / "e.json")
    with pytest.raises(InputError, match=r"gone\.json: no such file"):
        read_evaluation(tmp_path / "gone.json")

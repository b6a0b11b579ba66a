"""Cases to regions to patients to files."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from hlfd.errors import InputError
from hlfd.evaluation.metrics import METRICS, Overlap
from hlfd.evaluation.protocols import CaseResult, evaluate_case, summarize, write_evaluation
from hlfd.labels import organ_and_tumor
from hlfd.volume import Volume

LABELS = organ_and_tumor("both", "kidney")
AFFINE = np.diag([0.8, 0.8, 5.0, 1.0])


def volume(voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Volume:
    return Volume(voxels.astype(np.uint8), affine)


def scores(dice: float, rvd: float = 0.0) -> Overlap:
    return Overlap(dice=dice, voe=1 - dice / (2 - dice), rvd=rvd, abs_rvd=abs(rvd))


def test_an_organ_contains_its_tumor():
    reference, prediction = np.zeros((4, 4, 2)), np.zeros((4, 4, 2))
    reference[:2, :, 0], reference[0, :2, 0] = 1, 2  # 8 voxels of kidney, 2 of them tumour
    prediction[:2, :, 0] = 1  # the same kidney, the tumour missed
    got = evaluate_case(volume(prediction), volume(reference), LABELS, "case_0")
    assert list(got) == ["kidney", "tumor"]
    assert got["kidney"] == Overlap(1.0, 0.0, 0.0, 0.0)
    assert got["tumor"] == Overlap(0.0, 1.0, -1.0, 1.0)


def test_false_positives_on_slices_without_reference_count():
    reference, prediction = np.zeros((4, 4, 5)), np.zeros((4, 4, 5))
    reference[:2, :2, 0] = prediction[:2, :2, 0] = 2
    prediction[0, 0, 1:] = 2
    assert evaluate_case(volume(prediction), volume(reference), LABELS, "c")["tumor"].dice == pytest.approx(8 / 12)


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
        evaluate_case(prediction, volume(np.zeros((2, 2, 2))), LABELS, "case_7")


def test_refuses_a_reference_of_raw_label_values():
    with pytest.raises(InputError, match="case_7: reference"):
        evaluate_case(volume(np.zeros((2, 2, 2))), volume(np.full((2, 2, 2), 4)), LABELS, "case_7")


def test_a_patient_with_many_cases_counts_once():
    cases = [
        CaseResult("a1", "a", {"tumor": scores(0.2, -0.5)}),
        CaseResult("a2", "a", {"tumor": scores(0.4, 0.1)}),
        CaseResult("b1", "b", {"tumor": scores(0.9, 0.3)}),
    ]
    got = summarize(cases)["tumor"]
    assert got["dice"]["mean"] == pytest.approx((0.3 + 0.9) / 2)
    assert got["rvd"]["mean"] == pytest.approx((-0.2 + 0.3) / 2)
    assert got["abs_rvd"]["mean"] == pytest.approx((0.3 + 0.3) / 2)  # per case, then per patient: 0.2 would hide errors
    assert got["dice"]["patients"] == 2
    assert set(got) == set(METRICS)


def test_undefined_cases_leave_the_patient_defined():
    nan = float("nan")
    cases = [
        CaseResult("a1", "a", {"tumor": Overlap(0.0, 1.0, nan, nan)}),
        CaseResult("a2", "a", {"tumor": scores(0.5, -0.4)}),
        CaseResult("b1", "b", {"tumor": Overlap(0.0, 1.0, nan, nan)}),
    ]
    got = summarize(cases)["tumor"]
    assert (got["rvd"]["mean"], got["rvd"]["patients"], got["rvd"]["undefined"]) == (-0.4, 1, 1)
    assert (got["dice"]["mean"], got["dice"]["patients"], got["dice"]["undefined"]) == (0.125, 2, 0)
    assert got["rvd"]["low"] is None
    assert got["rvd"]["high"] is None


def test_refuses_cases_that_cannot_be_summarized():
    one = CaseResult("a", "a", {"tumor": scores(0.5)})
    with pytest.raises(InputError, match="no cases"):
        summarize([])
    with pytest.raises(InputError, match="case a occurs twice"):
        summarize([one, one])
    with pytest.raises(InputError, match="b: expected regions"):
        summarize([one, CaseResult("b", "b", {"kidney": scores(0.5)})])


def test_files(tmp_path: Path):
    nan = float("nan")
    cases = [
        CaseResult("a,1", "a", {"kidney": scores(0.9, 0.1), "tumor": Overlap(0.0, 1.0, nan, nan)}),
        CaseResult("b1", "b", {"kidney": scores(0.8, 0.1), "tumor": scores(0.4, 1 / 3)}),
    ]
    write_evaluation(tmp_path / "run", cases)
    document = json.loads((tmp_path / "run" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert document["protocol"] == "default"
    assert "undefined" in document["empty_policy"]
    assert document["cases"][0] == {
        "case": "a,1",
        "patient": "a",
        "regions": {
            "kidney": {"dice": 0.9, "voe": pytest.approx(0.1 / 0.55), "rvd": 0.1, "abs_rvd": 0.1},
            "tumor": {"dice": 0.0, "voe": 1.0, "rvd": None, "abs_rvd": None},
        },
    }
    assert document["labels"] == summarize(cases)
    rows = list(csv.DictReader((tmp_path / "run" / "evaluation.csv").read_text().splitlines()))
    assert [(r["case"], r["patient"], r["region"]) for r in rows] == [
        ("a,1", "a", "kidney"),
        ("a,1", "a", "tumor"),
        ("b1", "b", "kidney"),
        ("b1", "b", "tumor"),
    ]
    assert rows[1]["rvd"] == ""
    assert math.isclose(float(rows[3]["rvd"]), 1 / 3, rel_tol=1e-15)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["evaluation.csv", "evaluation.json"]

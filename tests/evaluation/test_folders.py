"""Folders of label maps, from the command line: what is measured, what is refused, and how that is said."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlfd.evaluation.folders import evaluate_folders
from hlfd.io import nifti

AFFINE = np.diag([0.8, 0.8, 2.5, 1.0])


def write(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def label_map(seed: int) -> np.ndarray:
    voxels = np.zeros((14, 14, 8), np.uint8)
    voxels[2:11, 2:11, 1:7] = 1
    voxels[3 + seed : 6 + seed, 4:7, 2:5] = 2
    return voxels


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and references of three cases."""
    for case in range(3):
        write(tmp_path / "p" / f"case_{case}.nii.gz", np.roll(label_map(case), 1, 0))
        write(tmp_path / "r" / f"case_{case}.nii.gz", label_map(case))
    return tmp_path / "p", tmp_path / "r"


def test_measures_every_case_and_says_where(folders, hlfd, tmp_path):
    given = ("--predictions", folders[0], "--references", folders[1], "--region", "liver=1,2", "--region", "tumor=2")
    ended = hlfd("evaluate", *given, "--tolerance", "1.5", "--workers", "1", "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == str(tmp_path / "out" / "evaluation.json")
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [c["case"] for c in document["cases"]] == ["case_0", "case_1", "case_2"]
    assert document["options"] == {"tolerance_mm": 1.5}
    p, r = np.roll(label_map(1), 1, 0), label_map(1)
    dice = 2 * ((p > 0) & (r > 0)).sum() / ((p > 0).sum() + (r > 0).sum())
    assert document["cases"][1]["regions"]["liver"]["dice"] == pytest.approx(dice)
    assert document["cases"][1]["regions"]["tumor"]["hd95_mm"] == pytest.approx(0.8)
    row = next(line for line in ended.out.splitlines() if "liver" in line and "dice" in line)
    assert f"{document['labels']['liver']['dice']['mean']:.3f}" in row
    assert all(len(line) <= 80 for line in ended.out.splitlines()[:-1]), ended.out


def test_processes_give_the_same_and_without_regions_each_value_is_one(folders):
    one, protocol = evaluate_folders(*folders, workers=1)
    two, _ = evaluate_folders(*folders, workers=2)
    assert repr(one) == repr(two)
    assert protocol.name == "default"
    assert list(one[0].regions) == ["label_1", "label_2"]


def test_layouts(tmp_path: Path):
    write(tmp_path / "kits" / "case_7" / "segmentation.nii.gz", label_map(0))
    write(tmp_path / "kits" / "case_7" / "imaging.nii.gz", label_map(0))
    write(tmp_path / "lits" / "segmentation-7.nii", label_map(0))
    write(tmp_path / "p" / "case_7.nii.gz", label_map(0))
    write(tmp_path / "q" / "volume-7.nii.gz", label_map(0))
    (results, _), (others, _) = (
        evaluate_folders(tmp_path / "p", tmp_path / "kits", protocol="kits23"),
        evaluate_folders(tmp_path / "q", tmp_path / "lits", protocol="lits"),
    )
    assert (results[0].case, results[0].regions["tumor"].dice) == ("case_7", 1.0)
    assert (others[0].case, others[0].regions["liver"].dice) == ("volume-7", 1.0)


@pytest.mark.parametrize(
    ("reference", "prediction", "case"),
    [
        ("case_00210/aggregated_MAJ_seg.nii.gz", "case_00210.nii.gz", "case_00210"),
        ("case_00210/segmentation.nii.gz", "prediction_00210.nii.gz", "case_00210"),
        ("segmentation-3.nii", "segmentation-3.nii.gz", "volume-3"),
        ("test-volume-3.nii.gz", "test-segmentation-3.nii", "test-volume-3"),
        ("test-segmentation-3.nii", "test-volume-3.nii", "test-volume-3"),
        ("prediction.nii.gz", "prediction.nii.gz", "prediction"),
    ],
)
def test_names_of_the_challenges_and_of_their_submissions(tmp_path: Path, reference, prediction, case):
    write(tmp_path / "r" / reference, label_map(0))
    write(tmp_path / "p" / prediction, label_map(0))
    ((result,), _) = evaluate_folders(tmp_path / "p", tmp_path / "r")
    assert (result.case, result.regions["label_2"].dice) == (case, 1.0)


def test_the_scans_of_lits_lie_beside_its_segmentations(tmp_path: Path):
    for case in range(2):
        write(tmp_path / "lits" / f"segmentation-{case}.nii", label_map(case))
        write(tmp_path / "lits" / f"volume-{case}.nii", np.full((14, 14, 8), -1000, np.int16))
        write(tmp_path / "p" / f"volume-{case}.nii.gz", label_map(case))
    results, _ = evaluate_folders(tmp_path / "p", tmp_path / "lits", protocol="lits")
    assert [(r.case, r.regions["tumor"].dice) for r in results] == [("volume-0", 1.0), ("volume-1", 1.0)]


def test_probabilities_of_label_values_that_leave_one_out(folders, hlfd, tmp_path: Path):
    """Label maps of 0 and 2 with a channel for 0, 1 and 2: perfect ones have no calibration error."""
    for case in range(3):
        voxels = np.where(label_map(case) == 2, 2, 0).astype(np.uint8)
        for name in ("p", "r"):
            write(tmp_path / name / f"case_{case}.nii.gz", voxels)
        channels = np.eye(3, dtype=np.float32)[voxels]
        channels[0, 0, 0] = (0.5, 0.4, 0.1)  # a value that is no class counts as background
        write(tmp_path / "values" / f"case_{case}.nii.gz", channels)
        write(tmp_path / "classes" / f"case_{case}.nii.gz", channels[..., [0, 2]] + channels[..., [1, 1]] * (1, 0))
        write(tmp_path / "four" / f"case_{case}.nii.gz", np.eye(4, dtype=np.float32)[voxels])
    given = ("--predictions", folders[0], "--references", folders[1], "--region", "tumor=2", "--workers", 1)
    found = []
    for name in ("values", "classes"):
        ended = hlfd("evaluate", *given, "--probabilities", tmp_path / name)
        assert ended.code == 0, ended.err
        document = json.loads((folders[0] / "evaluation-default" / "evaluation.json").read_text())
        found.append(document["global"]["calibration"])
    assert found[0] == pytest.approx({"ece_all": 0.1 / (14 * 14 * 8), "ece_foreground": 0.0}, abs=1e-6)
    assert found[1] == pytest.approx(found[0])
    ended = hlfd("evaluate", *given, "--probabilities", tmp_path / "four")
    expected = "as many channels as classes, 2 (background, tumor) or 3 (values 0 to 2), got 4"
    assert ended.code == 2
    assert f"four/case_0.nii.gz: expected {expected}" in ended.err


def test_probabilities(folders, tmp_path: Path):
    for case in range(3):
        hard = np.eye(3, dtype=np.float32)[np.roll(label_map(case), 1, 0)]
        write(tmp_path / "s" / f"case_{case}.nii.gz", 0.9 * hard + 0.1 / 3)
    results, _ = evaluate_folders(*folders, probabilities=tmp_path / "s")
    p, r = np.roll(label_map(0), 1, 0), label_map(0)
    sure = 0.9 + 0.1 / 3
    assert results[0].calibration["all"].ece == pytest.approx(abs((p == r).mean() - sure), abs=1e-6)
    inside = (p > 0) | (r > 0)
    assert results[0].calibration["foreground"].ece == pytest.approx(abs((p == r)[inside].mean() - sure), abs=1e-6)


def test_an_invented_and_a_missed_tumour_are_counted(folders, hlfd):
    write(folders[0] / "case_0.nii.gz", np.minimum(label_map(0), 1))
    write(folders[1] / "case_1.nii.gz", np.minimum(label_map(1), 1))
    given = ("--predictions", folders[0], "--references", folders[1], "--protocol", "lits", "--workers", 1)
    ended = hlfd("evaluate", *given)
    assert ended.code == 0, ended.err
    counts = r"tumor\s+0\s+1\s+1\s*$"
    assert re.search(counts, ended.out, re.M), ended.out
    assert (folders[0] / "evaluation-lits" / "evaluation.csv").is_file()
    again = hlfd("evaluate", *given)
    assert again.out == ended.out  # what was written is no case


MOVED = np.diag([0.8, 0.8, 2.6, 1.0])


def two_spacings(path: Path) -> None:
    image = nib.Nifti1Image(label_map(0), AFFINE)
    image.header.set_zooms((1.0, 1.0, 5.0))
    image.header.set_sform(AFFINE, code=1)
    nib.save(image, path)
    raw = bytearray(path.read_bytes())
    raw[80:92] = np.array([1.0, 1.0, 5.0], "<f4").tobytes()  # pixdim[1:4], which nibabel had made agree
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p, r: (p / "case_1.nii.gz").unlink(), "p: no prediction for 1 of 3 cases: case_1"),
        (lambda p, r: (r / "case_1.nii.gz").unlink(), "r: no reference for 1 of the predictions: case_1"),
        (lambda p, r: write(p / "case_1.nii", label_map(0)), "p: expected each case once, got case_1.nii"),
        (lambda p, r: write(p / "case_1.nii.gz", label_map(0)[1:]), "case_1: prediction: expected shape (14, 14, 8)"),
        (lambda p, r: write(p / "case_1.nii.gz", label_map(0), MOVED), "case_1: prediction: the affines differ"),
        (lambda p, r: write(p / "case_1.nii.gz", label_map(0) * 2), "case_1.nii.gz: unknown label values 4"),
        (lambda p, r: write(p / "case_1.nii.gz", label_map(0) / 2), "case_1.nii.gz: expected whole numbers as labels"),
        (lambda p, r: write(p / "case_1.nii.gz", np.full((14, 14, 8), np.nan)), "expected whole numbers as labels"),
        (lambda p, r: (p / "case_1.nii.gz").write_bytes(b"no"), "case_1.nii.gz: expected a whole NIfTI file"),
        (lambda p, r: [f.unlink() for f in r.iterdir()], "r: expected label maps, CASE.nii.gz"),
        (lambda p, r: [f.unlink() for f in p.iterdir()], "p: no prediction for 3 of 3 cases: case_0, case_1, case_2"),
        (
            lambda p, r: [(p / "case_1.nii.gz").unlink(), two_spacings(p / "case_1.nii")],
            "says a spacing of 1 x 1 x 5 mm",
        ),
    ],
)
def test_refuses_files(folders, hlfd, spoil, words):
    spoil(*folders)
    ended = hlfd("evaluate", "--predictions", folders[0], "--references", folders[1], "--workers", 1)
    assert (ended.code, "Traceback" in ended.err) == (2, False)
    assert words in ended.err.splitlines()[-1]
    assert not (folders[0] / "evaluation-default").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "expected MODEL and RECIPE, or --predictions DIR and --references DIR"),
        (("--predictions", "P"), "expected both --predictions DIR and --references DIR"),
        (("model", "--predictions", "P", "--references", "R"), "and neither MODEL nor RECIPE"),
        (("model", "recipe", "--region", "a=1"), "--region and --probabilities go with --predictions"),
        (("--predictions", "P", "--references", "R", "--protocol", "litz"), "no protocol 'litz' (did you mean 'lits'?"),
        (("--predictions", "P", "--references", "R", "--region", "liver"), "expected NAME=VALUE[,VALUE...]"),
        (("--predictions", "P", "--references", "R", "--region", "a=0"), "expected values from 1 to 255, got [0]"),
        (("--predictions", "P", "--references", "R", "--region", "a=1", "--region", "a=2"), "'a' is given twice"),
        (
            ("--predictions", "P", "--references", "R", "--region", "a=1"),
            "unknown label values 2; expected only [0, 1]",
        ),
        (
            ("--predictions", "P", "--references", "R", "--protocol", "kits19", "--region", "a=1"),
            "protocol 'kits19' has regions of its own (kidney, tumor)",
        ),
        (
            ("--predictions", "P", "--references", "R", "--protocol", "kits19", "--tolerance", "1"),
            "protocol 'kits19' has no option 'tolerance_mm'",
        ),
        (("--predictions", "P", "--references", "nowhere"), "nowhere: no such folder"),
        (("--predictions", "P", "--references", "R", "--probabilities", "E"), "E: no probabilities for 3 cases"),
    ],
)
def test_refuses_arguments(folders, hlfd, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    places = {"P": folders[0], "R": folders[1], "E": tmp_path / "empty"}
    ended = hlfd("evaluate", *(places.get(a, a) for a in arguments), "--workers", 1)
    assert ended.code == 2
    assert words.replace("E:", f"{tmp_path / 'empty'}:") in ended.err


def test_nan_probabilities_are_refused(folders, hlfd, tmp_path):
    for case in range(3):
        values = np.eye(3, dtype=np.float32)[label_map(case)]
        values[0, 0, 4, 0] = np.nan if case == 2 else 1
        write(tmp_path / "s" / f"case_{case}.nii.gz", values)
    given = ("--predictions", folders[0], "--references", folders[1], "--probabilities", tmp_path / "s")
    ended = hlfd("evaluate", *given, "--workers", 1)
    assert ended.code == 2
    assert "case_2.nii.gz: expected probabilities, got 1 NaN in slice 4" in ended.err


def test_a_missed_tumour_is_told_beside_the_volume_difference(folders, hlfd):
    write(folders[0] / "case_0.nii.gz", np.minimum(label_map(0), 1))
    given = ("--predictions", folders[0], "--references", folders[1], "--region", "liver=1,2", "--region", "tumor=2")
    ended = hlfd("evaluate", *given, "--workers", 1)
    assert ended.code == 0, ended.err
    assert re.search(r"^ +rvd, 1 missed +-0\.333", ended.out, re.M), ended.out
    assert all(len(line) <= 80 for line in ended.out.splitlines()[:-1]), ended.out


def test_a_tilted_gantry_is_measured_as_it_lies(tmp_path: Path, hlfd):
    tilted = AFFINE.copy()
    tilted[1, 2] = 1.0  # a shear of 1 mm a slice of 2.5 mm
    voxels = np.zeros((14, 14, 8), np.uint8)
    voxels[2:7, 2:7, 2:6] = 1
    for name, moved in (("r", voxels), ("p", np.roll(voxels, 1, 2))):
        write(tmp_path / name / "a.nii.gz", moved, tilted)
    ended = hlfd("evaluate", "--predictions", tmp_path / "p", "--references", tmp_path / "r", "--workers", 1)
    assert ended.code == 0, ended.err
    (case,) = json.loads((tmp_path / "p" / "evaluation-default" / "evaluation.json").read_text())["cases"]
    assert case["regions"]["label_1"]["reference_ml"] == pytest.approx(100 * 0.8 * 0.8 * 2.5 / 1000)  # not 0.172
    # From a slice's far corner to the nearest column of the slice beside it: 2.5 mm on, and 1 mm of tilt down or up.
    assert case["regions"]["label_1"]["hd_mm"] == pytest.approx(float(np.hypot(2.5, 1.0)))


def test_real_masks_in_their_odd_orientation(shared_data: Path, tmp_path: Path):
    source = shared_data / "kits19_masks" / "case_00011"
    reference = nifti.read_label(source / "segmentation.nii.gz")
    moved = np.roll(reference.voxels, 2, 2)
    write(tmp_path / "p" / "case_00011.nii.gz", moved.astype(np.uint8), reference.affine)
    write(tmp_path / "r" / "case_00011.nii.gz", reference.voxels.astype(np.uint8), reference.affine)
    ((result,), _) = evaluate_folders(tmp_path / "p", tmp_path / "r", protocol="kits19")
    for region, least in (("kidney", 1), ("tumor", 2)):
        p, r = moved >= least, reference.voxels >= least
        assert result.regions[region].dice == pytest.approx(2 * (p & r).sum() / (p.sum() + r.sum()))

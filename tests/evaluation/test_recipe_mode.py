"""`hlfd evaluate MODEL RECIPE`: the recipe's patients, by any protocol made for its labels."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlfd.data.preprocess import Preprocess
from hlfd.inference import Predictor
from hlfd.io import nifti
from hlfd.labels import organ_and_tumor
from hlfd.segmenter import Segmenter, build_network


@pytest.fixture
def arguments(kits_root: Path, tmp_path: Path) -> tuple[Path, Path, str, str]:
    """An untrained model of kidney and tumour, and a recipe of three cases that need no split."""
    network = build_network("unet", {"width": 1}, 3)
    labels = organ_and_tumor("both", "kidney")
    model = Segmenter(network, "unet", {"width": 1}, Preprocess(window_hu=(-200.0, 300.0)), labels)
    values = {
        "name": "tiny",
        "output": str(tmp_path / "out"),
        "source": {"name": "kits", "root": str(kits_root), "task": "both"},
        "split": None,
    }
    (tmp_path / "tiny.yaml").write_text(json.dumps(values))
    return model.save(tmp_path / "model"), tmp_path / "tiny.yaml", "--part", "all"


def test_judges_by_the_protocol_asked_for(hlfd, arguments, kits_root: Path, tmp_path: Path):
    ended = hlfd("evaluate", *arguments, "--protocol", "kits23", "--output", tmp_path / "e")
    assert ended.code == 0, ended.err
    document = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert (document["protocol"], len(document["cases"])) == ("kits23", 3)
    assert set(document["cases"][0]["regions"]) == {"kidney_and_mass", "mass", "tumor"}
    assert "surface_dice" in ended.out
    case = document["cases"][0]["case"]
    prediction = np.asarray(nib.load(tmp_path / "e" / "predictions" / f"{case}.nii.gz").dataobj) > 0
    reference = np.asarray(nib.load(kits_root / case / "segmentation.nii.gz").dataobj) > 0
    dice = 2 * (prediction & reference).sum() / (prediction.sum() + reference.sum())
    assert document["cases"][0]["regions"]["kidney_and_mass"]["dice"] == pytest.approx(dice)


def test_says_how_far_the_probabilities_can_be_believed(hlfd, arguments, kits_root: Path, tmp_path: Path):
    ended = hlfd("evaluate", *arguments, "--output", tmp_path / "e")
    assert ended.code == 0, ended.err
    document = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    found = document["global"]["calibration"]
    assert "ece_foreground" in ended.out
    # The same from the probabilities themselves, with one bin after the other.
    predictor, bins = Predictor(Segmenter.load(arguments[0])), np.zeros((15, 3))
    for case in sorted(path.name for path in kits_root.iterdir()):
        image = nifti.read_image(kits_root / case / "imaging.nii.gz")
        shares = predictor.run(image, probabilities=True).probabilities / 65535
        truth = np.asarray(nib.load(kits_root / case / "segmentation.nii.gz").dataobj)
        sure, right = shares.max(-1), shares.argmax(-1) == truth
        for b in range(15):
            inside = (sure >= b / 15) & ((sure < (b + 1) / 15) | (b == 14))
            bins[b] += inside.sum(), sure[inside].sum(), right[inside].sum()
    assert found["ece_all"] == pytest.approx(np.abs(bins[:, 1] - bins[:, 2]).sum() / bins[:, 0].sum(), abs=1e-6)
    assert 0 < found["ece_foreground"] < 1


def test_the_folders_it_wrote_give_the_same_figures(hlfd, arguments, kits_root: Path, tmp_path: Path):
    assert hlfd("evaluate", *arguments, "--output", tmp_path / "e").code == 0
    regions = ("--region", "kidney=1,2", "--region", "tumor=2", "--workers", 1, "--output", tmp_path / "f")
    ended = hlfd("evaluate", "--predictions", tmp_path / "e" / "predictions", "--references", kits_root, *regions)
    assert ended.code == 0, ended.err
    first, second = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in "ef")
    assert first["global"].pop("calibration")  # which label maps alone don't give
    for case in first["cases"]:
        assert case.pop("calibration") and case | {"calibration": {}} in second["cases"]
    assert {**first, "cases": []} == {**second, "cases": []}


def test_labels_that_the_protocol_is_not_made_for_are_said_before_the_work(hlfd, arguments, tmp_path: Path):
    ended = hlfd("evaluate", *arguments, "--protocol", "lits", "--output", tmp_path / "e")
    assert ended.code == 2
    assert "protocol 'lits': expected the classes liver, tumor, got kidney, tumor" in ended.err
    assert not (tmp_path / "e").exists()

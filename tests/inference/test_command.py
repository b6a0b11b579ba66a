"""`hlfd predict`: files in, files out, each whole or not there, and one line for each mistake."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from hlfd.data.postprocess import Postprocess
from hlfd.data.preprocess import Preprocess
from hlfd.evaluation.probabilities import read_probabilities
from hlfd.io import nifti
from hlfd.labels import organ_and_tumor
from hlfd.segmenter import Segmenter, build_network

AFFINE = np.array([[0, 0, -0.8, 20], [0, -0.8, 0, 30], [-2.5, 0, 0, -40], [0, 0, 0, 1.0]])


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def hu(seed: int = 0, shape: tuple[int, int, int] = (5, 24, 20)) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 400, shape).astype(np.int16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of liver and tumour."""
    torch.manual_seed(0)
    network = build_network("unet", {"width": 2}, 3)
    with torch.no_grad():  # classes that are all there
        scores = network.eval().network(torch.rand(1, 1, 32, 32) * 2 - 1)
        network.network.get_submodule("head").bias.sub_(scores.transpose(0, 1).flatten(1).median(1).values)
    labels = organ_and_tumor("both", "liver")
    preprocess = Preprocess(window_hu=(-200.0, 300.0))
    return Segmenter(network, "unet", {"width": 2}, preprocess, labels).save(tmp_path_factory.mktemp("m") / "model")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three images."""
    for index, suffix in enumerate((".nii.gz", ".nii", ".nii.gz")):
        save(tmp_path / "images" / f"case_{index}{suffix}", hu(index))
    return tmp_path / "images"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def told(ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.err
    last = ended.err.splitlines()[-1]
    assert last.startswith("hlfd: ")
    for word in words:
        assert word in last
    assert "Traceback" not in ended.err


def test_everything_of_one_image(hlfd, model: Path, images: Path, tmp_path: Path):
    image, out, report = images / "case_0.nii.gz", tmp_path / "out", tmp_path / "reports" / "r.json"
    ended = hlfd("predict", "-m", model, "-i", image, "-o", out, "-s", "-p", "--probabilities", "--report", report)
    assert ended.code == 0, ended.err
    expected = ["case_0.json", "case_0.nii.gz", "case_0.png", "probabilities/case_0.nii.gz"]
    assert files(out) == expected
    assert sorted(ended.out.split()) == sorted(str(out / name) for name in expected)

    labels, original = nifti.read_label(out / "case_0.nii.gz"), nifti.read_image(image)
    original.require_same_grid(labels, "labels", tolerance_mm=1e-4)
    assert nib.load(out / "case_0.nii.gz").header["descrip"].item() == b"hlfd 1=liver 2=tumor"
    assert set(np.unique(labels.voxels)) <= {0, 1, 2} and labels.voxels.any()

    shares = read_probabilities(out / "probabilities" / "case_0.nii.gz")
    np.testing.assert_allclose(shares.voxels.sum(0), 1, atol=1e-4)
    np.testing.assert_allclose(shares.affine, AFFINE, atol=1e-5)
    clear = np.sort(shares.voxels, 0)[-1] - np.sort(shares.voxels, 0)[-2] > 1e-4
    np.testing.assert_array_equal(shares.voxels.argmax(0)[clear], labels.voxels[clear])

    figures = json.loads((out / "case_0.json").read_text())["regions"]
    whole = labels.voxels > 0
    assert figures["liver"]["volume_ml"] == pytest.approx(whole.sum() * 0.8 * 0.8 * 2.5 / 1000)
    assert figures["liver"]["mean_hu"] == pytest.approx(original.voxels[whole].mean(), rel=1e-4)
    assert "lesions" not in figures["liver"]
    tumours = figures["tumor"]["lesions"]
    assert sum(lesion["volume_ml"] for lesion in tumours) == pytest.approx(figures["tumor"]["volume_ml"])
    assert [t["volume_ml"] for t in tumours] == sorted((t["volume_ml"] for t in tumours), reverse=True)

    picture = np.asarray(Image.open(out / "case_0.png").convert("RGB")).astype(int)
    assert picture.shape[0] > 200 and picture.shape[1] > 200
    assert (
        np.abs(picture - picture.mean(2, keepdims=True)).max(2) > 40
    ).sum() > 50  # contours are coloured, CT is grey

    written = json.loads(report.read_text())
    (case,) = written["images"]
    key = hashlib.sha256(image.read_bytes()).hexdigest()[:8]
    assert (case["key"], case["outcome"], case["shape"]) == (key, "done", [5, 24, 20])
    assert json.loads((out / "case_0.json").read_text())["case"] == key
    for text in (report.read_text(), (out / "case_0.json").read_text()):
        assert "case_0" not in text and str(tmp_path) not in text
    assert {"read", "prepare", "network", "labels", "write"} <= case["seconds"].keys()
    assert all(seconds >= 0 for seconds in case["seconds"].values())
    assert case["files"].keys() == {"labels", "statistics", "preview", "probabilities"}
    assert case["files"]["labels"] == hashlib.sha256((out / "case_0.nii.gz").read_bytes()).hexdigest()
    assert written["model"]["files"].keys() == {"model.json", "model.safetensors"}
    assert written["peak_memory_mib"] > 50 and written["versions"]["torch"] == torch.__version__


def test_what_the_options_ask_for_is_done(hlfd, model: Path, tmp_path: Path, monkeypatch):
    """Each option of the command reaches what it is for; what that does with it, its own tests say."""
    from hlfd.inference import predictor

    image = save(tmp_path / "ct.nii.gz", hu())
    seen, original = {}, predictor.Predictor.__init__

    def look(self, *args, **options):
        seen.update(options)
        original(self, *args, **options)

    monkeypatch.setattr(predictor.Predictor, "__init__", look)
    threads = torch.get_num_threads()
    given = ("--threads", 2, "--step-size", 0.25, "--tta", "flips", "--batch-size", 3, "--device", "cpu", "--ml")
    clean = ("--lesions-inside", "--keep-largest", "liver=2", "--smallest-lesion", 9)
    try:
        ended = hlfd("predict", "-m", model, "-i", image, "-o", tmp_path / "out", *given, *clean)
        assert ended.code == 0 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert {key: seen[key] for key in ("device", "batch_size", "step_size", "tta")} == {
        "device": "cpu",
        "batch_size": 3,
        "step_size": 0.25,
        "tta": "flips",
    }
    assert seen["postprocess"] == Postprocess(largest={"liver": 2}, lesions_inside=True, smallest_lesion_mm3=9)
    assert files(tmp_path / "out") == ["ct.nii.gz"]


def test_a_warning_stands_on_the_terminal_and_in_the_report(hlfd, model: Path, tmp_path: Path):
    image = save(tmp_path / "ct.nii.gz", hu() // 100)
    ended = hlfd("predict", "-m", model, "-i", image, "-o", tmp_path / "out", "--report", tmp_path / "r.json")
    (case,) = json.loads((tmp_path / "r.json").read_text())["images"]
    assert ended.code == 0 and case["warnings"]
    for line in case["warnings"]:
        assert re.search(r"\d", line) and "ct.nii" not in line
        assert f"hlfd: warning: ct: {line}" in ended.err.splitlines()


def test_a_folder_and_each_label_in_a_file_of_its_own(hlfd, model: Path, images: Path, tmp_path: Path):
    together, apart = tmp_path / "a", tmp_path / "b"
    assert hlfd("predict", "-m", model, "-i", images, "-o", together, "-q").code == 0
    ended = hlfd("predict", "-m", model, "-i", images, "-o", apart, "--separate", "-q")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert files(together) == [f"case_{i}.nii.gz" for i in range(3)]
    assert files(apart) == [f"case_{i}/{name}.nii.gz" for i in range(3) for name in ("liver", "tumor")]
    for i in range(3):
        labels = nifti.read_label(together / f"case_{i}.nii.gz").voxels
        for index, name in enumerate(("liver", "tumor"), 1):
            mask = nifti.read_label(apart / f"case_{i}" / f"{name}.nii.gz").voxels
            np.testing.assert_array_equal(mask, labels == index)


def test_folders_as_kits_has_them(hlfd, model: Path, kits_root: Path, tmp_path: Path):
    assert hlfd("predict", "-m", model.parent, "-i", kits_root, "-o", tmp_path / "out").code == 0
    assert files(tmp_path / "out") == [f"case_{i:05}.nii.gz" for i in range(3)]


def test_what_is_passed_over_is_said_and_what_can_be_taken_is(hlfd, model: Path, images: Path, tmp_path: Path):
    """Capitals, folders beside bare files, links that lead nowhere, folders that hold too many."""
    (images / "case_2.nii.gz").rename(images / "LOUD.NII.GZ")
    save(images / "patient" / "imaging.nii.gz", hu(4))
    save(images / "patient" / "segmentation.nii.gz", hu(5))
    save(images / "two" / "a.nii.gz", hu(6))
    save(images / "two" / "b.nii.gz", hu(7))
    (images / "notes.txt").write_text("no image")
    (images / "lost.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    (images / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(images / "pipe")  # whoever opens it waits for ever
    ended = hlfd("predict", "-m", model, "-i", images, "-o", tmp_path / "out")
    told(ended, 1, "2 of 6 images failed")
    assert files(tmp_path / "out") == [f"{name}.nii.gz" for name in ("LOUD", "case_0", "case_1", "patient")]
    said = [line for line in ended.err.splitlines() if line.startswith("hlfd: ")]
    assert said[0] == f"hlfd: {images}: passed over, no image or several in a folder: notes.txt, pipe, two"
    assert f"{images / 'lost.nii.gz'}: " in said[1] and f"{images / 'gone'}: no such file or folder" in said[2]


def test_results_called_after_the_content(hlfd, model: Path, images: Path, tmp_path: Path):
    keys = sorted(hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in images.iterdir())
    command = ("predict", "-m", model, "-i", images, "-o", tmp_path / "out", "--hashed-names")
    ended = hlfd(*command)
    assert ended.code == 0, ended.err
    assert files(tmp_path / "out") == [f"{key}.nii.gz" for key in keys]
    assert "case_" not in ended.out + ended.err
    assert hlfd(*command, "--continue").out == ""
    told(hlfd(*command[:5], "-o", images, "--hashed-names"), 2, "holds images to segment; choose another output")


def test_a_network_that_gives_no_numbers_is_refused(hlfd, threshold, images: Path, tmp_path: Path, monkeypatch):
    broken = threshold(Preprocess(window_hu=(-200.0, 300.0)), 50)
    with torch.no_grad():
        broken.network.network.conv.bias[0] = torch.nan
    monkeypatch.setattr("hlfd.cli.use._load", lambda path, threads: broken)
    (tmp_path / "model").mkdir()
    ended = hlfd("predict", "-m", tmp_path / "model", "-i", images / "case_1.nii", "-o", tmp_path / "out")
    told(ended, 2, f"{images / 'case_1.nii'}: expected finite logits of the network, it gives NaN or infinity")
    assert files(tmp_path / "out") == []


def test_a_failure_of_a_runtime_names_the_image(hlfd, model: Path, images: Path, tmp_path: Path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such\nkernel")

    monkeypatch.setattr("hlfd.inference.predictor.Predictor._one", fail)
    arguments = ("predict", "-m", model, "-o", tmp_path / "out", "-i")
    words = f"{images / 'case_1.nii'}: RuntimeError: no such kernel"
    told(hlfd(*arguments, images / "case_1.nii"), 1, words)
    assert f"hlfd: {words}" in hlfd(*arguments, images).err.splitlines()


def test_a_report_replaces_a_report_and_nothing_else(hlfd, model: Path, images: Path, tmp_path: Path):
    report = tmp_path / "r.json"
    command = ("predict", "-m", model, "-i", images / "case_1.nii", "-o", tmp_path / "out", "--report", report)
    for foreign in ("{}", "no JSON", "[1]"):
        report.write_text(foreign)
        told(hlfd(*command), 2, f"--report: {report} is there and no report of hlfd predict")
        assert report.read_text() == foreign
    report.unlink()
    assert hlfd(*command).code == 0
    assert hlfd(*command).code == 0


@pytest.mark.parametrize("name", ["labels.nii", "labels.nii.gz"])
def test_the_file_of_one_image(hlfd, model: Path, images: Path, tmp_path: Path, name: str):
    assert hlfd("predict", "-m", model, "-i", images / "case_1.nii", "-o", tmp_path / "x" / name, "-s").code == 0
    assert files(tmp_path / "x") == ["labels.json", name]


def test_a_broken_image_does_not_stop_the_others(hlfd, model: Path, images: Path, tmp_path: Path):
    bad = images / "case_0.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-40])
    save(images / "case_9.nii.gz", np.full((4, 8, 8), 7, np.int16))
    report = tmp_path / "r.json"
    ended = hlfd("predict", "-m", model, "-i", images, "-o", tmp_path / "out", "--report", report)
    told(ended, 1, "2 of 4 images failed")
    lines = [line for line in ended.err.splitlines() if line.startswith("hlfd: ")]
    assert len(lines) == 3
    assert str(bad) in lines[0] and "expected a whole NIfTI file" in lines[0]
    assert "case_9.nii.gz" in lines[1] and "constant value 7" in lines[1]
    assert files(tmp_path / "out") == ["case_1.nii.gz", "case_2.nii.gz"]
    outcomes = [(x["outcome"], x["error"]) for x in json.loads(report.read_text())["images"]]
    assert outcomes == [("failed", "InputError"), ("done", None), ("done", None), ("failed", "InputError")]


def test_continue_does_what_is_missing(hlfd, model: Path, images: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert hlfd("predict", "-m", model, "-i", images, "-o", out, "-s").code == 0
    (out / "case_1.json").unlink()
    (out / "case_2.nii.gz").unlink()
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    ended = hlfd("predict", "-m", model, "-i", images, "-o", out, "-s", "--continue")
    assert ended.code == 0
    assert sorted(Path(line).name for line in ended.out.split()) == [
        f"case_{i}{s}" for i in (1, 2) for s in (".json", ".nii.gz")
    ]
    assert (out / "case_0.nii.gz").stat().st_mtime_ns == before["case_0.nii.gz"]
    assert files(out) == [f"case_{i}{s}" for i in range(3) for s in (".json", ".nii.gz")]


def test_continue_with_a_file_for_each_label(hlfd, model: Path, images: Path, tmp_path: Path):
    command = ("predict", "-m", model, "-i", images, "-o", tmp_path / "out", "--separate", "--continue")
    assert len(hlfd(*command).out.split()) == 6
    (tmp_path / "out" / "case_1" / "tumor.nii.gz").unlink()
    assert len(hlfd(*command).out.split()) == 2


def test_post_processing_is_off_unless_the_model_or_the_user_says_so(hlfd, threshold, tmp_path: Path, monkeypatch):
    voxels = np.full((6, 16, 16), -900, dtype=np.int16)
    voxels[1:5, 2:6, 2:6], voxels[2, 12, 12] = 200, 200
    image = save(tmp_path / "ct.nii.gz", voxels)
    plain = threshold(Preprocess(window_hu=(-200.0, 300.0)), 50)
    keeps = Segmenter(
        plain.network, "none", {}, plain.preprocess, plain.labels, postprocess=Postprocess(largest={"tumor": 1})
    )
    folder = tmp_path / "model"
    folder.mkdir()

    def count(model: Segmenter, *options: object) -> int:
        monkeypatch.setattr("hlfd.cli.use._load", lambda path, threads: model)
        ended = hlfd("predict", "-m", folder, "-i", image, "-o", tmp_path / "out.nii", *options)
        assert ended.code == 0, ended.err
        return int(nifti.read_label(tmp_path / "out.nii").voxels.sum())

    assert count(plain) == 65
    assert count(keeps) == 64
    assert count(plain, "--keep-largest", "tumor") == 64
    assert count(plain, "--keep-largest", "tumor=2") == 65
    assert count(keeps, "--keep-largest", "none") == 65
    assert count(keeps, "--smallest-lesion", 1e4) == 0
    assert count(plain, "--smallest-lesion", 2) == 64


def test_the_images_are_left_alone(hlfd, model: Path, images: Path):
    before = {name: (images / name).read_bytes() for name in files(images)}
    told(hlfd("predict", "-m", model, "-i", images, "-o", images), 2, "is an image to segment and would be overwritten")
    assert {name: (images / name).read_bytes() for name in files(images)} == before


def test_files_of_the_user_are_left_alone(hlfd, model: Path, images: Path):
    """A converter's JSON beside each image, a label map drawn by hand, a picture."""
    mine = {"case_1.json": b'{"Modality": "CT"}', "case_2.png": b"a picture", "labels/case_0.nii.gz": b"by hand"}
    for name, content in mine.items():
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_bytes(content)
    before = {name: (images / name).read_bytes() for name in files(images)}
    command = ("predict", "-m", model, "-i", images)
    for options, name in (
        (("-o", images, "--separate", "-s"), "case_1.json"),
        (("-o", images, "--separate", "-p", "--continue"), "case_2.png"),
        (("-o", images / "labels"), "case_0.nii.gz"),
    ):
        told(hlfd(*command, *options), 2, f"{name}: is there and no result of hlfd predict; choose another output")
    one = ("predict", "-m", model, "-i", images / "case_1.nii", "-o", images / "case_1.nii.gz")
    told(hlfd(*one, "-s"), 2, "case_1.json: is there and no result")
    assert {name: (images / name).read_bytes() for name in files(images)} == before
    assert hlfd(*one, "-p").code == 0
    assert hlfd(*one, "-p").code == 0  # its own results may be replaced


def test_a_label_map_mended_by_hand_is_passed_over(hlfd, model: Path, images: Path, tmp_path: Path):
    command = ("predict", "-m", model, "-i", images, "-o", tmp_path / "out")
    assert hlfd(*command).code == 0
    mended = save(tmp_path / "out" / "case_0.nii.gz", np.zeros_like(hu()))  # by a program that doesn't say hlfd
    before = mended.read_bytes()
    (tmp_path / "out" / "case_1.nii.gz").unlink()
    ended = hlfd(*command, "--continue")
    assert (ended.code, ended.out.split()) == (0, [str(tmp_path / "out" / "case_1.nii.gz")])
    told(hlfd(*command), 2, "case_0.nii.gz: is there and no result")
    assert mended.read_bytes() == before


def test_a_damaged_image_stops_no_other(hlfd, model: Path, images: Path, tmp_path: Path):
    whole = (images / "case_2.nii.gz").read_bytes()
    (images / "case_2.nii.gz").write_bytes(whole[:40] + bytes(b ^ 0x5A for b in whole[40:200]) + whole[200:])
    (images / "folder").mkdir()
    shutil.copy(images / "case_2.nii.gz", images / "folder")
    told(hlfd("predict", "-m", model, "-i", images, "-o", tmp_path / "out"), 1, "2 of 4 images failed")
    assert files(tmp_path / "out") == ["case_0.nii.gz", "case_1.nii.gz"]


def test_results_below_the_input_are_no_images(hlfd, model: Path, images: Path):
    command = ("predict", "-m", model, "-i", images, "-s", "-p", "--probabilities")
    assert hlfd(*command, "-o", images / "first").code == 0
    (images / "first" / "probabilities" / "case_0.nii.gz").rename(images / "earlier.nii.gz")
    ended = hlfd(*command, "-o", images / "deep" / "second")
    assert ended.code == 0, ended.err
    names = {Path(line).name.partition(".")[0] for line in ended.out.split()}
    assert names == {"case_0", "case_1", "case_2"}
    assert "deep" not in ended.err and ".json" not in ended.err


def in_the_way(path: Path) -> Path:
    path.write_text("a file where a folder is wanted")
    return path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"-m": "gone"}, ("gone: no such",)),
        ({"-i": "gone"}, ("gone: no such",)),
        ({"-i": "EMPTY"}, ("expected .nii or .nii.gz files, DICOM files or zips of them, found none",)),
        ({"-i": "ct.nrrd"}, ("ct.nrrd: expected a NIfTI (.nii, .nii.gz), a DICOM file or a zip of them",)),
        ({"-o": "out.nrrd"}, ("out.nrrd: expected a folder, or a file name ending in .nii, .nii.gz or .dcm",)),
        ({"-o": "out.nii.gz"}, ("out.nii.gz: expected a folder for the results of 3 images",)),
        ({"-o": "FILE/sub"}, ("can't be written: ",)),
        ({"--report": "FILE/r.json"}, ("can't be written: ",)),
        ({"--report": "r.nii.gz"}, ("--report: expected a file name ending in .json, got r.nii.gz",)),
        (
            {"-s": None, "--report": "OUT/case_1.json"},
            ("case_1.json is a result of an image",),
        ),
        ({"--format": "dicom"}, ("--format: expected one of nifti, seg, both, got 'dicom'",)),
        ({"--tta": "al"}, ("--tta: expected one of none, flips, all, got 'al' (did you mean 'all'?",)),
        ({"--device": "cuda:77"}, ("device: there is no cuda:77 here",)),
        ({"--keep-largest": "liver=x"}, ("--keep-largest: expected REGION or REGION=COUNT",)),
        ({"--keep-largest": "live"}, ("there is no region 'live' (did you mean 'liver'?",)),
        ({"--format": "both", "-o": "x.dcm"}, ("a .dcm file holds a SEG; --format both needs a folder",)),
        ({"--separate": None, "-o": "x.nii"}, ("--separate writes a file for each label; expected a folder",)),
    ],
)
def test_what_can_not_be_is_said_before_the_work(hlfd, model: Path, images: Path, tmp_path: Path, options, words):
    (tmp_path / "empty").mkdir()
    in_the_way(tmp_path / "file")
    (tmp_path / "ct.nrrd").write_bytes(b"NRRD0004\n" + bytes(300))
    given = {"-m": model, "-i": images, "-o": tmp_path / "out", **options}
    arguments: list[object] = []
    for name, value in given.items():
        text = str(value).replace("EMPTY", str(tmp_path / "empty")).replace("FILE", str(tmp_path / "file"))
        text = text.replace("OUT", str(tmp_path / "out")).replace("ct.nrrd", str(tmp_path / "ct.nrrd"))
        if name == "-o" and not Path(text).is_absolute():
            text = str(tmp_path / text)
        arguments += [name] if value is None else [name, text]
    ended = hlfd("predict", *arguments)
    told(ended, 2, *words)
    assert not list(tmp_path.glob("out/*"))


def test_two_images_of_one_name(hlfd, model: Path, images: Path, tmp_path: Path):
    shutil.copy(images / "case_1.nii", images / "case_0.nii")
    told(hlfd("predict", "-m", model, "-i", images, "-o", tmp_path / "out"), 2, "would be called 'case_0'")


def test_a_seg_needs_dicom(hlfd, model: Path, images: Path, tmp_path: Path):
    ended = hlfd("predict", "-m", model, "-i", images / "case_1.nii", "-o", tmp_path / "out", "-f", "seg")
    told(ended, 2, "a DICOM SEG needs DICOM in")
    assert files(tmp_path / "out") == []


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs POSIX signals")
def test_ctrl_c_keeps_what_is_finished_and_leaves_no_part(model: Path, tmp_path: Path):
    for index in range(10):
        save(tmp_path / "images" / f"case_{index:02}.nii.gz", hu(index, (24, 48, 48)))
    out = tmp_path / "out"
    command = [
        str(Path(sys.executable).with_name("hlfd")),
        "predict",
        "-m",
        model,
        "-i",
        tmp_path / "images",
        "-o",
        out,
    ]
    process = subprocess.Popen(
        [*map(str, command), "--batch-size", "1", "--tta", "all"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    end = time.monotonic() + 120
    while len(list(out.glob("case_*.nii.gz"))) < 2 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "what is finished stays" in errors
    done = files(out)
    assert 2 <= len(done) < 10
    assert done == [f"case_{i:02}.nii.gz" for i in range(len(done))]
    for name in done:
        assert nifti.read_label(out / name).shape == (24, 48, 48)


def test_no_more_than_the_next_image_is_read_ahead(hlfd, model: Path, images: Path, tmp_path: Path, monkeypatch):
    from hlfd.inference import run

    alive, most, lock = [0], [0], threading.Lock()
    read, write = run.read_input, run.write_label_maps

    def reading(*arguments):
        with lock:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        return read(*arguments)

    def writing(*arguments):
        yield from write(*arguments)
        with lock:
            alive[0] -= 1

    monkeypatch.setattr(run, "read_input", reading)
    monkeypatch.setattr(run, "write_label_maps", writing)
    assert hlfd("predict", "-m", model, "-i", images, "-o", tmp_path / "out").code == 0
    assert most[0] == 2

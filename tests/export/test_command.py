"""hlfd export, hlfd predict with what it wrote, and --auto."""

import json

import numpy as np
import pytest

from hlfd import fastest, plugins, verification
from hlfd.export import ExportError
from hlfd.fastest import fastest as choose
from hlfd.io import nifti
from hlfd.volume import Volume


@pytest.fixture(autouse=True)
def small_phantom(monkeypatch):
    def small(seed, index, *, organ, size):
        random = np.random.default_rng(index)
        return Volume(random.integers(-100, 200, (32, 32, 2)).astype(np.int16), np.eye(4)), None

    monkeypatch.setattr(verification, "make_patient", small)


@pytest.fixture
def recipe(source, tmp_path):
    """A recipe over the cases that the network knows."""
    path = tmp_path / "tiny.json"
    root = source.cases[0].image[0].parent.parent
    known = {
        "name": "tiny",
        "output": str(tmp_path / "out"),
        "source": {"name": "kits", "root": str(root)},
        "split": {"validation": 1, "test": 1},
    }
    path.write_text(json.dumps(known))
    return path.rename(path.with_suffix(".yaml"))


def test_export_and_predict(hlfd, trained, source, recipe, tmp_path):
    folder = trained.save(tmp_path / "run" / "model")
    ended = hlfd("export", tmp_path / "run", "--to", "onnx", "--recipe", recipe, "--cases", 1)
    assert ended.code == 0, ended.err
    path = tmp_path / "run" / "export" / "model.onnx"
    verified, said = ended.out.strip().splitlines()
    assert said == str(path)
    assert verified.startswith("1 validation cases: logits differ by at most") and "Dice kidney 0." in verified
    said = hlfd("info", path)
    assert said.code == 0 and "precision   fp32" in said.out and "verified    on 1 validation cases" in said.out
    image = str(source.cases[3].image[0])
    for model, labels in ((folder, "a.nii.gz"), (path, "b.nii.gz")):
        ended = hlfd("predict", "-m", model, "-i", image, "-o", tmp_path / labels)
        assert ended.code == 0, ended.err
    ours, theirs = (nifti.read_label(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz"))
    ours.require_same_grid(theirs, "labels")
    assert np.count_nonzero(ours.voxels) > 100
    assert np.count_nonzero(ours.voxels != theirs.voxels) <= 1


def test_refused_past_the_tolerance(hlfd, trained, tmp_path, monkeypatch):
    from hlfd.verification import Verified

    trained.save(tmp_path / "model")
    monkeypatch.setattr(Verified, "disagreement", property(lambda self: 0.25))
    ended = hlfd("export", tmp_path / "model", "-o", tmp_path / "model.ts", "--tolerance", 0.2)
    assert ended.code == 1
    last = ended.err.splitlines()[-1]
    assert last.startswith(
        f"hlfd: {tmp_path / 'model.ts'}: not written, it disagrees with PyTorch by 0.25, tolerance 0.2"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gone", "-o", "a.onnx"), "gone/model.json: no such file"),
        (("MODEL",), "expected -o FILE, or --to FORMAT"),
        (("MODEL", "--to", "onxx"), "there is no exporter 'onxx' (did you mean 'onnx'"),
        (("MODEL", "-o", "a.pb"), "a.pb: expected a name that ends in .onnx, .ts, .xml"),
        (("MODEL", "-o", "a.ts", "--precision", "int8"), "torchscript: expected precision fp32, got int8"),
        (
            ("MODEL", "-o", "a", "--auto", "--to", "onnx"),
            "--auto chooses by --max-dice-loss among all formats: leave --to",
        ),
        (("MODEL", "-o", "a", "--auto", "--precision", "int8"), "leave --precision out"),
        (("MODEL", "-o", "a", "--auto", "--tolerance", "0.1"), "leave --tolerance out"),
        (("MODEL", "-o", "a.ts", "--max-dice-loss", "0.1"), "--max-dice-loss belongs to --auto, which is missing"),
        (("MODEL", "-o", "a.ts", "--threads", "1"), "--threads belongs to --auto"),
        (("MODEL", "fold=1", "-o", "a.ts"), "'fold=1': key=value changes a recipe, and there is no --recipe"),
        (("MODEL", "-o", "a.ts", "--recipe", "gone.yaml"), "gone.yaml: no such recipe"),
    ],
)
def test_mistakes(hlfd, arguments, words, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = trained.save(tmp_path / "model")
    ended = hlfd("export", *(folder if a == "MODEL" else a for a in arguments))
    assert ended.code == 2
    assert words in ended.err.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.fixture
def quick(monkeypatch):
    """Three candidates, measured for a moment."""
    monkeypatch.setattr(fastest, "SECONDS", 0.1)
    monkeypatch.setattr(fastest, "CANDIDATES", (("onnx", "fp32"), ("onnx", "int8"), ("torchscript", "fp32")))


def test_auto_keeps_the_fastest_that_is_good_enough(hlfd, trained, source, recipe, quick, tmp_path, monkeypatch):
    speeds = {"pytorch": 4.0, "onnx fp32": 3.0, "onnx int8": 1.0, "torchscript fp32": 2.0}
    measured = {}

    def ms(runs, images, threads):
        measured.update(dict.fromkeys(runs, images.shape))
        return {name: speeds[name] for name in runs}

    monkeypatch.setattr(fastest, "_ms_per_image", ms)
    folder = trained.save(tmp_path / "model")
    ended = hlfd("export", folder, "--auto", "-o", tmp_path / "all", "--recipe", recipe, "--max-dice-loss", 0.5)
    assert ended.code == 0, ended.err
    assert ended.out.strip().endswith(str(tmp_path / "all" / "model.onnx"))
    assert "judged on " in ended.out and "Dice lost" in ended.out and "phantom" not in ended.out
    assert measured.keys() == speeds.keys()
    known = json.loads((tmp_path / "all" / "auto.json").read_text())
    assert known["name"] == "onnx int8" and known["candidates"][0]["name"] == "onnx int8"
    assert {p.name for p in (tmp_path / "all").iterdir()} == {"model.onnx", "model.onnx.json", "auto.json"}
    assert json.loads((tmp_path / "all" / "model.onnx.json").read_text())["precision"] == "int8"


def test_auto_leaves_out_what_loses_too_much(trained, evidence, quick, tmp_path, monkeypatch):
    from hlfd.verification import Verified

    monkeypatch.setattr(Verified, "dice_loss", property(lambda self: 0.1 if self.max_difference > 0.01 else 0.0))
    choice = choose(trained, tmp_path, max_dice_loss=0.05, evidence=evidence, threads=1)
    assert choice.name != "onnx int8"
    out = next(c for c in choice.candidates if c.name == "onnx int8")
    assert out.problem == "loses more than 0.05" and out.ms is not None
    assert choice.path.exists() and all(c.ms > 0 for c in choice.candidates)
    monkeypatch.setattr(Verified, "dice_loss", property(lambda self: 0.1))
    with pytest.raises(ExportError, match=r"nothing written, no export is good enough: .*loses more than 0.05"):
        choose(trained, tmp_path / "none", max_dice_loss=0.05, evidence=evidence, threads=1)
    assert not list((tmp_path / "none").iterdir())


def failing(*_, **__):
    raise RuntimeError("Load model failed:\n  no such kernel")


@pytest.mark.parametrize(
    ("plugin", "function", "arguments"),
    [
        ("onnx", "trace_onnx", ("a.onnx",)),
        ("onnx", "_quantise", ("a.onnx", "--precision", "int8")),
        ("openvino", "trace_onnx", ("a.xml",)),
        ("onnx", "open_file", ("a.onnx",)),
    ],
)
def test_a_runtime_that_fails_is_one_line(hlfd, plugin, function, arguments, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(plugins.module("exporters", plugin), function, failing)
    folder = trained.save(tmp_path / "model")
    path = tmp_path / arguments[0]
    ended = hlfd("export", folder, "-o", path, *arguments[1:])
    assert ended.code == 1
    expected = f"hlfd: {path}: not written, RuntimeError: Load model failed: no such kernel"
    assert ended.err.splitlines()[-1] == expected and "Traceback" not in ended.err
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("part", ["_quantise", "run"])
def test_auto_goes_on_after_one_that_fails(hlfd, part, trained, quick, tmp_path, monkeypatch):
    onnx = plugins.module("exporters", "onnx")
    if part == "run":  # it fails at last, with the threads that are asked for
        opened = onnx.open_file
        monkeypatch.setattr(onnx, "open_file", lambda path, threads=None: failing if threads else opened(path))
    else:
        monkeypatch.setattr(onnx, part, failing)
    folder = trained.save(tmp_path / "model")
    ended = hlfd("export", folder, "--auto", "-o", tmp_path / "all", "--threads", 1, "--max-dice-loss", 1)
    assert ended.code == 0, ended.err
    assert "judged on 2 generated phantom patients, no real CT; without references: 1 - Dice" in ended.out
    known = {c["name"]: c for c in json.loads((tmp_path / "all" / "auto.json").read_text())["candidates"]}
    problem = known["onnx int8"]["problem"]
    assert problem.endswith("not written, RuntimeError: Load model failed: no such kernel") and "/" not in problem
    assert problem in " ".join(ended.out.split()) and known["torchscript fp32"]["ms"] > 0
    assert bool(known["onnx fp32"]["problem"]) == (part == "run")


def test_auto_with_nothing_good_enough(hlfd, trained, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(fastest, "CANDIDATES", (("onnx", "fp32"),))
    monkeypatch.setattr(plugins.module("exporters", "onnx"), "open_file", failing)
    ended = hlfd("export", trained.save(tmp_path / "model"), "--auto", "-o", tmp_path / "all")
    assert ended.code == 1
    assert "nothing written, no export is good enough: onnx fp32: not written" in ended.err.splitlines()[-1]


def test_a_target_that_can_not_be_written(hlfd, trained, tmp_path):
    (tmp_path / "file").touch()
    folder = trained.save(tmp_path / "model")
    for arguments in (("-o", tmp_path / "file" / "a.onnx"), ("--auto", "-o", tmp_path / "file" / "all")):
        ended = hlfd("export", folder, *arguments)
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert "can't be written" in ended.err

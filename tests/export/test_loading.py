"""hlfd.load: model folders and exported files; nothing else is taken for one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import hlfd
from hlfd.errors import InputError
from hlfd.export import export
from hlfd.exporters._exported import side_path
from hlfd.inference import predict


def test_a_folder_and_a_run_that_holds_it(trained, source, tmp_path):
    folder = trained.save(tmp_path / "run" / "model")
    image = source.read_image(source.cases[1])
    for path in (folder, tmp_path / "run", str(folder)):
        model = hlfd.load(path)
        np.testing.assert_array_equal(model.predict(image).voxels, predict(trained, image).voxels)
        assert model.learned_from == trained.learned_from


@pytest.fixture
def copied(exported, tmp_path):
    """``copied("model.onnx")``: an export that a test may damage."""

    def get(name: str) -> Path:
        shutil.copytree(exported(name).parent, tmp_path / "copy")
        return tmp_path / "copy" / name

    return get


def refused(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        hlfd.load(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.ts"])
def test_without_its_description(name, copied):
    path = copied(name)
    side_path(path).unlink()
    refused(path, rf"{path}.json: no such file; it describes {name}")


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.bin", "model.ts"])
def test_one_bit_is_noticed(name, copied):
    path = copied(name.replace(".bin", ".xml"))
    file = path.parent / name
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    refused(path, f"^{file}: damaged, or not the file that {path.name}.json describes")


def test_a_file_called_otherwise_than_its_description_says(copied):
    path = copied("model.onnx")
    side_path(path).rename(path.with_name("other.onnx.json"))
    other = path.rename(path.with_name("other.onnx"))
    refused(other, f"^{other}.json: expected to describe other.onnx, it describes model.onnx$")


@pytest.mark.parametrize("change", [{"size": 5}, {"multiple": 16}, {"multiple": ["a"]}, {"files": []}])
def test_a_description_with_other_values(change, copied):
    path = copied("model.onnx")
    side = json.loads(side_path(path).read_text())
    side_path(path).write_text(json.dumps(side | change))
    refused(path, rf"{path}.json: not an exported file's description")


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.ts"])
def test_what_is_no_such_file_at_all(name, copied):
    import hashlib

    path = copied(name)
    path.write_bytes(b"something else\n")
    side = json.loads(side_path(path).read_text())
    side["files"][name] = hashlib.sha256(b"something else\n").hexdigest()
    side_path(path).write_text(json.dumps(side))
    refused(path, f"{path}: expected an? .* file, it can't be read")


def test_weights_of_openvino_that_are_missing(copied):
    path = copied("model.xml")
    path.with_suffix(".bin").unlink()
    refused(path, f"{path.with_suffix('.bin')}: no such file; it belongs to {path}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "expected a model of version 1, got version 99; it was written by a newer hlfd"),
        ({"version": None}, "expected a model of version 1, got version None"),
        ({"labels": {}}, "not a model description, KeyError"),
        ({"files": {}}, "not an exported file's description, KeyError"),
        ({"files": None}, "not an exported file's description, TypeError"),
        ({"files": {"../model.onnx": ""}}, "not an exported file's description, KeyError"),
    ],
)
def test_a_description_that_is_wrong(changes, message, copied):
    path = copied("model.onnx")
    side = side_path(path)
    side.write_text(json.dumps(json.loads(side.read_text()) | changes))
    refused(path, f"{side}: {message}")


def test_a_file_elsewhere_is_not_read(copied, tmp_path):
    path = copied("model.onnx")
    side = side_path(path)
    known = json.loads(side.read_text())
    known["files"]["../secret"] = "0"
    side.write_text(json.dumps(known))
    (tmp_path / "secret").touch()
    refused(path, "secret: no such file; it belongs to")


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff"])
def test_a_description_that_is_none(text, copied):
    path = copied("model.onnx")
    side_path(path).write_bytes(text)
    refused(path, f"{side_path(path)}: not a model description")


def test_what_is_no_model(tmp_path):
    refused(tmp_path / "nothing.onnx", "no such model folder or file")
    (tmp_path / "model.pth").touch()
    refused(tmp_path / "model.pth", r"expected a model folder, or an exported file \(.onnx, .ts, .xml\)")
    refused(tmp_path, "model.json: no such file")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").touch()
    refused(tmp_path, "a MONAI bundle, which MONAI runs")


@pytest.mark.parametrize("name", ["model.pt", "weights.pkl", "last.ckpt", "NET.PTH"])
def test_a_pickle_in_a_model_folder_is_refused(name, trained, tmp_path):
    folder = trained.save(tmp_path)
    (folder / name).write_bytes(b"")
    refused(folder, f"{folder / name}: refused, a pickle can run code")


def test_newer_model_folder(trained, tmp_path):
    folder = trained.save(tmp_path)
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    refused(folder, "expected a model of version 1, got version 2; it was written by a newer hlfd")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.pb", {}, r"model.pb: expected a name that ends in .onnx, .ts, .xml, or --to"),
        ("model.onnx", {"to": "openvino"}, "expected a name that ends in .xml for openvino, got '.onnx'"),
        ("model.onnx", {"to": "onxx"}, r"there is no exporter 'onxx' \(did you mean 'onnx'"),
        ("model.onnx", {"precision": "fp8"}, r"there is no precision 'fp8' \(known: fp16, fp32, int8"),
        ("model.ts", {"precision": "int8"}, "torchscript: expected precision fp32, got int8"),
    ],
)
def test_an_export_that_can_not_be(name, options, message, trained, evidence, tmp_path):
    with pytest.raises(InputError, match=message):
        export(trained, tmp_path / name, evidence=evidence, **options)
    assert not list(tmp_path.iterdir())


def test_an_exported_file_is_no_source_of_another(exported, evidence, tmp_path):
    with pytest.raises(InputError, match="expected a model folder to export"):
        export(hlfd.load(exported("model.onnx")), tmp_path / "again.onnx", evidence=evidence)
    with pytest.raises(InputError, match="an exported file can't be saved as a model folder"):
        hlfd.load(exported("model.onnx")).save(tmp_path / "model")
    assert not list(tmp_path.iterdir())

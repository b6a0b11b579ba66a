"""A model folder: what is written is what is read, and nothing else is taken for it."""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from hlfd.data.preprocess import Preprocess
from hlfd.errors import InputError
from hlfd.labels import organ_and_tumor
from hlfd.segmenter import Segmenter, build_network, patient_keys

PATIENTS = ("case_00012", "Müller_1957")


def model(network: str = "unet", dims: int = 2, in_channels: int = 1, **options) -> Segmenter:
    torch.manual_seed(0)
    options = options or {"width": 2}
    tapped = build_network(network, options, 3, in_channels=in_channels, dims=dims)
    tapped.train()(torch.randn(2, in_channels, *[32] * dims))  # running statistics away from their start
    return Segmenter(
        tapped,
        network,
        options,
        Preprocess(window_hu=(-160, 240), spacing_mm=0.75, crop=(64, 96)),
        organ_and_tumor("both", "liver", ignore=(7,)),
        patient_keys("lits", PATIENTS),
        {"seed": 3, "method": None},
    )


def written(folder: Path) -> tuple[Path, Path]:
    return folder / "model.json", folder / "model.safetensors"


def edit(folder: Path, **changes) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("network", "dims", "channels", "options"),
    [
        ("unet", 2, 1, {"width": 2}),
        ("unet", 3, 1, {"width": 2, "norm": "instance"}),
        ("unet_resnet18", 2, 2, {"width": 4}),
        ("enet", 2, 1, {"width": 8}),
        ("resnet18", 2, 1, {"width": 2, "taps": {"d5": "e4", "d2": "e1", "e2": None}}),
    ],
)
def test_saved_and_loaded_is_the_same(network, dims, channels, options, tmp_path):
    saved = model(network, dims, channels, **options)
    assert saved.save(tmp_path / "deep" / "model") == tmp_path / "deep" / "model"
    loaded = Segmenter.load(tmp_path / "deep" / "model")
    image = torch.randn(1, channels, *[64] * dims if dims == 2 else [32] * dims)
    with torch.no_grad():
        before, after = saved.network(image), loaded.network(image)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[role], after[role]) for role in before)
    for field in ("network_name", "network_options", "preprocess", "labels", "learned_from", "facts"):
        assert getattr(loaded, field) == getattr(saved, field), field
    assert not loaded.network.training
    assert loaded.parameters == saved.parameters


def test_a_network_in_another_memory_format_is_saved_too(tmp_path):
    saved = model()
    saved.network.to(memory_format=torch.channels_last)
    loaded = Segmenter.load(saved.save(tmp_path))
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(image)["logits"], saved.network(image)["logits"])


def test_the_folder_holds_two_files_no_pickle_and_no_patient(tmp_path):
    folder = model().save(tmp_path)
    assert sorted(folder.iterdir()) == sorted(written(folder))
    described, weights = [path.read_bytes() for path in written(folder)]
    for patient in PATIENTS:
        assert patient.encode() not in described + weights
        assert json.dumps(patient).strip('"').encode() not in described
    safetensors.torch.load(weights)  # nothing but tensors
    assert json.loads(described)["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert "Research use only" in json.loads(described)["notice"]


def test_patient_keys_tell_data_sets_and_patients_apart():
    keys = patient_keys("kits", ["a", "b"])
    assert len(keys) == 2
    assert patient_keys("kits", ["b"]) < keys
    assert not keys & patient_keys("lits", ["a", "b"])


@pytest.mark.parametrize("missing", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(missing, tmp_path):
    model().save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match=f"{tmp_path}/{missing}: no such file"):
        Segmenter.load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda w: w[:-1],
        lambda w: w[:100],
        lambda w: b"",
        lambda w: w[:-5] + bytes([w[-5] ^ 1]) + w[-4:],
    ],
    ids=["one byte short", "cut", "empty", "one bit"],
)
def test_damaged_weights_are_refused(damage, tmp_path):
    _, weights = written(model().save(tmp_path))
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(InputError, match=f"{weights}: damaged, or not the weights that model.json"):
        Segmenter.load(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path):
    model().save(tmp_path / "a")
    model(width=3).save(tmp_path / "b")
    _, weights = written(tmp_path / "a")
    weights.write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=f"{weights}: damaged, or not the weights"):
        Segmenter.load(tmp_path / "a")


@pytest.mark.parametrize("network", [{"name": "unet", "width": 3}, {"name": "unet_resnet18", "width": 4}])
def test_weights_that_do_not_fit_the_network_are_refused(network, tmp_path):
    folder = model().save(tmp_path)
    edit(folder, network=network)
    with pytest.raises(InputError, match=f"model.safetensors: does not fit network '{network['name']}': .*e1"):
        Segmenter.load(folder)


def test_weights_that_are_no_safetensors_are_refused(tmp_path):
    folder = model().save(tmp_path)
    (folder / "model.safetensors").write_bytes(b"PK\x03\x04")
    edit(folder, weights_sha256=hashlib.sha256(b"PK\x03\x04").hexdigest())
    with pytest.raises(InputError, match=r"model\.safetensors: does not fit"):
        Segmenter.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "expected a model of version 1, got version 2"),
        ({"version": None}, "expected a model of version 1, got version None"),
        ({"labels": {}}, "not a model description, KeyError"),
        ({"labels": {"raw": {"one": 1}, "regions": {}, "names": []}}, "not a model description, ValueError"),
        (
            {"labels": {"raw": {}, "regions": {}, "names": ["../../liver", "b"]}},
            "file names, got '../../liver'",
        ),
        ({"labels": {"raw": {}, "regions": {"a": [9]}, "names": ["a", "b"]}}, "region a: expected classes from 1 to 2"),
        ({"preprocess": {"window_hu": [3, 1]}}, "not a model description, .*window_hu"),
        ({"preprocess": {"window": [1, 3]}}, "not a model description"),
        ({"network": {"width": 2}}, "not a model description, KeyError"),
        ({"network": {"name": "unett", "width": 2}}, r"there is no network 'unett' \(did you mean 'unet"),
        ({"network": {"name": "unet", "wide": 2}}, "has no option 'wide'"),
        ({"learned_from": None}, "not a model description, TypeError"),
        ({"facts": None}, "not a model description, TypeError"),
    ],
)
def test_a_wrong_description_is_refused_and_named(changes, message, tmp_path):
    folder = model().save(tmp_path)
    edit(folder, **changes)
    with pytest.raises(InputError, match=f"{tmp_path}/model.json: .*{message}") as raised:
        Segmenter.load(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"3"])
def test_what_is_no_description_is_refused_and_named(text, tmp_path):
    folder = model().save(tmp_path)
    (folder / "model.json").write_bytes(text)
    with pytest.raises(InputError, match=f"{tmp_path}/model.json: not a model description"):
        Segmenter.load(folder)


@pytest.mark.parametrize("key", ["version", "network", "in_channels", "dims", "labels", "weights_sha256", "facts"])
def test_a_description_that_lacks_a_key_is_refused(key, tmp_path):
    folder = model().save(tmp_path)
    path = folder / "model.json"
    known = json.loads(path.read_text())
    del known[key]
    path.write_text(json.dumps(known))
    with pytest.raises(InputError, match=f"{path}: .*{'version' if key == 'version' else key}"):
        Segmenter.load(folder)


def test_labels_of_another_number_of_classes_are_refused():
    network = build_network("unet", {"width": 2}, 2)
    with pytest.raises(InputError, match="network of 2 classes, labels of 3"):
        Segmenter(network, "unet", {"width": 2}, Preprocess(window_hu=(0, 1)), organ_and_tumor("both", "liver"))


def test_a_failed_save_leaves_the_old_model(tmp_path, monkeypatch):
    folder = model().save(tmp_path)
    before = [path.read_bytes() for path in written(folder)]
    original = Path.write_bytes

    def write_bytes(self, data):
        if "model.safetensors" in self.name:
            raise OSError("disk full")
        return original(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(OSError, match="disk full"):
            model(width=3).save(folder)
    assert [path.read_bytes() for path in written(folder)] == before
    Segmenter.load(folder)


def test_the_description_names_the_classes():
    assert model().description == "hlfd 1=liver 2=tumor"

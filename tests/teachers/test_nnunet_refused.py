"""What is refused of nnU-Net's folders: with the file and the key, what was expected and what came, and no code run."""

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hlfd.errors import InputError
from hlfd.teachers import open_pretrained

CHECKPOINT = "fold_0/checkpoint_final.pth"


def refused(folder: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        open_pretrained(folder)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 800


def named(made: Any, name: str) -> str:
    return re.escape(str(made.folder / name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"background": 0, "kidney": [1, 2], "tumor": 2}}, "labels.kidney: regions that overlap"),
        ({"labels": {"background": 0, "kidney": 1, "tumor": 3}}, "labels: expected values 0"),
        ({"labels": {"background": 0, "kidney": 1, "tumor": 1}}, "labels: expected values 0"),
        ({"labels": {"kidney": 1, "tumor": 2}}, "labels: expected values 0"),
        ({"labels": {"background": "0", "kidney": "a"}}, "labels: expected values 0"),
        ({"labels": {"background": 0, "kidney": {}}}, "labels: expected values 0"),
        ({"labels": ["kidney"]}, "labels: expected names with values"),
        ({"channel_names": {"0": "T1"}}, r"channel_names: expected one modality, .*got \{'0': 'T1'\}"),
        ({"channel_names": {"0": "CT", "1": "PET"}}, "channel_names: expected one modality"),
        ({"channel_names": None}, "channel_names: expected one modality"),
    ],
)
def test_data_sets_that_do_not_serve(change, message, nnunet):
    made = nnunet()
    made.edit("dataset.json", lambda d: d.update(change))
    refused(made.folder, f"{named(made, 'dataset.json')}: {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalization_schemes": ["ZScoreNormalization"]}, r"normalization_schemes: expected \['CTNormalization'\]"),
        ({"normalization_schemes": ["CTNormalization"] * 2}, "normalization_schemes: expected"),
        ({"previous_stage": "3d_lowres"}, "a cascade isn't supported, it needs the result of '3d_lowres'"),
        ({"spacing": [0.8, 0.9]}, r"spacing: expected square pixels in the axial plane, got 0.8 x 0.9 mm"),
        ({"spacing": [3.0, 0.8, 0.8]}, "a spacing of 3 axes, .* and a network of 2"),
        ({"spacing": [0.8, 0]}, "'spacing.1': input should be greater than 0, got 0"),
        ({"spacing": [0.8]}, "'spacing'"),
        ({"architecture": {}}, "'architecture.network_class_name' is missing"),
        ({"architecture": None}, "'architecture'"),
    ],
)
def test_configurations_that_do_not_serve(change, message, nnunet):
    made = nnunet(mirrored=(0, 1, 2))
    made.edit("plans.json", lambda p: p["configurations"]["2d"].update(change))
    refused(made.folder, f"{named(made, 'plans.json')}: configurations.2d.?.*{message}")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("network_class_name", "os.system", "network_class_name: expected PlainConvUNet or .* got 'os.system'"),
        ("network_class_name", "dynamic_network_architectures.architectures.primus.Primus", "expected PlainConvUNet"),
        ("network_class_name", "evil.dynamic_network_architectures.PlainConvUNet", "expected PlainConvUNet"),
        ("conv_op", "os.system", "conv_op: 'os.system' is not allowed"),
        ("conv_op", "evil.torch.nn.Conv2d", "conv_op: 'evil.torch.nn.Conv2d' is not allowed"),
        ("conv_op", "torch.nn.Linear", "conv_op: 'torch.nn.Linear' is not allowed"),
        ("nonlin", "torch.nnevil.ReLU", "nonlin: 'torch.nnevil.ReLU' is not allowed"),
        ("nonlin", 3, "nonlin: '3' is not allowed"),
        ("n_stages", 4, "arch_kwargs: PlainConvUNet can't be built"),
        ("widen", 2, "arch_kwargs: PlainConvUNet can't be built: .*widen"),
        ("num_classes", 2, "arch_kwargs: PlainConvUNet can't be built: .*num_classes"),
        ("strides", [[1, 1]] + [[2, 2]] * 3, "arch_kwargs: PlainConvUNet can't be built"),
    ],
)
def test_architectures_that_are_not_allowed(key, value, message, nnunet):
    made = nnunet()

    def change(plans: Any) -> None:
        architecture = plans["configurations"]["2d"]["architecture"]
        (architecture if key in architecture else architecture["arch_kwargs"])[key] = value

    made.edit("plans.json", change)
    refused(made.folder, f"configurations.2d.architecture.*{message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("configurations"), "'configurations' is missing"),
        (lambda p: p.pop("foreground_intensity_properties_per_channel"), "foreground_intensity_properties_per_channel"),
        (lambda p: p["foreground_intensity_properties_per_channel"]["0"].pop("std"), "'.*0.std' is missing"),
        (lambda p: p["foreground_intensity_properties_per_channel"].clear(), "there is no channel '0'"),
        (lambda p: p.update(transpose_forward=[0, 0, 1]), "transpose_forward"),
        (lambda p: p["configurations"].update({"2D": p["configurations"].pop("2d")}), "no configuration '2d'.*2D"),
        (lambda p: p["configurations"]["2d"].update(inherits_from="3d"), "there is no configuration '3d'"),
        (lambda p: p["configurations"]["2d"].update(inherits_from=["2d"]), "there is no configuration"),
    ],
)
def test_plans_that_do_not_serve(change, message, nnunet):
    made = nnunet()
    made.edit("plans.json", change)
    refused(made.folder, f"{named(made, 'plans.json')}.*{message}")


def test_weights_of_another_network_are_refused(nnunet):
    made = nnunet()

    def plan(**arguments: Any) -> None:
        made.edit("plans.json", lambda p: p["configurations"]["2d"]["architecture"]["arch_kwargs"].update(arguments))

    path = named(made, CHECKPOINT)
    plan(features_per_stage=[5, 6, 8, 10, 12])
    refused(made.folder, rf"{path}: does not fit PlainConvUNet: 'encoder.stages.0.*' is \(4,.*\), expected \(5,")
    plan(features_per_stage=[4, 6, 8, 10, 12], n_conv_per_stage=[2, 1, 1, 1, 1])
    refused(made.folder, f"{path}: does not fit PlainConvUNet: it has no 'encoder.stages.0.*convs.1")
    plan(n_conv_per_stage=[1] * 5)
    made.resave(CHECKPOINT, lambda s: {**s, "network_weights": {**s["network_weights"], "aux": torch.zeros(1)}})
    refused(made.folder, f"{path}: does not fit PlainConvUNet, which has no 'aux'")
    made.resave(CHECKPOINT, lambda s: {**s, "network_weights": 3})
    refused(made.folder, f"{path}: expected a state dict")
    made.resave(CHECKPOINT, lambda s: {**s, "init_args": 3})
    refused(made.folder, path)
    made.resave(CHECKPOINT, lambda s: torch.zeros(3))
    refused(made.folder, f"{path}: expected a dictionary of weights, got Tensor")


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
def test_a_file_that_is_missing_is_named(name, nnunet):
    made = nnunet()
    (made.folder / name).unlink()
    refused(made.folder, f"^{re.escape(str(made.folder))}: {name} is missing, which nnU-Net writes there")
    with pytest.raises(InputError, match=f"did you mean {re.escape(str(made.folder))}"):
        open_pretrained(made.folder.parent)


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", CHECKPOINT])
@pytest.mark.parametrize("content", [b"", b"{", b"PK\x03\x04", b"[]", b"\xff\xfe"])
def test_what_is_no_json_and_no_checkpoint_is_refused(name, content, nnunet):
    made = nnunet()
    (made.folder / name).write_bytes(content)
    refused(made.folder, named(made, name))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_checkpoint_that_is_cut_is_refused(share, nnunet):
    made = nnunet()
    path = made.folder / CHECKPOINT
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(made.folder, f"{named(made, CHECKPOINT)}: expected tensors, numbers and text of torch.save, got")


@pytest.mark.parametrize("how", ["zip", "before torch 1.6", "plain pickle"])
def test_a_checkpoint_that_wants_to_run_code_is_refused_and_runs_none(how, nnunet, runs_code):
    made = nnunet()
    path = made.folder / CHECKPOINT
    values = {"network_weights": {}, "logging": runs_code}
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(values))
    else:
        torch.save(values, path, _use_new_zipfile_serialization=how == "zip")
    message = (
        "got a damaged or other file" if how == "plain pickle" else r"refused, reading it would run code \(\w+.system\)"
    )
    refused(made.folder, f"{named(made, CHECKPOINT)}: .*{message}")
    assert not runs_code.marker.exists()


def test_a_pickled_network_is_refused(nnunet):
    made = nnunet()
    torch.save({"network_weights": made.network}, made.folder / CHECKPOINT)
    refused(made.folder, r"reading it would run code \(dynamic_network_architectures.*save the state dict")


def test_objects_in_arrays_of_numpy_are_no_numbers(nnunet, runs_code):
    made = nnunet()
    values = torch.load(made.folder / CHECKPOINT, weights_only=False)
    torch.save({**values, "extra": np.array([runs_code], dtype=object)}, made.folder / CHECKPOINT)
    refused(made.folder, "would run code")
    assert not runs_code.marker.exists()


def test_the_library_that_is_missing_is_named(nnunet, monkeypatch):
    made = nnunet()
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures.architectures", None)
    refused(made.folder, r"needs dynamic_network_architectures: pip install 'hlfd\[nnunet\]'")

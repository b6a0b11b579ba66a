"""``hlfd taps``: what a network offers, and why a method can't use it."""

from pathlib import Path

import pytest

from hlfd import plugins
from hlfd.data.preprocess import Preprocess
from hlfd.distill.features import ROLES
from hlfd.errors import InputError
from hlfd.labels import organ_and_tumor
from hlfd.segmenter import Segmenter, build_network
from hlfd.study.taps import overview


def test_taps_of_a_plug_in():
    found = overview("unet", ["width=4"], size=64)
    assert [tap.role for tap in found.taps] == list(ROLES)
    e3, logits = found.taps[2], found.taps[-1]
    assert (e3.info.channels, e3.info.stride, e3.size, e3.module, e3.meaning) == (16, 4, (16, 16), "e3", "encoder")
    assert not e3.proposed
    assert (logits.size, logits.module, logits.meaning) == ((64, 64), None, "output")
    assert found.size == (64, 64)
    assert "unet, 2D, 1 channel to 3 classes" in found.title
    assert found.methods == dict.fromkeys(plugins.names("methods"), (None, None))


def test_why_a_method_can_not_use_it_and_how_to_help():
    plain = overview("resnet18", ["width=2"])
    assert plain.methods["fitnet"] == (None, None)
    student, teacher = plain.methods["hlfd"]
    assert "the student has no tap 'd5' (it has e1, e2" in student
    assert "the teacher has no tap 'd5' (it has e1, e2" in teacher
    helped = overview("resnet18", ["width=2", "taps={d5: e4, d4: e3, d3: e2, d2: e1}"])
    assert helped.methods["hlfd"] == (None, None)
    again = overview("resnet18", ["width=2", "taps.d5=e4", "taps.d4=e3", "taps.d3=e2", "taps.d2=e1"])
    assert again.taps == helped.taps


def test_a_network_that_accepts_one_size():
    options = ["img_size=32", "hidden_size=24", "mlp_dim=24", "num_heads=2"]
    found = overview("monai:UNETR", options)
    assert found.size == (32, 32)
    assert all(tap.proposed for tap in found.taps if tap.module)
    with pytest.raises(InputError, match="can't be run on images of 64 x 64 pixels"):
        overview("monai:UNETR", options, size=64)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A run with a model in 3D of two channels and three classes."""
    network = build_network("unet", {"width": 2}, 3, in_channels=2, dims=3)
    labels = organ_and_tumor("both", "liver")
    Segmenter(network, "unet", {"width": 2}, Preprocess(window_hu=(0, 1)), labels).save(tmp_path / "run" / "model")
    return tmp_path / "run"


def test_a_model_folder_says_itself_what_it_is(model):
    for folder in (model, model / "model"):
        found = overview(str(folder), classes=7)
        assert "unet, 3D, 2 channels to 3 classes" in found.title
        assert found.size == (96, 96, 96)
        assert found.taps[4].size == (6, 6, 6)
    with pytest.raises(InputError, match="a model's options are its own, got width=3"):
        overview(str(model), ["width=3"])


def test_the_command(hlfd):
    ended = hlfd("taps", "unet", "width=4", "--size", "64")
    assert (ended.code, ended.err) == (0, "")
    for words in ("e3", "encoder", "16 x 16", "declared", "hlfd", "yes"):
        assert words in ended.out
    assert "Conv2d" not in ended.out
    every = hlfd("taps", "resnet18", "width=2", "--all").out
    assert "Conv2d" in every and "e5.1" in every
    assert "hlfd: term plfd.d5: the student has no tap 'd5'" in every
    for arguments, words in (
        (("unett",), "there is no network 'unett' (did you mean 'unet'?"),
        (("unet", "widhth=3"), "network 'unet' has no option 'widhth' (did you mean 'width'?"),
        (("unet", "width"), "'width': expected key=value"),
        (("unet", "--size", "40"), "a multiple of 16"),
        (("monai",), "network 'monai' needs to be told what to build: monai:NAME"),
        (("unet:3",), "network 'unet' takes nothing after a colon, got '3'"),
    ):
        ended = hlfd("taps", *arguments)
        assert ended.code == 2
        assert words in ended.err and ended.err.count("\n") == 1

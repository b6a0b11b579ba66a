"""``hlfd taps`` and ``hlfd info`` read the folders of nnU-Net and MONAI too."""

from pathlib import Path

import pytest

from hlfd.errors import InputError
from hlfd.study.describe import describe
from hlfd.study.taps import overview


def test_an_nnunet_folder(nnunet):
    made = nnunet()
    found = overview(str(made.folder))
    roles = {tap.role for tap in found.taps}
    assert {"e1", "e5", "d5", "d2", "logits"} <= roles
    assert found.methods["hlfd"][1] is None  # it can teach it
    assert str(made.folder) in found.title
    with pytest.raises(InputError, match="fold"):
        overview(str(made.folder), options=["fold=7"])


def test_options_are_those_of_the_reader(nnunet):
    folder = str(nnunet().folder)
    found = overview(folder, ["taps.d5=null", "taps.e4=encoder.stages.2"])
    assert {tap.role: tap.module for tap in found.taps}["e4"] == "encoder.stages.2"
    assert "d5" not in {tap.role for tap in found.taps}
    for wrong, message in (
        (["folds=1"], "teacher 'nnunet' has no option 'folds' .did you mean 'fold'"),
        (["fold"], "'fold': expected key=value"),
    ):
        with pytest.raises(InputError, match=message):
            overview(folder, wrong)
        with pytest.raises(InputError, match=message):
            describe(Path(folder), wrong)


def test_sizes_are_along_our_axes(nnunet, bundle):
    """The first step of the nnU-Net is in plane alone; a bundle's images are turned to RAS."""
    found = overview(str(nnunet(dims=3).folder))
    taps = {tap.role: tap for tap in found.taps}
    assert found.size == (96, 96, 96) and taps["e2"].size == (96, 48, 48)
    assert str(taps["e2"].info) == "1 x 2 x 2"
    made = bundle()
    assert overview(str(made.folder)).taps[1].proposed


def test_the_image_is_as_large_as_the_strides_of_a_deep_network_want(nnunet):
    found = overview(str(nnunet(features=(2,) * 9).folder))  # of stride 256
    assert found.size == (512, 512)


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(InputError, match="not a trained model of a kind that is known"):
        overview(str(tmp_path))


def test_a_network_s_name_is_no_folder(tmp_path, monkeypatch):
    (tmp_path / "unet").mkdir()
    monkeypatch.chdir(tmp_path)
    assert overview("unet", ["width=2"]).title.startswith("unet, 2D")
    with pytest.raises(InputError, match="not a trained model"):
        overview("./unet")


def test_info_of_an_nnunet_folder(hlfd, nnunet):
    made = nnunet()
    ended = hlfd("info", made.folder, "fold=0")
    assert (ended.code, ended.err) == (0, "")
    for words in (
        "nnU-Net PlainConvUNet, 2d, of Dataset220_KiTS, fold 0 (final)",
        ", 2D",
        "labels      1 = kidney, 2 = tumor",
        "e1 4ch/1, e2 6ch/2",
        "-58 to 302 HU; 100.5 is 0, 75.25 more is 1",
        "0.78 mm in plane",
    ):
        assert words in ended.out
    (made.folder / "dataset.json").unlink()
    ended = hlfd("info", made.folder)
    assert ended.code == 2 and "dataset.json is missing" in ended.err


def test_info_of_a_bundle(hlfd, bundle):
    ended = hlfd("info", bundle().folder)
    assert (ended.code, ended.err) == (0, "")
    for words in ("MONAI SegResNet", ", 3D", "1 = liver, 2 = tumor", "-57 to 164 HU", "1.5 mm in plane"):
        assert words in ended.out


def test_info_of_a_bundle_that_does_not_say_it_all(hlfd, bundle):
    flat = bundle(dims=2).folder
    assert "axcodes" in hlfd("info", flat).err
    for grid, words in ((("size=[64, 48]",), "whole slices resized to 64 x 48"), (("spacing_mm=2",), "2 mm in plane")):
        assert words in hlfd("info", flat, "axcodes=PL", *grid).out

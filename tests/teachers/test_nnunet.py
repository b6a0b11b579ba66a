"""Result folders of nnU-Net: the network that comes back is the one that was saved, with its stages by role."""

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hlfd.distill.frozen import FrozenTeacher
from hlfd.distill.pretrained import Intensity
from hlfd.errors import InputError
from hlfd.teachers._open import open_pretrained

CHECKPOINT = "fold_0/checkpoint_final.pth"


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def image(dims: int) -> torch.Tensor:
    return torch.randn(2, 1, *[32] * dims, generator=torch.Generator().manual_seed(0))


def logits(folder: Path, dims: int, **options) -> torch.Tensor:
    return open_pretrained(folder, **options).tapped(image(dims))["logits"]


def finest(network: nn.Module, dims: int) -> torch.Tensor:
    return network(image(dims))[0]  # saved with deep supervision: several outputs


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet"])
def test_the_network_is_the_one_that_was_saved(kind, dims, nnunet):
    made = nnunet(kind, dims)
    assert torch.equal(logits(made.folder, dims), finest(made.network, dims))
    assert not open_pretrained(made.folder).tapped.training


def test_what_else_is_known_of_it(nnunet):
    teacher = open_pretrained(nnunet().folder)
    assert teacher.intensity == Intensity(low_hu=-58.0, high_hu=302.0, center_hu=100.5, scale_hu=75.25)
    assert teacher.names == ("kidney", "tumor")
    assert (teacher.spacing_mm, teacher.size, teacher.crop, teacher.learned_from) == (0.78, None, None, None)
    assert teacher.description == (
        "nnU-Net PlainConvUNet, 2d, of Dataset220_KiTS, fold 0 (final), trained by nnUNetTrainer"
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_taps_of_five_stages_have_the_roles_of_our_unet(dims, nnunet):
    info = open_pretrained(nnunet(dims=dims).folder).tapped.info()
    assert {role: (tap.channels, tap.stride) for role, tap in info.items()} == {
        "e1": (4, 1), "e2": (6, 2), "e3": (8, 4), "e4": (10, 8), "e5": (12, 16),
        "d5": (10, 8), "d4": (8, 4), "d3": (6, 2), "d2": (4, 1), "logits": (3, 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stages", "taps"),
    [
        (8, {"e1": 0, "e2": 2, "e3": 4, "e4": 5, "e5": 7, "d5": 0, "d4": 2, "d3": 4, "d2": 6}),
        (6, {"e1": 0, "e2": 1, "e3": 2, "e4": 4, "e5": 5, "d5": 0, "d4": 1, "d3": 3, "d2": 4}),
        (4, {"e1": 0, "e2": 1, "e3": 2, "e5": 3, "d5": 0, "d4": 1, "d2": 2}),
        (3, {"e1": 0, "e2": 1, "e5": 2, "d5": 0, "d2": 1}),
        (2, {"e1": 0, "e5": 1, "d2": 0}),
    ],
)
def test_taps_of_other_numbers_of_stages_spread(stages, taps, nnunet):
    tapped = open_pretrained(nnunet(features=(4,) * stages).folder).tapped
    path = {"e": "encoder", "d": "decoder"}
    assert tapped.taps == {role: f"{path[role[0]]}.stages.{stage}" for role, stage in taps.items()}
    assert FrozenTeacher(tapped).info()["e5"].stride == 2 ** (stages - 1)


def test_each_tap_fires_once_and_reads_the_stage(nnunet):
    made = nnunet()
    tapped = open_pretrained(made.folder).tapped
    fired: list[str] = []
    for role, name in tapped.taps.items():
        tapped.network.get_submodule(name).register_forward_hook(lambda *_, role=role: fired.append(role))
    features = tapped(image(2))
    assert sorted(fired) == sorted(tapped.taps)
    for role, skip in zip(("e1", "e2", "e3", "e4", "e5"), made.network.encoder(image(2)), strict=True):
        assert torch.equal(features[role], skip)


def test_many_stages_need_a_large_image_and_get_one(nnunet):
    tapped = open_pretrained(nnunet(features=(4,) * 6).folder).tapped
    assert tapped.multiples == (32, 32)
    assert tapped.info(32)["e5"].stride == 32  # of 32 pixels one is left, which a norm refuses


def test_strides_that_differ_between_axes(nnunet):
    assert open_pretrained(nnunet(dims=3).folder).tapped.multiples == (8, 16, 16)


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("dims", [2, 3])
def test_plans_of_before_2_3(kind, dims, nnunet):
    made = nnunet(kind, dims, features=(4, 8, 16, 20))

    def old(plans: Any) -> None:
        configuration = next(iter(plans["configurations"].values()))
        described = configuration.pop("architecture")["arch_kwargs"]
        configuration |= {
            "UNet_class_name": kind,
            "UNet_base_num_features": 4,
            "unet_max_num_features": 20,
            "conv_kernel_sizes": described["kernel_sizes"],
            "pool_op_kernel_sizes": described["strides"],
            "n_conv_per_stage_encoder": [1] * 4,
            "n_conv_per_stage_decoder": [1] * 3,
            "num_pool_per_axis": [3] * dims,
        }
        plans["foreground_intensity_properties_by_modality"] = plans.pop("foreground_intensity_properties_per_channel")

    made.edit("plans.json", old)
    assert torch.equal(logits(made.folder, dims), finest(made.network, dims))


def test_a_configuration_inherits(nnunet):
    made = nnunet(configuration="2d_bs4")

    def inherit(plans: Any) -> None:
        everything = plans["configurations"].pop("2d_bs4")
        plans["configurations"]["2d"] = {**everything, "spacing": [9.0, 9.0]}
        plans["configurations"]["2d_bs4"] = {"inherits_from": "2d", "batch_size": 4, "spacing": [0.5, 0.5]}

    made.edit("plans.json", inherit)
    assert open_pretrained(made.folder).spacing_mm == 0.5
    assert torch.equal(logits(made.folder, 2), finest(made.network, 2))
    made.edit("plans.json", lambda p: p["configurations"]["2d"].update(inherits_from="2d_bs4"))
    with pytest.raises(InputError, match="'2d_bs4' inherits from itself"):
        open_pretrained(made.folder)


def test_the_checkpoint_says_which_configuration_whatever_the_folder_is_called(nnunet):
    folder = nnunet().folder
    renamed = folder.rename(folder.parent / "my teacher")
    assert open_pretrained(renamed).description.startswith("nnU-Net PlainConvUNet, 2d,")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_weights_saved_on_several_gpus_or_compiled(prefix, nnunet):
    made = nnunet()
    weights = {prefix + key: value for key, value in made.network.state_dict().items()}
    made.resave(CHECKPOINT, lambda saved: {**saved, "network_weights": weights})
    assert torch.equal(logits(made.folder, 2), finest(made.network, 2))


def test_numbers_of_numpy_1_are_read(nnunet):
    """A checkpoint of numpy 1 names the function that makes a number by the path it had there."""
    made = nnunet()
    path = made.folder / CHECKPOINT
    content = path.read_bytes()
    assert b"numpy._core.multiarray\nscalar" in content
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
        for item in old.infolist():
            new.writestr(item, old.read(item).replace(b"numpy._core.multi", b"numpy.core.multi"))
    assert torch.equal(logits(made.folder, 2), finest(made.network, 2))


def test_fold_checkpoint_and_taps_are_options(nnunet):
    folder = nnunet().folder
    (folder / "fold_0").rename(folder / "fold_all")
    (folder / "fold_all" / "checkpoint_final.pth").rename(folder / "fold_all" / "checkpoint_best.pth")
    best = {"fold": "all", "checkpoint": "best"}
    taps = open_pretrained(folder, **best, taps={"e2": "encoder.stages.2", "d5": None}).tapped.taps
    assert "d5" not in taps and (taps["e2"], taps["e3"]) == ("encoder.stages.2", "encoder.stages.2")
    for options, message in [
        ({}, r"there is no fold 0 \(folds: all\)"),
        ({"fold": "all"}, r"checkpoint_final.pth: no such file \(checkpoints: checkpoint_best.pth\)"),
        ({"fold": -1}, "teacher 'nnunet': 'fold"),
        ({"fold": "none"}, "teacher 'nnunet': 'fold"),
        ({"folds": 1}, r"teacher 'nnunet' has no option 'folds' \(did you mean 'fold'"),
        ({"checkpoint": "latest"}, "teacher 'nnunet': 'checkpoint'"),
        ({**best, "taps": {"e2": "encoder.stages.7"}}, "the network has no module 'encoder.stages.7'"),
        ({**best, "taps": {"e2": "encoder.stages.4"}}, "tap e3 has stride 4 after e2 with stride 16"),
        ({**best, "taps": {"e9": "encoder.stages.1"}}, "'e9' is not a tap's role"),
    ]:
        with pytest.raises(InputError, match=message):
            open_pretrained(folder, **options)


# Axes: where those of the network's images point, and how ours are turned to them.


def turned(values: torch.Tensor, axes: tuple[int, ...], flips: tuple[int, ...]) -> torch.Tensor:
    return torch.flip(values.permute(0, 1, *[2 + a for a in axes]), [2 + f for f in flips])


@pytest.mark.parametrize(
    ("dims", "order", "axes", "flips"),
    [
        (2, [0, 1, 2], (0, 1), (0, 1)),  # AR: rows and columns the other way round
        (2, [0, 2, 1], (1, 0), (0, 1)),  # RA
        (3, [0, 1, 2], (0, 1, 2), (1, 2)),  # SAR
        (3, [2, 0, 1], (2, 0, 1), (0, 2)),  # RSA
    ],
)
def test_a_reader_that_reorients_says_where_axes_point(dims, order, axes, flips, nnunet):
    made = nnunet(dims=dims, mirrored=None)
    reader = {"image_reader_writer": "NibabelIOWithReorient", "transpose_forward": order}
    made.edit("plans.json", lambda p: p.update(reader))
    if dims == 3:
        made.edit("plans.json", lambda p: p["configurations"]["3d_fullres"].update(spacing=[0.8, 0.8, 0.8]))
    features = open_pretrained(made.folder).tapped(image(dims))
    seen = turned(image(dims), axes, flips)
    inverse = [2 + axes.index(axis) for axis in range(dims)]
    expected = {"logits": made.network(seen)[0], "e3": made.network.encoder(seen)[2]}
    for role, values in expected.items():
        assert torch.equal(features[role], torch.flip(values, [2 + f for f in flips]).permute(0, 1, *inverse))


def test_the_pixel_size_is_that_of_the_axial_plane_whatever_the_order_of_axes(nnunet):
    made = nnunet(dims=3)
    reader = {"image_reader_writer": "NibabelIOWithReorient", "transpose_forward": [2, 0, 1]}
    made.edit("plans.json", lambda p: p.update(reader))
    made.edit("plans.json", lambda p: p["configurations"]["3d_fullres"].update(spacing=[0.8, 5.0, 0.8]))
    assert open_pretrained(made.folder).spacing_mm == 0.8
    assert open_pretrained(made.folder).tapped.multiples == (16, 16, 8)  # S, A, R


def test_slices_that_are_not_axial_are_refused(nnunet):
    made = nnunet()
    reader = {"image_reader_writer": "NibabelIOWithReorient", "transpose_forward": [2, 0, 1]}
    made.edit("plans.json", lambda p: p.update(reader))
    with pytest.raises(InputError, match=r"its slices aren't axial \(transpose_forward \[2, 0, 1\]\)"):
        open_pretrained(made.folder)


@pytest.mark.parametrize(("mirrored", "order"), [(None, [0, 1, 2]), ((0,), [0, 1, 2]), ((0, 1), [2, 0, 1])])
def test_axes_that_can_not_be_known_must_be_said(mirrored, order, nnunet):
    made = nnunet(mirrored=mirrored)
    made.edit("plans.json", lambda p: p.update(transpose_forward=order))
    with pytest.raises(InputError, match=r"configurations\.2d: it .*: say where the axes .* axcodes: PL for rows to"):
        open_pretrained(made.folder)
    assert torch.equal(logits(made.folder, 2, axcodes="PL"), finest(made.network, 2))
    for wrong in ("SPL", "PP", "SL", "XY", "pl", "P"):
        with pytest.raises(InputError, match=f"axcodes: expected .*for example PL, got '{wrong}'"):
            open_pretrained(made.folder, axcodes=wrong)


def test_nearly_square_pixels_are_taken_by_their_area(nnunet):
    made = nnunet()
    made.edit("plans.json", lambda p: p["configurations"]["2d"].update(spacing=[0.8, 0.82]))
    assert open_pretrained(made.folder).spacing_mm == pytest.approx((0.8 * 0.82) ** 0.5)


def test_labels_may_be_lists_of_one_in_any_order_and_ignored(nnunet):
    made = nnunet()
    labels = {"tumor": [2], "background": 0, "kidney": 1, "ignore": 3}
    made.edit("dataset.json", lambda d: d.update(labels=labels))
    assert open_pretrained(made.folder).names == ("kidney", "tumor")


def test_the_folder_above_is_answered_with_the_folder_meant(nnunet):
    folder = nnunet().folder
    with pytest.raises(InputError, match=f"no model itself, did you mean {re.escape(str(folder))}"):
        open_pretrained(folder.parent)

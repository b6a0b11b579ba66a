"""MONAI bundles: read as data, never evaluated; what isn't said in plain values must be given, or is refused."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from monai.bundle import ConfigParser
from monai.networks import nets
from monai.transforms import ScaleIntensityRange

from hlfd.distill.pretrained import Intensity
from hlfd.errors import InputError
from hlfd.teachers._foreign import Foreign
from hlfd.teachers._open import open_pretrained

METADATA, INFERENCE, MODEL = "configs/metadata.json", "configs/inference.json", "models/model.pt"
IMAGE = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
SEGRESNET = {
    "_target_": "SegResNet",
    "spatial_dims": 3,
    "out_channels": 3,
    "init_filters": 4,
    "in_channels": 1,
    "blocks_down": [1, 1],
    "blocks_up": [1],
    "upsample_mode": "deconv",
    "norm": ["GROUP", {"num_groups": 2}],
}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def turned(image: torch.Tensor) -> torch.Tensor:
    """Our S, P, L as R, A, S: the bundle's Orientationd. The same turn undoes itself."""
    return torch.flip(image.permute(0, 1, 4, 3, 2), [2, 3])


def back(values: torch.Tensor) -> torch.Tensor:
    return torch.flip(values, [2, 3]).permute(0, 1, 4, 3, 2)


def refused(folder: Path, message: str, **options: Any) -> None:
    with pytest.raises(InputError, match=message) as raised:
        open_pretrained(folder, **options)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 800


def transform(config: Any, name: str) -> dict[str, Any]:
    return next(t for t in config["preprocessing"]["transforms"] if t["_target_"] == name)


def drop(config: Any, name: str) -> None:
    transforms = config["preprocessing"]["transforms"]
    transforms.remove(transform(config, name))


def test_the_network_is_the_one_that_was_saved_and_sees_the_image_as_it_knows_it(bundle):
    made = bundle()
    teacher = open_pretrained(made.folder)
    assert torch.equal(teacher.tapped(IMAGE)["logits"], back(made.network(turned(IMAGE))))
    assert not teacher.tapped.training


def test_what_else_is_known_of_it(bundle):
    teacher = open_pretrained(bundle().folder)
    assert teacher.intensity == Intensity(low_hu=-57, high_hu=164, center_hu=-57, scale_hu=221)
    assert teacher.names == ("liver", "tumor")
    assert (teacher.spacing_mm, teacher.size, teacher.crop, teacher.learned_from) == (1.5, None, None, None)
    assert teacher.description == "MONAI SegResNet, Decathlon liver segmentation 0.2.0"


def test_taps_are_proposed_and_read_our_axes(bundle):
    made = bundle(levels=5)
    tapped = open_pretrained(made.folder).tapped
    info = tapped.info()
    assert [info[role].stride for role in ("e1", "e2", "e3", "e4", "e5")] == [1, 2, 4, 8, 16]
    assert [info[role].stride for role in ("d5", "d4", "d3", "d2")] == [8, 4, 2, 1]
    assert isinstance(tapped, Foreign) and tapped.multiples == (16, 16, 16)
    assert tapped.proposed == info.keys() - {"logits"}
    module = made.network.get_submodule(tapped.taps["e2"])
    seen = []
    module.register_forward_hook(lambda _m, _i, output: seen.append(output))
    made.network(turned(IMAGE))
    assert torch.equal(tapped(IMAGE)["e2"], back(seen[0]))


def test_taps_are_an_option_over_those_proposed(bundle):
    made = bundle()
    tapped = open_pretrained(made.folder, taps={"e1": "convInit", "d5": None}).tapped
    assert tapped.taps["e1"] == "convInit" and "e5" in tapped.taps and "d5" not in tapped.taps
    refused(made.folder, "the network has no module 'convInt'", taps={"e1": "convInt"})
    refused(made.folder, "inference.json: SegResNet: tap e5 has stride 1", taps={"e5": "convInit"})


@pytest.mark.parametrize("suffix", ["json", "yaml", "yml"])
@pytest.mark.parametrize("config", ["inference", "train"])
def test_configurations_in_yaml_and_of_training(suffix, config, bundle):
    made = bundle(suffix=suffix, config=config)
    assert torch.equal(open_pretrained(made.folder).tapped(IMAGE)["logits"], back(made.network(turned(IMAGE))))


@pytest.mark.parametrize("key", [None, "model", "state_dict"])
@pytest.mark.parametrize("name", ["model.pt", "model_final.pt"])
def test_weights_may_be_wrapped_and_have_another_name(key, name, bundle):
    made = bundle()
    (made.folder / MODEL).unlink()
    weights = {f"module.{k}": v for k, v in made.network.state_dict().items()}
    torch.save({key: weights, "epoch": 3} if key else weights, made.folder / "models" / name)
    options = {} if name == "model.pt" else {"weights": name}
    teacher = open_pretrained(made.folder, **options)
    assert torch.equal(teacher.tapped(IMAGE)["logits"], back(made.network(turned(IMAGE))))


def test_weights_as_safetensors(bundle):
    made = bundle()
    (made.folder / MODEL).unlink()
    safetensors.torch.save_file(made.network.state_dict(), made.folder / "models" / "model.safetensors")
    assert torch.equal(open_pretrained(made.folder).tapped(IMAGE)["logits"], back(made.network(turned(IMAGE))))
    (made.folder / "models" / "model.safetensors").write_bytes(b"PK")
    refused(made.folder, "model.safetensors: expected weights as safetensors, it can't be read")


def test_a_2d_bundle_must_say_how_its_slices_lie(bundle):
    made = bundle(dims=2)
    made.edit(INFERENCE, lambda c: drop(c, "Spacingd"))
    image = IMAGE[:, :, 0]
    refused(made.folder, "doesn't say how its slices lie: say where the axes .* axcodes: PL for rows to posterior")
    assert torch.equal(open_pretrained(made.folder, axcodes="PL").tapped(image)["logits"], made.network(image))
    expected = made.network(torch.flip(image.mT, [2, 3]))
    assert torch.equal(
        open_pretrained(made.folder, axcodes="RA").tapped(image)["logits"], torch.flip(expected, [2, 3]).mT
    )
    teacher = open_pretrained(made.folder, axcodes="PL", size=(256, 256))
    assert (teacher.spacing_mm, teacher.size) == (None, (256, 256))


# Nothing is evaluated


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["network_def"].update(init_filters="$2 * 2"),
            r"network_def.init_filters: '\$2 \* 2' is an expression, and none is evaluated: give the network with",
        ),
        (
            lambda c: c["network_def"].update(init_filters="@device"),
            r"init_filters: '\$torch.device.* is an expression",
        ),
        (
            lambda c: c["network_def"].update(norm=["GROUP", {"num_groups": "$2"}]),
            "network_def.norm.1.num_groups: '\\$2'",
        ),
        (lambda c: c["network_def"].update(init_filters="%configs/train.json#x"), "is an expression"),
        (lambda c: c["network_def"].update(init_filters="@nowhere#at"), "'@nowhere#at' leads nowhere, .* no 'nowhere'"),
        (lambda c: c["network_def"].update(out_channels="@channels#in"), "'@channels#in' leads nowhere, .* no 'in'"),
        (
            lambda c: c.update(a="@b", b="@a") or c["network_def"].update(init_filters="@a"),
            "@a -> @b -> @a is a circle",
        ),
        (
            lambda c: c["network_def"].update(act={"_target_": "os.system", "command": "ls"}),
            "network_def.act: expected plain",
        ),
        (lambda c: c["network_def"].update(_target_="os.system"), "network_def._target_: 'os.system' is not supported"),
        (lambda c: c["network_def"].update(_target_="scripts.SegResNet"), "'scripts.SegResNet' is not supported"),
        (lambda c: c["network_def"].update(_target_="$SegResNet"), r"'\$SegResNet' is not supported \(did you mean"),
        (lambda c: c["network_def"].update(_target_="TorchVisionFCModel"), "'TorchVisionFCModel' is not supported"),
        (lambda c: c["network_def"].update(_target_="segresnet"), "'segresnet' is not supported"),
        (lambda c: c["network_def"].update(_mode_="callable"), "expected plain values, got _mode_"),
        (lambda c: c["network_def"].update(img_size=96), "SegResNet can't be built: .*img_size.*option network:"),
        (lambda c: c["network_def"].pop("_target_"), "network_def: expected a class and its arguments"),
        (lambda c: c.pop("network_def"), r"network_def: expected a class and its arguments, got '\$@network_def"),
        (lambda c: c["network_def"].update(spatial_dims=1), "network_def"),
    ],
)
def test_networks_that_are_not_said_in_plain_values_or_not_allowed(change, message, bundle):
    made = bundle()
    made.edit(INFERENCE, change)
    refused(made.folder, f"{re.escape(str(made.folder / INFERENCE))}: .*{message}")
    teacher = open_pretrained(made.folder, network=SEGRESNET)  # the way out
    assert torch.equal(teacher.tapped(IMAGE)["logits"], back(made.network(turned(IMAGE))))


@pytest.mark.parametrize(
    "target", ["SegResNet", "monai.networks.nets.SegResNet", "monai.networks.nets.segresnet.SegResNet"]
)
def test_names_of_the_network(target, bundle):
    made = bundle()
    made.edit(INFERENCE, lambda c: c["network_def"].update(_target_=target, _desc_="ours", num_groups="@unused"))
    made.edit(INFERENCE, lambda c: c["network_def"].pop("num_groups"))
    assert open_pretrained(made.folder).description.startswith("MONAI SegResNet")


@pytest.mark.parametrize(
    ("name", "arguments", "multiple"),
    [
        ("UNet", {"channels": [4, 8, 8], "strides": [2, 2], "num_res_units": 2, "norm": "batch"}, 4),
        ("BasicUNet", {"features": [4, 4, 4, 8, 8, 4], "norm": "batch"}, 16),
        (
            "DynUNet",
            {
                "kernel_size": [3] * 3,
                "strides": [1, 2, 2],
                "upsample_kernel_size": [2] * 2,
                "filters": [4] * 3,
                "deep_supervision": True,
            },
            4,
        ),
    ],
)
def test_other_networks(name, arguments, multiple, bundle):
    made = bundle()
    definition = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, **arguments}
    network = getattr(nets, name)(**definition).eval()
    torch.save(network.state_dict(), made.folder / MODEL)
    tapped = open_pretrained(made.folder, network={"_target_": name, **definition}).tapped
    assert torch.equal(tapped(IMAGE)["logits"], back(network(turned(IMAGE))))
    assert tapped.multiples == (multiple,) * 3


def test_the_option_network_is_checked_too(bundle):
    made = bundle()
    refused(made.folder, "network._target_: 'os.system' is not supported", network={"_target_": "os.system"})
    refused(made.folder, "the option network: network: expected a class", network={"spatial_dims": 3})
    refused(made.folder, r"network.init_filters: '\$4' is an expression", network={**SEGRESNET, "init_filters": "$4"})


def test_a_network_that_would_download_weights_does_not(bundle, monkeypatch):
    given = []

    class FlexibleUNet(nets.FlexibleUNet):
        def __init__(self, **arguments: Any):
            given.append(arguments["pretrained"])
            raise ValueError("far enough")

    monkeypatch.setattr(nets, "FlexibleUNet", FlexibleUNet)
    made = bundle()
    refused(made.folder, "far enough", network={"_target_": "FlexibleUNet", "pretrained": True})
    assert given == [False]


def test_weights_that_want_to_run_code_are_refused_and_run_none(bundle, runs_code):
    made = bundle()
    torch.save({"state_dict": runs_code}, made.folder / MODEL)
    refused(made.folder, rf"{re.escape(str(made.folder / MODEL))}: refused, reading it would run code \(\w+.system\)")
    assert not runs_code.marker.exists()
    torch.save(made.network, made.folder / MODEL)
    refused(made.folder, r"reading it would run code \(monai")


def test_torchscript_is_refused(bundle):
    made = bundle()
    (made.folder / MODEL).rename(made.folder / "models" / "model.ts")
    for options in ({}, {"weights": "model.ts"}, {"weights": "../models/model.ts"}):
        refused(made.folder, r"expected .* \(TorchScript holds code and isn't read\), found model.ts", **options)


def test_torchscript_by_the_name_of_a_state_dict_is_refused(bundle):
    made = bundle()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Conv3d(1, 1, 1)), made.folder / MODEL)
    refused(made.folder, "model.pt: expected tensors, numbers and text of torch.save, got a file of TorchScript")


def test_weights_from_outside_the_folder_are_refused(bundle):
    made = bundle()
    refused(made.folder, "models: expected ../configs/metadata.json", weights="../configs/metadata.json")


# What metadata.json says


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, o: i.update(modality="MR"), "inputs.image.modality: expected CT, got MR"),
        (lambda i, o: i.update(num_channels=4), "inputs.image.num_channels: expected 1, got 4"),
        (lambda i, o: i.pop("modality"), "'network_data_format.inputs.image.modality' is missing"),
        (
            lambda i, o: o.update(channel_def={"0": "liver", "1": "tumor", "2": "x"}),
            "expected channel 0 to be background",
        ),
        (lambda i, o: o["channel_def"].pop("2"), "channel_def: expected a name for each of 3 channels"),
        (
            lambda i, o: o.update(channel_def={"0": "background", "1": "a", "2": "a"}),
            "expected different names, got a, a",
        ),
        (lambda i, o: o.update(channel_def={"0": "background"}, num_channels=1), "expected a name for each of 1"),
    ],
)
def test_metadata_that_does_not_serve(change, message, bundle):
    made = bundle()
    made.edit(
        METADATA,
        lambda m: change(m["network_data_format"]["inputs"]["image"], m["network_data_format"]["outputs"]["pred"]),
    )
    refused(made.folder, f"{re.escape(str(made.folder / METADATA))}: .*{message}")


def test_metadata_and_network_must_agree(bundle):
    made = bundle()
    pred = {"num_channels": 2, "channel_def": {"0": "background", "1": "liver"}}
    made.edit(METADATA, lambda m: m["network_data_format"]["outputs"]["pred"].update(pred))
    refused(made.folder, "inference.json: SegResNet: expected logits of 2 channels at stride 1, got 3")


def test_files_that_are_missing_or_damaged(bundle):
    made = bundle()
    content = (made.folder / MODEL).read_bytes()
    (made.folder / MODEL).write_bytes(content[:2000])
    refused(made.folder, "model.pt: expected tensors, numbers and text of torch.save, got")
    (made.folder / MODEL).unlink()
    refused(made.folder, "models: expected model.pt or model.safetensors, .*found nothing")
    torch.save({**made.network.state_dict(), "extra": torch.zeros(1)}, made.folder / MODEL)
    refused(made.folder, "model.pt: does not fit SegResNet, which has no 'extra'")
    (made.folder / INFERENCE).write_text("{")
    refused(made.folder, "inference.json: expected JSON, it can't be read")
    (made.folder / INFERENCE).unlink()
    refused(made.folder, "configs: expected one of inference.json, inference.yaml, .* found none")
    (made.folder / "configs" / "train.yaml").write_text("!!python/object/apply:os.system ['false']")
    refused(made.folder, "train.yaml: expected YAML, it can't be read")
    (made.folder / METADATA).write_text("[]")
    refused(made.folder, "metadata.json: expected keys with values, got list")
    (made.folder / METADATA).unlink()
    refused(
        made.folder, r"not a trained model of a kind that is known: bundle \(configs/metadata.json, .*nnunet \(plans"
    )


# Intensity, pixel size, axes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: drop(c, "ScaleIntensityRanged"), "no ScaleIntensityRanged: how HU become .* isn't known"),
        (lambda c: transform(c, "ScaleIntensityRanged").update(clip=False), "expected a_min, a_max and clip"),
        (lambda c: transform(c, "ScaleIntensityRanged").update(a_min="$-57"), r"a_min: '\$-57' is an expression"),
        (lambda c: transform(c, "ScaleIntensityRanged").update(a_min=None), "expected a_min, a_max and clip"),
        (
            lambda c: c["preprocessing"]["transforms"].append({"_target_": "NormalizeIntensityd", "keys": "image"}),
            "preprocessing.transforms.6: NormalizeIntensityd is no window of HU",
        ),
        (
            lambda c: c["preprocessing"]["transforms"].append(
                {**transform(c, "ScaleIntensityRanged"), "a_min": -100, "_target_": "ScaleIntensityRangeD"}
            ),
            r"several windows, \[\(-100, 164, 0.0, 1.0\), \(-57,",
        ),
    ],
)
def test_intensities_that_must_be_given(change, message, bundle):
    made = bundle()
    made.edit(INFERENCE, change)
    refused(made.folder, rf"{message}.*give the option window_hu: \[LOW, HIGH\] or intensity: ")
    assert open_pretrained(made.folder, window_hu=(-100, 300)).intensity == Intensity(-100, 300, -100, 400)
    exact = {"low_hu": -200, "high_hu": 300, "center_hu": 10, "scale_hu": 40}
    assert open_pretrained(made.folder, intensity=exact).intensity == Intensity(**exact)


def test_transforms_of_labels_and_disabled_ones_do_not_count(bundle):
    made = bundle()

    def change(config: Any) -> None:
        config["preprocessing"]["transforms"] += [
            {"_target_": "Lambdad", "keys": "label", "func": "$lambda x: x > 0"},
            {"_target_": "Resized", "keys": ["label"], "spatial_size": [64, 64, 64]},
            {"_target_": "NormalizeIntensityd", "keys": "image", "_disabled_": True},
        ]

    made.edit(INFERENCE, change)
    assert open_pretrained(made.folder).intensity == Intensity(-57, 164, -57, 221)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"b_min": -1.0, "b_max": 1.0}, Intensity(-57, 164, 53.5, 110.5)),
        ({"b_min": None, "b_max": None}, Intensity(-57, 164, -57, 221)),
        ({"a_min": "@window#0", "a_max": "@window::1"}, Intensity(-200, 200, -200, 400)),
    ],
)
def test_windows(values, expected, bundle):
    made = bundle()
    made.edit(INFERENCE, lambda c: transform(c, "ScaleIntensityRanged").update(values) or c.update(window=[-200, 200]))
    teacher = open_pretrained(made.folder)
    assert teacher.intensity == expected
    ramp = torch.linspace(-500, 500, 101)
    ends = {"b_min": values.get("b_min") or 0.0, "b_max": values.get("b_max") or 1.0}
    theirs = ScaleIntensityRange(expected.low_hu, expected.high_hu, **ends, clip=True)(ramp)
    ours = (ramp.clamp(expected.low_hu, expected.high_hu) - expected.center_hu) / expected.scale_hu
    torch.testing.assert_close(torch.as_tensor(theirs), ours)


def test_window_and_intensity_exclude_each_other_and_are_checked(bundle):
    made = bundle()
    exact = {"low_hu": -200, "high_hu": 300, "center_hu": 10, "scale_hu": 40}
    refused(made.folder, "window_hu and intensity exclude each other", window_hu=(0, 1), intensity=exact)
    refused(made.folder, "expected low_hu below high_hu", intensity={**exact, "high_hu": -300})
    refused(made.folder, "intensity.scale_hu", intensity={**exact, "scale_hu": 0})
    refused(made.folder, "intensity.center_hu' is missing", intensity={"low_hu": 0, "high_hu": 1, "scale_hu": 1})
    refused(made.folder, "intensity.centre_hu", intensity={**exact, "centre_hu": 1})
    refused(made.folder, "expected a lower and a higher end", window_hu=(3, 1))
    made.edit(METADATA, lambda m: m["network_data_format"]["inputs"]["image"].update(value_range=[]))
    refused(made.folder, r"value_range: window_hu needs two numbers there, got \[\]: use intensity", window_hu=(0, 1))
    made.edit(INFERENCE, lambda c: transform(c, "ScaleIntensityRanged").update(b_min=0))
    assert open_pretrained(made.folder).intensity.scale_hu == 221  # the range isn't needed where the window is known


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: transform(c, "Spacingd").update(pixdim="$[1.5] * 3"), r"pixdim: '\$\[1.5\] \* 3' is an expression"),
        (
            lambda c: transform(c, "Spacingd").update(pixdim=[1.5, 2.0, 1.5]),
            "square pixels in the axial plane, got 2 x 1.5",
        ),
        (lambda c: transform(c, "Spacingd").update(pixdim=[1.5, 2.0]), "expected one for each of 3 axes"),
        (
            lambda c: c["preprocessing"]["transforms"].append({"_target_": "Resized", "keys": "image"}),
            "Resized changes the grid: give spacing_mm or size",
        ),
        (
            lambda c: c["preprocessing"]["transforms"].append({**transform(c, "Spacingd"), "pixdim": [1, 1, 1]}),
            r"transforms.6.pixdim is \[1, 1, 1\], and preprocessing.transforms.3.pixdim is \[1.5, 1.5, 2.0\]",
        ),
    ],
)
def test_pixel_sizes_that_must_be_given(change, message, bundle):
    made = bundle()
    made.edit(INFERENCE, change)
    refused(made.folder, message)
    assert open_pretrained(made.folder, spacing_mm=0.7).spacing_mm == 0.7
    assert open_pretrained(made.folder, size=(96, 96)).size == (96, 96)
    refused(made.folder, "spacing_mm and size exclude each other", spacing_mm=0.7, size=(96, 96))


@pytest.mark.parametrize(
    ("axcodes", "pixdim", "expected"),
    [
        ("RAS", [0.7, 0.7, 5], 0.7),
        ("SPL", [5, 0.7, 0.7], 0.7),
        ("LAS", "@pixdim", 1.5),
        ("RAS", 2, 2.0),
        ("RAS", [-1, -1, 5], None),
        ("RAS", [1.0, 1.02, 5], 1.02**0.5),
    ],
)
def test_pixel_sizes(axcodes, pixdim, expected, bundle):
    made = bundle()
    made.edit(INFERENCE, lambda c: transform(c, "Spacingd").update(pixdim=pixdim) or c.update(pixdim=[1.5, 1.5, 1.5]))
    made.edit(INFERENCE, lambda c: transform(c, "Orientationd").update(axcodes=axcodes))
    assert open_pretrained(made.folder).spacing_mm == pytest.approx(expected)


def test_without_spacing_the_grid_is_free_and_without_orientation_it_must_be_said(bundle):
    made = bundle()
    made.edit(INFERENCE, lambda c: drop(c, "Spacingd"))
    assert open_pretrained(made.folder).spacing_mm is None
    made.edit(INFERENCE, lambda c: transform(c, "Orientationd").update(axcodes="RRS"))
    refused(made.folder, "preprocessing.transforms.2.axcodes: axcodes: expected a letter for each axis .*got 'RRS'")
    made.edit(INFERENCE, lambda c: drop(c, "Orientationd"))
    refused(
        made.folder, "no Orientationd: say where the axes of the network's images point, axcodes: SPL for slices to"
    )
    teacher = open_pretrained(made.folder, axcodes="SPL")
    assert torch.equal(teacher.tapped(IMAGE)["logits"], made.network(IMAGE))


def test_classes_that_overlap_are_refused(bundle):
    made = bundle()
    made.edit(INFERENCE, lambda c: c["postprocessing"]["transforms"][0].update(softmax=False, sigmoid=True))
    refused(made.folder, "postprocessing.transforms.0.sigmoid: classes that overlap aren't supported")


def test_the_files_of_the_tests_are_what_monai_reads(bundle):
    """MONAI's own reader builds the same network from the fixture."""
    made = bundle(suffix="yaml")
    values = yaml.safe_load((made.folder / "configs" / "inference.yaml").read_text())
    parser = ConfigParser({"network_def": values["network_def"], "channels": values["channels"]})
    theirs = parser.get_parsed_content("network_def")
    assert theirs.state_dict().keys() == made.network.state_dict().keys()
    assert json.loads((made.folder / METADATA).read_text())["network_data_format"]

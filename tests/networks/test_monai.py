"""MONAI's networks as plug-ins: sensible taps for each, its own options checked, nothing fetched."""

import pytest
import torch

from hlfd import plugins
from hlfd.data.preprocess import Preprocess
from hlfd.distill.features import DECODER, ENCODER
from hlfd.errors import InputError
from hlfd.labels import organ_and_tumor
from hlfd.networks import monai
from hlfd.segmenter import Segmenter, build_network

# name -> small options, strides of e1..e5, strides of d5..d2; 0: there is none.
NETWORKS = {
    "AttentionUnet": ({"channels": [4, 4, 8, 8, 8]}, (1, 2, 4, 8, 16), (8, 4, 2, 1)),
    "BasicUNet": ({"features": [4, 4, 8, 8, 8, 4]}, (1, 2, 4, 8, 16), (8, 4, 2, 1)),
    "BasicUNetPlusPlus": ({"features": [4, 4, 8, 8, 8, 4]}, (1, 2, 4, 8, 16), (8, 4, 2, 1)),
    "DynUNet": ({"filters": [4, 4, 8, 8, 8]}, (1, 2, 4, 8, 16), (8, 4, 2, 1)),
    "FlexibleUNet": ({"decoder_channels": [8, 8, 8, 8, 8]}, (2, 4, 8, 16, 32), (16, 8, 2, 1)),
    "HighResNet": ({}, (1, 1, 1, 1, 1), (0, 0, 0, 0)),
    "MedNeXt": ({"init_filters": 4}, (1, 2, 4, 8, 16), (8, 4, 2, 1)),
    "SegResNet": ({}, (1, 2, 4, 8, 8), (4, 4, 2, 1)),
    "SegResNetDS": ({"init_filters": 8}, (1, 2, 4, 8, 8), (4, 4, 2, 1)),
    "SwinUNETR": ({"feature_size": 12}, (1, 2, 4, 8, 32), (16, 8, 2, 1)),
    "UNETR": ({"img_size": 32, "hidden_size": 24, "mlp_dim": 24, "num_heads": 2}, (1, 2, 4, 0, 8), (8, 4, 2, 1)),
    "UNet": ({"channels": [4, 4, 8, 8, 8]}, (2, 4, 8, 16, 16), (8, 8, 4, 2)),
    "VNet": ({}, (1, 2, 4, 8, 16), (8, 4, 2, 1)),
}
MODULES = {
    "SegResNet": ["down_layers.0", "down_layers.1", "down_layers.2", "down_layers.3.2", "down_layers.3"],
    "SwinUNETR": ["encoder1", "encoder2", "encoder3", "encoder4", "encoder10"],
    "DynUNet": ["input_block", "downsamples.0", "downsamples.1", "downsamples.2", "bottleneck"],
    "VNet": ["in_tr", "down_tr32", "down_tr64", "down_tr128", "down_tr256"],
}
SMALL_IN_3D = ("DynUNet", "SegResNet", "SegResNetDS", "UNet")

networks = pytest.mark.parametrize("name", NETWORKS)


def make(name, dims=2, **options):
    torch.manual_seed(0)
    return build_network(f"monai:{name}", NETWORKS[name][0] | options, 3, dims=dims)


def test_all_that_are_promised_are_tested():
    assert set(NETWORKS) == set(monai.NETWORKS)


@pytest.mark.parametrize(("name", "dims"), [*((name, 2) for name in NETWORKS), *((name, 3) for name in SMALL_IN_3D)])
def test_taps(name, dims):
    tapped = make(name, dims)
    info = tapped.info()
    for roles, strides in zip((ENCODER, DECODER), NETWORKS[name][1:], strict=True):
        assert tuple(info[role].stride if role in info else 0 for role in roles) == strides
    assert tapped.proposed == set(tapped.taps)
    if name in MODULES:
        assert [tapped.taps[role] for role in ENCODER] == MODULES[name]


@networks
def test_it_trains(name):
    tapped = make(name).train()
    size = tapped.size or (64, 64)
    features = tapped(torch.randn(2, 1, *size))
    assert features["logits"].shape == (2, 3, *size)
    torch.stack([feature.square().mean() for feature in features.values()]).sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in tapped.parameters())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DynUNet", {"deep_supervision": True, "deep_supr_num": 2}),
        ("SegResNetDS", {"dsdepth": 3}),
        ("MedNeXt", {"deep_supervision": True}),
    ],
)
def test_deep_supervision_leaves_the_finest_output(name, options):
    tapped = make(name, **options)
    image = torch.randn(1, 1, 64, 64)
    for training in (True, False):
        features = tapped.train(training)(image)
        assert features["logits"].shape == (1, 3, 64, 64)
        assert features.keys() == make(name).info().keys()


def test_a_model_is_saved_and_loaded_with_its_taps(tmp_path):
    options = {
        "blocks_down": [1, 1],
        "blocks_up": [1],
        "taps": {"d4": "up_layers.0", "d5": "down_layers.1", "d2": None},
    }
    network = build_network("monai:SegResNet", options, 3)
    assert network.taps["d5"] == "down_layers.1" and "d2" not in network.taps
    preprocess = Preprocess(window_hu=(-100, 300))
    model = Segmenter(network, "monai:SegResNet", options, preprocess, organ_and_tumor("both", "liver"))
    loaded = Segmenter.load(model.save(tmp_path))
    assert loaded.network.taps == network.taps
    assert loaded.network_options == options
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.network(image)["logits"], network(image)["logits"])


def test_strides_by_axis():
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    info = build_network("monai:DynUNet", {"strides": strides, "filters": [4, 4, 4]}, 3, dims=3).info()
    assert info["e2"].strides == (1, 2, 2) and info["e5"].strides == (2, 4, 4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SegResnt", {}, r"monai.networks.nets.SegResnt doesn't exist \(did you mean 'SegResNet'"),
        ("ResBlock", {}, r"monai.networks.nets.ResBlock doesn't exist \(known: AttentionUnet"),
        ("Discriminator", {}, "Discriminator is no network with input channels and classes"),
        ("SegResNet", {"init_filter": 8}, r"there is no option 'init_filter' \(did you mean 'init_filters'"),
        ("SegResNet", {"out_channels": 8}, "'out_channels' is no option: it is filled in with the recipe's classes"),
        ("UNet", {"channels": 5}, "'channels': expected a list, one for each level, got 5"),
        ("AttentionUnet", {"channels": "wide"}, "'channels': expected a list, one for each level, got 'wide'"),
        ("DynUNet", {"strides": 2}, "'strides': expected a list, one for each level, got 2"),
        ("UNETR", {}, "'img_size' is missing: UNETR has no default"),
        ("FlexibleUNet", {"pretrained": True}, "pretrained: weights are not fetched"),
        ("BasicUNetPlusPlus", {"deep_supervision": True}, "deep_supervision: .* expected false"),
        ("SegResNet", {"taps": ["e1"]}, "'taps': input should be a valid dictionary"),
    ],
)
def test_mistakes_are_told_before_anything_is_built(name, options, message):
    with pytest.raises(InputError, match=f"network 'monai:{name}': .*{message}"):
        plugins.options("networks", f"monai:{name}", options, given=("in_channels", "classes", "dims"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "SegResNet",
            {"init_filters": 9},
            "SegResNet can't be built with these options: ValueError: num_channels",
        ),
        (
            "DenseNet121",
            {},
            r"expected class scores \(N x classes and 2 spatial axes\) from the network, got a tensor of",
        ),
        ("VNet", {"taps": {"d2": "up_tr33"}}, r"tap d2: the network has no module 'up_tr33' \(did you mean 'up_tr32'"),
    ],
)
def test_mistakes_that_the_class_finds_are_one_line(name, options, message):
    with pytest.raises(InputError, match=f"network 'monai:{name}': {message}") as raised:
        build_network(f"monai:{name}", options, 3)
    assert "\n" not in str(raised.value)


def test_a_missing_package_is_named(monkeypatch):
    from monai.networks.nets import swin_unetr
    from monai.utils.module import OptionalImportError

    def missing(*_args, **_kwargs):
        raise OptionalImportError("import einops (No module named 'einops').")

    monkeypatch.setattr(swin_unetr, "rearrange", missing)
    with pytest.raises(
        InputError, match="'monai:SwinUNETR': the network needs the package 'einops', which is not inst"
    ):
        make("SwinUNETR")


def test_options_are_listed_with_the_defaults_they_have_here():
    defaults = plugins.defaults("networks", "monai:UNet", given=("in_channels", "classes", "dims"))
    assert defaults["channels"] == (16, 32, 64, 128, 256) and defaults["num_res_units"] == 2
    assert defaults["taps"] == {} and defaults["act"] == "PRELU"
    assert not {"in_channels", "out_channels", "spatial_dims"} & defaults.keys()
    assert plugins.defaults("networks", "monai:UNETR")["img_size"] is ...

"""Taps found by a dry run: those declared for our networks, sensible ones for any shape of network, and no others."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import hlfd
from hlfd.distill.discovery import discover, tapped
from hlfd.distill.features import DECODER, ENCODER, TapInfo, Tapped
from hlfd.errors import InputError
from hlfd.segmenter import build_network

DECLARED = {
    "unet": {"width": 4},
    "unetpp": {"width": 2},
    "unet_resnet18": {"width": 4},
    "unet_mobilenetv2": {"width_multiplier": 0.25},
    "enet": {"width": 8},
    "resnet18": {"width": 4},
}


@pytest.mark.parametrize("name", DECLARED)
@pytest.mark.parametrize("dims", [2, 3])
def test_for_our_networks_the_declared_taps_are_found(name, dims):
    declared = build_network(name, DECLARED[name], 3, dims=dims)
    assert discover(declared.network, in_channels=1, dims=dims).taps == declared.taps


# Networks of other people's habits.


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Flat(nn.Module):
    """Bare layers side by side, one ReLU for all; functional resampling; class scores at half the size, enlarged."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.u2, self.u1 = nn.Conv2d(8 + 6, 6, 3, padding=1), nn.Conv2d(6 + 4, 5, 3, padding=1)
        self.scores, self.relu = nn.Conv2d(5, classes, 1), nn.ReLU()

    def forward(self, x):
        up = nn.functional.interpolate
        x1 = self.relu(self.c1(x))
        x2 = self.relu(self.c2(x1))
        x3 = self.relu(self.c3(x2))
        y2 = self.relu(self.u2(torch.cat((up(x3, scale_factor=2), x2), 1)))
        y1 = self.relu(self.u1(torch.cat((up(y2, scale_factor=2), x1), 1)))
        return up(self.scores(y1), scale_factor=2)


class Encoder(nn.Module):
    """Gives all its levels at once, with a squeeze-and-excitation that pools the whole image."""

    def __init__(self):
        super().__init__()
        self.levels = nn.ModuleList([block(1, 4), block(4, 6, 2), block(6, 8, 2)])
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())

    def forward(self, x):
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        features[-1] = features[-1] * self.squeeze(features[-1])
        return features


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.ups = nn.ModuleList([nn.ConvTranspose2d(8, 6, 2, 2), nn.ConvTranspose2d(6, 4, 2, 2)])
        self.merges = nn.ModuleList([block(12, 6), block(8, 4)])

    def forward(self, features):
        *skips, x = features
        for up, merge, skip in zip(self.ups, self.merges, reversed(skips), strict=True):
            x = merge(torch.cat((up(x), skip), 1))
        return x


class Parts(nn.Module):
    """An encoder, a decoder, a head; and a head at the encoder's end whose scores lead nowhere."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()
        self.extra, self.head = nn.Conv2d(8, classes, 1), nn.Conv2d(4, classes, 1)

    def forward(self, x):
        features = self.encoder(x)
        self.extra(features[-1])
        return {"out": self.head(self.decoder(features)), "aux": features[0]}


def deep(levels: int) -> nn.Sequential:
    """A way down by ``levels``, in blocks, and up again at once."""
    widths = [1, *(2 + i for i in range(levels))]
    down = nn.Sequential(*(block(a, b, 2 if i else 1) for i, (a, b) in enumerate(pairwise(widths))))
    up = nn.Upsample(scale_factor=2 ** (levels - 1))
    return nn.Sequential(down, nn.Conv2d(widths[-1], 3, 1), up)


@pytest.mark.parametrize(
    ("network", "taps"),
    [
        (Flat(), {"e1": "c1", "e2": "c2", "e5": "c3", "d3": "u2", "d2": "u1"}),
        (
            Parts(),
            {
                "e1": "encoder.levels.0",
                "e2": "encoder.levels.1",
                "e5": "encoder.levels.2",
                "d5": "decoder.ups.0",
                "d4": "decoder.merges.0",
                "d3": "decoder.ups.1",
                "d2": "decoder.merges.1",
            },
        ),
        (deep(5), {role: f"0.{i}" for i, role in enumerate(ENCODER)}),
        (deep(7), {role: f"0.{i}" for role, i in zip(ENCODER, (0, 2, 3, 4, 6), strict=True)}),
        (
            nn.Sequential(
                block(1, 4),
                nn.Sequential(*(block(4, 4, 2 - bool(i)) for i in range(5))),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(4, 3, 1),
            ),
            {"e1": "0", "e2": "1.0", "e3": "1.2", "e4": "1.3", "e5": "1"},
        ),
        (nn.Conv2d(1, 3, 1), {}),
    ],
    ids=["flat", "parts", "five levels", "seven levels", "one deep stage", "one layer"],
)
def test_taps_of_other_habits(network, taps):
    assert discover(network, in_channels=1, dims=2).taps == taps


def test_what_is_found_is_told_of_every_module():
    found = discover(Flat(), in_channels=1, dims=2, sizes=(64,))
    told = {run.name: run for run in found.modules}
    assert list(told) == ["c1", "relu", "c2", "c3", "u2", "u1", "scores"]  # as they run first
    assert told["relu"].calls == 5 and told["c1"].calls == 1
    assert told["c3"].tap == TapInfo(8, 8) and told["c3"].size == (8, 8) and told["c3"].kind == "Conv2d"
    assert found.size == (64, 64)
    assert found.logits.shape == (1, 3, 64, 64)


def test_tokens_and_channels_last_are_no_taps():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.mix, self.last = nn.Conv2d(1, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 8)
            self.back = nn.ConvTranspose2d(8, 3, 4, 4)

        def forward(self, x):
            x = self.patches(x)
            x = self.last(x.movedim(1, -1)).movedim(-1, 1)
            x = self.mix(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
            return self.back(x)

    found = discover(Tokens(), in_channels=1, dims=2, sizes=(64,))
    assert found.taps == {"e5": "patches"}
    assert {run.name: run.tap for run in found.modules}["mix"] is None


def test_a_network_that_needs_values_is_run_on_the_cpu_and_stays_as_it_is():
    class Values(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm, self.head = nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)

        def forward(self, x):
            x = self.norm(self.stem(x))
            return self.head(x / max(1.0, x.std().item()))

    network = Values().train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert [run.name for run in discover(network, in_channels=1, dims=2).modules] == ["stem", "norm", "head"]
    assert network.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_any_network_is_tapped_and_can_be_corrected():
    network = Flat()
    found = hlfd.tapped(network, in_channels=1, classes=3)
    assert isinstance(found, Tapped) and found.network is network
    assert found.proposed == set(found.taps) == {"e1", "e2", "e5", "d3", "d2"}
    changed = hlfd.tapped(network, in_channels=1, classes=3, taps={"e3": "c3", "d2": None})
    assert changed.proposed == {"e1", "e2", "e5", "d3"}
    assert changed.info()["e3"] == TapInfo(8, 8)
    assert "d2" not in changed.taps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 4}, "expected logits of 4 channels at stride 1, got 3 channels at stride 1"),
        (
            {"in_channels": 2},
            r"can't be run on images of 128 x 128 \(or of 64 x 64, .*\) pixels and 2 channel\(s\): Runt",
        ),
        ({"dims": 3}, "can't be run on images of 128 x 128 x 128 "),
        ({"taps": {"e3": "c9"}}, r"tap e3: the network has no module 'c9' \(known: c1, c2"),
        ({"taps": {"e9": "c1"}}, r"'e9' is not a tap's role \(known: d2, "),
        ({"taps": {"e1": "c3"}}, "tap e2 has stride 4 after e1 with stride 8"),
        ({"taps": {"e1": "relu"}}, "tap e1: module 'relu' is run 5 times; expected one that is run once"),
        ({"size": 37}, r"can't be run on images of 37 x 37 pixels and 1 channel\(s\): RuntimeError: Sizes of tensors"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as raised:
        tapped(Flat(), **{"in_channels": 1, "classes": 3} | options)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


def test_a_size_that_every_network_accepts_is_looked_for():
    class Fixed(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.size, self.conv = size, nn.Conv2d(1, 3, 1)

        def forward(self, x):
            assert x.shape[2:] == (self.size, self.size), f"only {self.size}"
            return self.conv(x)

    for size in (32, 64, 96, 128):
        assert discover(Fixed(size), in_channels=1, dims=2).size == (size, size)
    with pytest.raises(InputError, match=r"images of 128 x 128 .* AssertionError: only 48"):
        discover(Fixed(48), in_channels=1, dims=2)
    only = tapped(Fixed(48), in_channels=1, classes=3, size=48)
    assert only.info()["logits"] == TapInfo(3, 1)
    assert only.info(size=64)["logits"] == TapInfo(3, 1)  # there is but one size


def test_a_package_that_is_missing_is_named():
    class Needs(nn.Module):
        def forward(self, x):
            import package_that_is_not_installed  # noqa: F401

    with pytest.raises(InputError, match="needs the package 'package_that_is_not_installed', which is not installed"):
        discover(Needs(), in_channels=1, dims=2)


@pytest.mark.parametrize("output", [None, [], {"out": 3}, torch.zeros(1, 3)], ids=str)
def test_a_network_without_logits(output):
    class Odd(nn.Module):
        def forward(self, x):
            return output

    with pytest.raises(InputError, match="expected class scores"):
        discover(Odd(), in_channels=1, dims=2)


def test_strides_that_differ_by_axis():
    class Anisotropic(nn.Module):
        def __init__(self):
            super().__init__()
            self.e1, self.e2, self.e3 = nn.Conv3d(1, 4, 1), nn.Conv3d(4, 6, (1, 2, 2), (1, 2, 2)), nn.Conv3d(6, 8, 2, 2)
            self.d3, self.d2 = nn.ConvTranspose3d(8, 6, 2, 2), nn.ConvTranspose3d(6, 4, (1, 2, 2), (1, 2, 2))
            self.head = nn.Conv3d(4, 3, 1)

        def forward(self, x):
            return self.head(self.d2(self.d3(self.e3(self.e2(self.e1(x))))))

    found = tapped(Anisotropic(), in_channels=1, classes=3, dims=3)
    assert found.taps == {"e1": "e1", "e2": "e2", "e5": "e3", "d3": "d3", "d2": "d2"}
    info = found.info()
    assert info["e2"] == TapInfo(6, 2, (1, 2, 2)) and info["e5"] == TapInfo(8, 4, (2, 4, 4))
    assert str(info["e2"]) == "1 x 2 x 2" and str(info["e1"]) == "1"
    assert math.prod(info["e5"].along(3)) == 32
    with pytest.raises(
        InputError, match=r"tap e2 has stride 1 x 2 x 2 after e1 with stride 2 x 4 x 4: .* must not decr"
    ):
        tapped(Anisotropic(), in_channels=1, classes=3, dims=3, taps={"e1": "e3"})


def test_proposed_roles_are_roles():
    assert set(discover(Parts(), in_channels=1, dims=2).taps) <= {*ENCODER, *DECODER}

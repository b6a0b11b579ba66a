"""Batch norms folded into convolutions: the same features to rounding, and nothing folded that must not be."""

import copy

import pytest
import torch
from torch import nn

from hlfd import Tapped, plugins
from hlfd.distill.folding import fold_batch_norms

FOLDED = {  # network -> whether each of its batch norms reads nothing but a convolution
    "unet": True,
    "unetpp": True,
    "raunet": False,
    "unet_resnet18": True,
    "unet_mobilenetv2": True,
    "enet": False,
    "erfnet": False,
    "espnet": False,
    "deeplabv3plus": True,
    "pspnet": True,
}


def norms(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)]


def as_if_trained(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for norm in norms(network):
        for value, low in ((norm.weight, 0.5), (norm.running_var, 0.5), (norm.bias, -0.5), (norm.running_mean, -0.5)):
            value.data.uniform_(low, low + 1, generator=generator)


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("dims", [2, 3])
def test_the_features_stay_to_rounding(name, dims):
    if dims == 3 and name in ("deeplabv3plus", "pspnet"):
        pytest.skip("2D only")
    network = plugins.load("networks", name, in_channels=1, classes=3, dims=dims).eval()
    as_if_trained(network)
    image = torch.randn(1, 1, *[32 if dims == 3 else 64] * dims)
    with torch.no_grad():
        before = {role: f.clone() for role, f in network(image).items()}
        count = len(norms(network))
        folded = fold_batch_norms(network)
        after = network(image)
    left = len(norms(network))
    assert folded == count - left > 0
    assert (left == 0) == FOLDED[name]
    for role, feature in before.items():
        assert float((after[role] - feature).abs().amax()) < 1e-4 * float(feature.abs().amax()), role


class Little(nn.Module):
    """A convolution and its norm, and somebody else who may read the convolution."""

    def __init__(self, twice: bool = False, beside: bool = False, transposed: bool = False):
        super().__init__()
        self.conv = nn.ConvTranspose2d(1, 4, 3, padding=1) if transposed else nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.twice, self.beside = twice, beside

    def forward(self, x):
        y = self.conv(x)
        z = self.norm(y)
        if self.twice:
            z = z + self.norm(self.conv(-x))
        return self.head(z + y if self.beside else z)


def tapped(network: nn.Module, **taps: str) -> Tapped:
    as_if_trained(network)
    return Tapped(network.eval(), taps, classes=2, in_channels=1, dims=2)


@pytest.mark.parametrize(
    ("network", "taps", "folded"),
    [
        (Little(), {}, 1),
        (Little(transposed=True), {}, 1),
        (Little(), {"e1": "norm"}, 1),
        (Little(), {"e1": "conv"}, 0),  # the tap would see the norm's output
        (Little(twice=True), {}, 0),
        (Little(beside=True), {}, 0),  # found by the comparison alone
    ],
    ids=["plain", "transposed", "tapped norm", "tapped convolution", "run twice", "read by another"],
)
def test_what_is_folded(network, taps, folded):
    network = tapped(network, **taps)
    original, image = copy.deepcopy(network), torch.randn(2, 1, 8, 8)
    assert fold_batch_norms(network) == folded
    with torch.no_grad():
        before, after = original(image), network(image)
    assert before.keys() == after.keys()
    for role, feature in before.items():
        torch.testing.assert_close(after[role], feature, rtol=1e-4, atol=1e-5)
    assert len(norms(network)) == 1 - folded


def test_shared_weights_stay():
    network = Little()
    network.other = nn.Conv2d(1, 4, 3, padding=1, bias=False)
    network.other.weight = network.conv.weight
    assert fold_batch_norms(tapped(network)) == 0

"""Every network as a plug-in: roles, sizes, gradients, and taps that nothing changes after they are read."""

import copy
import importlib
import re

import pydantic
import pytest
import torch

from hlfd.distill.features import ROLES, Tapped
from hlfd.errors import InputError

# name -> tiny options, strides of e1..e5, d5..d2 and logits.
NETWORKS = {
    "unet": ({"width": 4}, (1, 2, 4, 8, 16, 8, 4, 2, 1, 1)),
    "unetpp": ({"width": 2}, (1, 2, 4, 8, 16, 8, 4, 2, 1, 1)),
    "unet_resnet18": ({"width": 8}, (2, 4, 8, 16, 32, 16, 8, 4, 2, 1)),
    "unet_mobilenetv2": ({"width_multiplier": 0.25}, (2, 4, 8, 16, 32, 16, 8, 4, 2, 1)),
    "enet": ({"width": 8}, (2, 4, 8, 8, 8, 4, 4, 2, 2, 1)),
}

networks = pytest.mark.parametrize("name", NETWORKS)
both_dims = pytest.mark.parametrize("dims", [2, 3])
both_norms = pytest.mark.parametrize("norm", ["batch", "instance"])


def make(name, dims=2, classes=3, in_channels=2, **options):
    torch.manual_seed(0)
    build = importlib.import_module(f"hlfd.networks.{name}").build
    return build(in_channels=in_channels, classes=classes, dims=dims, **NETWORKS[name][0] | options)


def small(name):
    return 2 * max(NETWORKS[name][1])  # two cells an axis at the deepest stride


def image(name, dims=2, batch=1):
    return torch.randn(batch, 2, *[small(name)] * dims, generator=torch.Generator().manual_seed(1))


@networks
@both_dims
def test_roles_strides_and_shapes(name, dims):
    tapped = make(name, dims)
    size = small(name)
    info = tapped.info(size)
    assert {role: info[role].stride for role in ROLES} == dict(zip(ROLES, NETWORKS[name][1], strict=True))
    axes = (size, size // 2, size * 3 // 2)[:dims]
    features = tapped.eval()(torch.zeros(1, 2, *axes))
    assert features["logits"].shape == (1, 3, *axes)
    for role, tap in info.items():
        assert features[role].shape == (1, tap.channels, *(axis // tap.stride for axis in axes)), role


@networks
@both_dims
@both_norms
def test_gradient_reaches_every_parameter_with_one_small_image(name, dims, norm):
    tapped = make(name, dims, norm=norm).train()
    logits = tapped(image(name, dims))["logits"]
    assert logits.isfinite().all()
    logits.square().mean().backward()
    silent = [key for key, p in tapped.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@networks
@both_dims
def test_eval_is_deterministic_and_independent_of_the_batch(name, dims):
    tapped = make(name, dims)
    tapped.train()(image(name, dims))  # moves the running statistics away from their start
    tapped.eval()
    pair = image(name, dims, batch=2)
    with torch.no_grad():
        first, second, alone = tapped(pair), tapped(pair), tapped(pair[:1])
    for role in ROLES:
        assert torch.equal(first[role], second[role]), role
        error = (first[role][:1] - alone[role]).abs().max()
        assert error < 1e-4 * alone[role].abs().max(), role


@networks
@both_dims
def test_nothing_changes_a_tap_after_it_is_read(name, dims):
    tapped, then = make(name, dims), {}
    for role, module in tapped.taps.items():
        tapped.network.get_submodule(module).register_forward_hook(
            lambda _module, _inputs, output, role=role: then.update({role: output.clone()})
        )
    for training in (True, False):
        features = tapped.train(training)(image(name, dims))
        for role, tap in then.items():
            assert torch.equal(features[role], tap), role
    assert len({tap.data_ptr() for tap in features.values()}) == len(ROLES)  # no two taps are one tensor


@networks
@both_dims
def test_a_size_that_does_not_divide_is_refused_with_the_multiple(name, dims):
    deepest = max(NETWORKS[name][1])
    size = 2 * deepest + deepest // 2
    with pytest.raises(InputError, match=rf"image of .*{size}.* multiple of {deepest}\b"):
        make(name, dims)(torch.zeros(1, 2, *[deepest] * (dims - 1), size))


@networks
def test_docstring_states_the_parameters_at_defaults(name):
    build = importlib.import_module(f"hlfd.networks.{name}").build
    stated = re.search(r"Size: ([\d,]+) parameters in 2D, ([\d,]+) in 3D", build.__doc__)
    with torch.device("meta"):
        built = [build(in_channels=1, classes=2, dims=dims) for dims in (2, 3)]
    assert stated.groups() == tuple(f"{sum(p.numel() for p in tapped.parameters()):,}" for tapped in built)


@networks
def test_options_are_the_signature(name):
    module = importlib.import_module(f"hlfd.networks.{name}")
    build = pydantic.validate_call(module.build)
    assert isinstance(build(in_channels=1, classes=2, **NETWORKS[name][0]), Tapped)
    for wrong in ({"wide": 8}, {"dims": 4}, {"classes": 0}, {"norm": "layer"}):
        with pytest.raises(pydantic.ValidationError):
            build(**{"in_channels": 1, "classes": 2} | wrong)


@networks
def test_copies_are_independent_and_hold_no_hooks(name):
    tapped = make(name).eval()
    before = tapped(image(name))["logits"]
    twin = copy.deepcopy(tapped)
    assert not any(module._forward_hooks for module in (*tapped.modules(), *twin.modules()))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not torch.equal(twin(image(name))["logits"], before)
    assert torch.equal(tapped(image(name))["logits"], before)


@networks
def test_initial_logits_are_of_order_one(name):
    with torch.no_grad():
        logits = make(name).train()(image(name, batch=2))["logits"]
    assert 0.05 < logits.std() < 10


@networks
def test_torch_export_gives_the_same_logits(name):
    network = make(name).network.eval()
    with torch.no_grad():
        exported = torch.export.export(network, (image(name),)).module()
        torch.testing.assert_close(exported(image(name)), network(image(name)))


def test_enet_refuses_as_many_channels_as_its_first_block():
    with pytest.raises(InputError, match="in_channels 8 must be below width 8"):
        make("enet", in_channels=8)

"""Every network as a plug-in: roles, sizes, gradients, and taps that nothing changes after they are read."""

import copy
import importlib
import re
from pathlib import Path

import pydantic
import pytest
import torch

import hlfd.networks
from hlfd import plugins
from hlfd.distill.distiller import Distiller
from hlfd.distill.features import DECODER, ENCODER, Tapped
from hlfd.errors import InputError
from hlfd.networks import _resnet
from hlfd.networks._blocks import Layers
from hlfd.segmenter import build_network

# name -> tiny options, strides of e1..e5, strides of the decoder's taps.
NETWORKS = {
    "unet": ({"width": 4}, (1, 2, 4, 8, 16), (8, 4, 2, 1)),
    "unetpp": ({"width": 2}, (1, 2, 4, 8, 16), (8, 4, 2, 1)),
    "raunet": ({"width": 8}, (2, 4, 8, 16, 32), (16, 8, 4, 2)),
    "unet_resnet18": ({"width": 4}, (2, 4, 8, 16, 32), (16, 8, 4, 2)),
    "unet_resnet50": ({"width": 4}, (2, 4, 8, 16, 32), (16, 8, 4, 2)),
    "unet_mobilenetv2": ({"width_multiplier": 0.25}, (2, 4, 8, 16, 32), (16, 8, 4, 2)),
    "resnet18": ({"width": 4}, (2, 4, 8, 16, 32), ()),
    "mobilenetv2": ({"width_multiplier": 0.25}, (2, 4, 8, 16, 32), ()),
    "deeplabv3plus": ({"width": 4}, (2, 4, 8, 16, 16), (16, 4, 4, 4)),
    "pspnet": ({"width": 2}, (2, 4, 8, 8, 8), (8, 8)),
    "enet": ({"width": 8}, (2, 4, 8, 8, 8), (4, 4, 2, 2)),
    "erfnet": ({"width": 4}, (2, 4, 8, 8, 8), (4, 4, 2, 2)),
    "espnet": ({"width": 4, "decoder_width": 5}, (2, 4, 4, 8, 8), (4, 4, 2, 2)),
}
DECODERS = {"resnet18": (), "mobilenetv2": (), "pspnet": ("d5", "d4")}  # of the others: d5, d4, d3, d2
ONLY_2D = {"deeplabv3plus", "pspnet"}

networks = pytest.mark.parametrize("name", NETWORKS)
both_dims = pytest.mark.parametrize(
    ("name", "dims"), [(name, dims) for name in NETWORKS for dims in (2, 3) if dims == 2 or name not in ONLY_2D]
)
both_norms = pytest.mark.parametrize("norm", ["batch", "instance"])


def make(name, dims=2, classes=3, in_channels=2, **options):
    torch.manual_seed(0)
    build = importlib.import_module(f"hlfd.networks.{name}").build
    return build(in_channels=in_channels, classes=classes, dims=dims, **NETWORKS[name][0] | options)


def roles(name):
    return *ENCODER, *DECODERS.get(name, DECODER), "logits"


def small(name):
    return 2 * max(NETWORKS[name][1])  # two cells an axis at the deepest stride


def image(name, dims=2, batch=1):
    return torch.randn(batch, 2, *[small(name)] * dims, generator=torch.Generator().manual_seed(1))


def test_every_network_of_the_folder_is_tested_here():
    files = {path.stem for path in Path(hlfd.networks.__path__[0]).glob("*.py") if not path.name.startswith("_")}
    general = {name for name in files if plugins.needs_argument("networks", name)}  # tested in files of their own
    assert general == {"monai", "imported"}
    assert files - general == set(NETWORKS)


@both_dims
def test_roles_strides_and_shapes(name, dims):
    tapped = make(name, dims)
    size = small(name)
    info = tapped.info(size)
    _, encoder, decoder = NETWORKS[name]
    assert {role: tap.stride for role, tap in info.items()} == dict(
        zip(roles(name), (*encoder, *decoder, 1), strict=True)
    )
    axes = (size, size // 2, size * 3 // 2)[:dims]
    features = tapped.eval()(torch.zeros(1, 2, *axes))
    assert features["logits"].shape == (1, 3, *axes)
    for role, tap in info.items():
        assert features[role].shape == (1, tap.channels, *(axis // tap.stride for axis in axes)), role


@both_dims
@both_norms
def test_gradient_reaches_every_parameter_with_one_small_image(name, dims, norm):
    tapped = make(name, dims, norm=norm).train()
    logits = tapped(image(name, dims))["logits"]
    assert logits.isfinite().all()
    logits.square().mean().backward()
    silent = [key for key, p in tapped.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@both_dims
def test_eval_is_deterministic_and_independent_of_the_batch(name, dims):
    tapped = make(name, dims)
    tapped.train()(image(name, dims))  # moves the running statistics away from their start
    tapped.eval()
    pair = image(name, dims, batch=2)
    with torch.no_grad():
        first, second, alone = tapped(pair), tapped(pair), tapped(pair[:1])
    for role in roles(name):
        assert torch.equal(first[role], second[role]), role
        error = (first[role][:1] - alone[role]).abs().max()
        assert error < 1e-4 * alone[role].abs().max(), role


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
    assert len({tap.data_ptr() for tap in features.values()}) == len(roles(name))  # no two taps are one tensor


@both_dims
def test_a_size_that_does_not_divide_is_refused_with_the_multiple(name, dims):
    deepest = max(NETWORKS[name][1])
    size = 2 * deepest + deepest // 2
    with pytest.raises(InputError, match=rf"image of .*{size}.* multiple of {deepest}\b"):
        make(name, dims)(torch.zeros(1, 2, *[deepest] * (dims - 1), size))


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@networks
def test_docstring_states_the_parameters_at_defaults(name):
    build = importlib.import_module(f"hlfd.networks.{name}").build
    stated = re.search(r"Size: ([\d,]+) parameters in 2D(?:, ([\d,]+) in 3D)?", build.__doc__).groups()
    with torch.device("meta"):
        built = [build(in_channels=1, classes=2, dims=dims) for dims in ((2,) if name in ONLY_2D else (2, 3))]
    assert [size for size in stated if size] == [f"{parameters(tapped):,}" for tapped in built]


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


@pytest.mark.parametrize("name", sorted(ONLY_2D))
def test_3d_is_refused_where_there_is_none(name):
    with pytest.raises(InputError, match=f"{name}: dims 3: this network is 2D only"):
        make(name, dims=3)


@pytest.mark.parametrize(("name", "width"), [("enet", 8), ("erfnet", 4)])
def test_as_many_channels_as_the_first_block_are_refused(name, width):
    with pytest.raises(InputError, match=f"{name}: in_channels {width} must be below width {width}"):
        make(name, in_channels=width)


@pytest.mark.parametrize(("depth", "published"), [(18, 11_689_512 - 513_000), (50, 25_557_032 - 2_049_000)])
def test_resnet_encoders_have_the_size_of_those_with_a_classifier_less_the_classifier(depth, published):
    with torch.device("meta"):
        stages, _ = _resnet.encoder(Layers(2), 3, 64, depth)
    assert sum(map(parameters, stages)) == published


@pytest.mark.parametrize(
    ("output_stride", "dilations"),
    [(32, [(1,), (1,), (1,), (1,)]), (16, [(1,), (1,), (1,), (1, 2)]), (8, [(1,), (1,), (1, 2), (2, 4)])],
)
def test_a_resnet_stage_that_keeps_its_size_dilates(output_stride, dilations):
    with torch.device("meta"):
        stages, _ = _resnet.encoder(Layers(2), 1, 4, 50, output_stride=output_stride)
    for stage, expected in zip(stages[1:], dilations, strict=True):
        first, *others = [m.dilation[0] for m in stage.modules() if getattr(m, "kernel_size", 0) == (3, 3)]
        assert (first, set(others)) == (expected[0], {expected[-1]})


def test_attention_of_raunet_is_one_plus_the_mask_times_the_trunk():
    attention = make("raunet").network.a3.eval()
    last = attention.mask.finish[-2]
    torch.nn.init.zeros_(last.weight)
    features = torch.randn(1, 32, 16, 16)
    with torch.no_grad():
        trunk = attention.trunk(attention.before(features))
        for bias, factor in ((-200.0, 1), (0.0, 1.5), (200.0, 2)):
            last.bias.fill_(bias)
            torch.testing.assert_close(attention(features), attention.after(factor * trunk))


@pytest.mark.parametrize(("name", "module"), [("deeplabv3plus", "d5.branches.4"), ("pspnet", "d5.branches.0")])
def test_a_pooled_branch_is_the_same_at_every_pixel(name, module):
    tapped, pooled = make(name).eval(), []
    tapped.network.get_submodule(module).register_forward_hook(lambda _module, _inputs, output: pooled.append(output))
    tapped(image(name))
    assert torch.equal(pooled[0], pooled[0][..., :1, :1].expand_as(pooled[0]))


def test_branches_of_espnet_are_sums_of_those_at_smaller_dilations():
    pyramid = make("espnet").network.e5.body[0].eval()
    x = torch.randn(1, 32, 16, 16)
    with torch.no_grad():
        parts = [branch(pyramid.narrow(x)) for branch in pyramid.branches]
        assert [part.shape[1] for part in parts] == [8, 6, 6, 6, 6]
        sums = [parts[0], *(sum(parts[1 : last + 1]) for last in range(1, 5))]
        torch.testing.assert_close(pyramid(x), pyramid.finish(torch.cat(sums, 1) + x))


def test_stand_ins_let_hlfd_teach_with_pspnet_and_teach_it():
    """As docs/networks.md has it."""
    stand_ins = {"d3": "d4", "d2": "d4"}
    pspnet = build_network("pspnet", {"width": 4, "taps": stand_ins}, 3).train()
    unet = build_network("unet", {"width": 4}, 3).train()
    labels = torch.randint(0, 3, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    for student, teacher in ((unet, pspnet), (pspnet, unet)):
        terms = plugins.load("methods", "hlfd", student.info(), teacher.info(), classes=3)
        distiller = Distiller(terms)
        picture = torch.randn(2, 1, 64, 64)
        with torch.no_grad():
            taught = teacher(picture)
        loss = sum(distiller(student(picture), taught, labels).values())
        assert loss.isfinite()
        loss.backward()
    bare = build_network("pspnet", {"width": 4}, 3)
    with pytest.raises(InputError, match=r"the teacher has no tap 'd3'"):
        plugins.load("methods", "hlfd", unet.info(), bare.info(), classes=3)

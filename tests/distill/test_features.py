"""Tapped reads features by role and refuses wrong roles; a teacher stays as it is."""

import copy

import pytest
import torch
from torch import nn

from hlfd import plugins
from hlfd.distill.features import DECODER, ENCODER, TapInfo, Tapped
from hlfd.distill.frozen import FrozenTeacher, View
from hlfd.errors import InputError


class Network(nn.Module):
    """Strides 1, 2, 4 on the way down and 2 on the way up; every stage a module."""

    def __init__(self, dims: int = 2, classes: int = 3):
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.first = nn.Sequential(conv(1, 4, 3, padding=1), {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims](4))
        self.down = conv(4, 6, 2, 2)
        self.deep = conv(6, 8, 2, 2)
        self.up = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims](8, 5, 2, 2)
        self.scores = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims](5, classes, 2, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.scores(self.up(self.deep(self.down(self.first(image)))))


TAPS = {"e1": "first", "e2": "down", "e3": "deep", "d3": "up"}


def tapped(dims: int = 2, taps: dict[str, str] = TAPS, classes: int = 3) -> Tapped:
    torch.manual_seed(0)
    return Tapped(Network(dims), taps, classes=classes, in_channels=1, dims=dims)


def image(dims: int = 2) -> torch.Tensor:
    return torch.randn(2, 1, *[8] * dims, generator=torch.Generator().manual_seed(1))


both_dims = pytest.mark.parametrize("dims", [2, 3])


@both_dims
def test_features_are_the_outputs_of_the_modules(dims):
    model = tapped(dims).eval()
    net = model.network
    features = model(image(dims))
    assert list(features) == [*TAPS, "logits"]
    first = net.first(image(dims))
    deep = net.deep(net.down(first))
    assert torch.equal(features["e1"], first)
    assert torch.equal(features["e3"], deep)
    assert torch.equal(features["d3"], net.up(deep))
    assert torch.equal(features["logits"], net(image(dims)))


@both_dims
def test_info_is_channels_and_stride_and_changes_nothing(dims):
    model = tapped(dims).train()
    before = copy.deepcopy(model.state_dict())
    assert model.info(size=16) == {
        "e1": TapInfo(4, 1),
        "e2": TapInfo(6, 2),
        "e3": TapInfo(8, 4),
        "d3": TapInfo(5, 2),
        "logits": TapInfo(3, 1),
    }
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("role", ["e6", "encoder", "logits", "d1"])
def test_an_unknown_role_lists_the_roles(role):
    with pytest.raises(InputError, match=f"'{role}' is not a tap's role.*known: .*{'.*'.join(sorted(DECODER))}.*e1"):
        tapped(taps={role: "deep"})


def test_a_missing_module_lists_those_there_are():
    with pytest.raises(InputError, match=r"tap e4: the network has no module 'deeper' \(did you mean 'deep'\? known: "):
        tapped(taps={"e4": "deeper"})
    with pytest.raises(InputError, match=r"no module 'encoder\.9' \(known: deep, down, first, .*up\)"):
        tapped(taps={"e4": "encoder.9"})


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        (
            {"e1": "deep", "e2": "first"},
            r"tap e2 has stride 1 after e1 with stride 4: strides of e1\.\.e5 must not dec",
        ),
        ({"e1": "down", "e5": "first"}, r"tap e5 has stride 1 after e1 with stride 2"),
        (
            {"d4": "first", "d2": "deep"},
            r"tap d2 has stride 4 after d4 with stride 1: strides of d5\.\.d2 must not inc",
        ),
    ],
)
def test_strides_that_contradict_the_roles_are_refused(taps, message):
    with pytest.raises(InputError, match=message):
        tapped(taps=taps).info()


def test_equal_strides_are_no_contradiction():
    assert tapped(taps={"e3": "down", "e4": "up"}).info()["e4"].stride == 2


def test_logits_below_full_resolution_are_refused():
    half = Network()
    half.scores = nn.Conv2d(5, 3, 1)
    with pytest.raises(InputError, match="expected logits of 3 channels at stride 1, got 3 channels at stride 2"):
        Tapped(half, TAPS, classes=3, in_channels=1, dims=2).info()


def test_logits_of_other_classes_are_refused():
    with pytest.raises(InputError, match="expected logits of 4 channels at stride 1, got 3 channels"):
        tapped(classes=4).info()


def test_a_tap_that_is_not_run_once_or_gives_no_feature_is_refused():
    class Odd(Network):
        def __init__(self):
            super().__init__()
            self.spare, self.pool, self.pair = nn.Identity(), nn.Flatten(), Pair()

        def forward(self, image):
            deep = self.deep(self.down(self.first(image)))
            self.pool(deep)
            self.pair(deep)
            return self.scores(self.up(deep))

    class Pair(nn.Module):
        def forward(self, x):
            return x.mean().sum, "text"

    for module, message in (
        ("spare", r"tap e4: module 'spare' is never run \(a list of modules\?\)"),
        ("pool", "tap e4: module 'pool' gives a tensor of 1 x 2048; expected N x channels and 2 spatial axes"),
        ("pair", "tap e4: module 'pair' gives no tensor but tuple"),
    ):
        with pytest.raises(InputError, match=message):
            Tapped(Odd(), {"e4": module}, classes=3, in_channels=1, dims=2).info()
    twice = nn.Sequential(nn.Conv2d(1, 3, 1), *[nn.ReLU()] * 2)
    with pytest.raises(InputError, match="tap e1: module '1' is run 2 times; expected one that is run once"):
        Tapped(twice, {"e1": "1"}, classes=3, in_channels=1, dims=2).info()


def test_other_taps_over_its_own():
    model = tapped()
    other = model.with_taps({"e4": "deep", "d3": None})
    assert other.taps == {"e1": "first", "e2": "down", "e3": "deep", "e4": "deep"}
    assert model.taps == TAPS and other.network is model.network
    assert torch.equal(other(image())["e4"], other(image())["e3"])
    with pytest.raises(InputError, match="'e6' is not a tap's role"):
        model.with_taps({"e6": None})


def test_of_several_outputs_the_first_is_the_logits():
    class Heads(nn.Module):
        def __init__(self, give):
            super().__init__()
            self.conv, self.give = nn.Conv2d(1, 3, 1), give

        def forward(self, x):
            return self.give(self.conv(x))

    for give in (
        lambda y: [y, y[..., ::2, ::2]],
        lambda y: {"out": y, "aux": 0},
        lambda y: ((y, None), 3),
        lambda y: torch.stack((y, y + 1), 1),  # heads before the channels
    ):
        model = Tapped(Heads(give), {}, classes=3, in_channels=1, dims=2)
        assert model(image())["logits"].shape == (2, 3, 8, 8)
        assert model.info()["logits"] == TapInfo(3, 1)


def test_a_deep_copy_is_independent():
    model = tapped().eval()
    twin = copy.deepcopy(model)
    before = model(image())
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(1)
    copied, after = twin(image()), model(image())
    for role, feature in before.items():
        assert torch.equal(after[role], feature), role
        assert not torch.equal(copied[role], feature), role


def test_no_hook_outlives_the_call_even_if_it_fails():
    model = tapped()
    with pytest.raises(RuntimeError):
        model(torch.zeros(1, 7, 8, 8))
    model(image())
    assert not any(m._forward_hooks for m in model.modules())


def test_the_state_is_the_network_s_own():
    assert {k.removeprefix("network.") for k in tapped().state_dict()} == set(Network().state_dict())


# The teacher.


def trained_by_mistake(teacher: FrozenTeacher) -> None:
    teacher.train()
    nn.ModuleList([teacher]).train()  # as part of the user's own module
    teacher.train(mode=True)


def test_a_teacher_stays_in_eval_mode_without_gradients():
    teacher = FrozenTeacher(tapped().train())
    statistics = {k: v.clone() for k, v in teacher.state_dict().items()}
    trained_by_mistake(teacher)
    x = image().requires_grad_()
    features = teacher(x)
    assert not any(m.training for m in teacher.tapped.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(f.requires_grad for f in features.values())
    assert any("running_mean" in k for k in statistics)
    assert all(torch.equal(statistics[k], v) for k, v in teacher.state_dict().items())
    assert all(torch.equal(f, g) for f, g in zip(features.values(), tapped().eval()(image()).values(), strict=True))


def test_a_teacher_put_into_train_mode_behind_its_back_is_refused():
    teacher = FrozenTeacher(tapped())
    teacher.tapped.network.first[1].train()  # its batch norm alone
    with pytest.raises(InputError, match=r"the teacher was put into train mode: call tapped\.eval\(\)"):
        teacher(image())
    teacher.tapped.eval()
    assert set(teacher(image())) == {*TAPS, "logits"}


# How a teacher sees the student's images.


def test_a_view_clips_scales_and_resizes_the_image():
    view = View(low=-0.5, high=0.5, scale=2, shift=1, size=(4, 8))
    x = torch.linspace(-1, 1, 8).expand(1, 1, 8, 8)
    seen = view.image(x)
    assert seen.shape == (1, 1, 4, 8)
    torch.testing.assert_close(seen[0, 0, 0], x[0, 0, 0].clamp(-0.5, 0.5) * 2 + 1)
    assert View().image(x) is x


def test_a_view_adds_the_probabilities_of_the_classes_it_merges():
    teacher = FrozenTeacher(tapped(), View(classes=((0,), (1, 2))))
    assert teacher.info()["logits"] == TapInfo(2, 1)
    plain = FrozenTeacher(tapped())(image())["logits"].softmax(1)
    merged = teacher(image())["logits"].softmax(1)
    torch.testing.assert_close(merged, torch.stack([plain[:, 0], plain[:, 1] + plain[:, 2]], 1))


def test_a_2d_teacher_sees_a_3d_image_slice_by_slice():
    teacher = FrozenTeacher(tapped(), View(slices=True))
    volume = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    features = teacher(volume)
    alone = FrozenTeacher(tapped())
    for k in range(3):
        for role, feature in alone(volume[:, :, k]).items():
            torch.testing.assert_close(features[role][:, :, k], feature)


def test_roles_are_shallow_to_deep_to_shallow():
    assert ENCODER == ("e1", "e2", "e3", "e4", "e5")
    assert DECODER == ("d5", "d4", "d3", "d2")


def test_the_network_runs_as_far_as_the_last_role_that_is_wanted():
    network = plugins.load("networks", "unet", in_channels=1, classes=3, dims=2, width=2).eval()
    run: list[str] = []
    for name in ("e1", "e3", "e4", "d2"):
        network.network.get_submodule(network.taps[name]).register_forward_hook(lambda *_, name=name: run.append(name))
    image = torch.randn(1, 1, 32, 32)
    everything = network(image)
    run.clear()
    some = network(image, frozenset({"e1", "e3"}))
    assert some.keys() == {"e1", "e3"}
    assert run == ["e1", "e3"]
    assert all(torch.equal(some[role], everything[role]) for role in some)
    assert network(image, frozenset({"e1", "logits"})).keys() == {"e1", "logits"}
    assert torch.equal(network(image)["logits"], everything["logits"])  # no hook is left behind

"""What every method promises, whoever wrote it: each in 2D and 3D, with equal and with different networks."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch

from hlfd import plugins
from hlfd.data.preprocess import Preprocess
from hlfd.distill.distiller import Distiller
from hlfd.distill.features import TapInfo, Tapped
from hlfd.distill.frozen import FrozenTeacher, View
from hlfd.distill.losses import SegmentationLoss
from hlfd.distill.teaching import Teaching
from hlfd.labels import organ_and_tumor
from hlfd.sections import TrainingSection
from hlfd.segmenter import Segmenter, build_network
from hlfd.training.module import TrainingModule

CLASSES = 3
NETWORKS = {  # student, teacher, pixels along the longest axis
    "unet-unet": (("unet", {"width": 2}), ("unet", {"width": 3}), 32),
    "unet-resnet18": (("unet", {"width": 2}), ("unet_resnet18", {"width": 4}), 64),
}

every_method = pytest.mark.parametrize("method", plugins.names("methods"))
both_dims = pytest.mark.parametrize("dims", [2, 3])
every_pair = pytest.mark.parametrize("pair", NETWORKS)


@functools.cache
def networks(dims: int, pair: str) -> tuple[Tapped, Tapped, dict[str, TapInfo], dict[str, TapInfo]]:
    """Student, teacher and what they offer; built once."""
    (name, options), (teacher_name, teacher_options), _ = NETWORKS[pair]
    torch.manual_seed(0)
    student = build_network(name, options, CLASSES, dims=dims)
    teacher = build_network(teacher_name, teacher_options, CLASSES, dims=dims)
    return student, teacher, student.info(), teacher.info()


class Setting:
    """A student with its frozen teacher, the method's terms, and one batch."""

    def __init__(self, method: str, dims: int = 2, pair: str = "unet-unet"):
        student, teacher, self.student_taps, self.teacher_taps = networks(dims, pair)
        torch.manual_seed(0)
        self.student, teacher, size = copy.deepcopy(student).train(), copy.deepcopy(teacher), NETWORKS[pair][-1]
        random = torch.Generator().manual_seed(1)
        shape = (size, size) if dims == 2 else (size, size // 2, size // 2)  # cells at the deepest stride: 2 x 2, 2
        self.image = torch.randn(2, 1, *shape, generator=random)
        self.target = torch.randint(CLASSES, (2, *shape), generator=random)
        teacher.train()(self.image)  # running statistics away from their start
        self.teacher = FrozenTeacher(teacher)
        self.distiller = Distiller(
            plugins.load("methods", method, self.student_taps, self.teacher_taps, classes=CLASSES)
        )

    def losses(self) -> dict[str, torch.Tensor]:
        student = self.student(self.image)
        seg = {"seg": SegmentationLoss()(student["logits"], self.target)}
        return seg | self.distiller(student, self.teacher(self.image), self.target)

    def fit_heads(self) -> None:
        self.distiller.fit_heads((self.teacher(self.image), self.target) for _ in range(2))

    def step(self) -> None:
        trainable = [*self.student.parameters(), *self.distiller.parameters()]
        optimizer = torch.optim.Adam([p for p in trainable if p.requires_grad], lr=1e-2)
        torch.stack(list(self.losses().values())).sum().backward()
        optimizer.step()

    def student_heads(self) -> dict[str, torch.Tensor]:
        """All of the distiller's parameters that are not the teacher's heads."""
        return {n: p for n, p in self.distiller.named_parameters() if "teacher_head" not in n}

    def teacher_heads(self) -> dict[str, torch.Tensor]:
        return {n: p for n, p in self.distiller.named_parameters() if "teacher_head" in n}


def touched(parameters: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, p in parameters.items() if p.grad is not None and p.grad.any()}


@every_method
@both_dims
@every_pair
def test_gradient_reaches_student_and_projectors_and_never_the_teacher(method, dims, pair):
    setting = Setting(method, dims, pair)
    teacher_before = copy.deepcopy(setting.teacher.state_dict())
    setting.teacher.train()
    losses = setting.losses()
    assert all(value.shape == () and value.isfinite() for value in losses.values()), losses
    distilling = [v for name, v in losses.items() if name != "seg" and not name.startswith("head.")]
    assert bool(distilling) == bool(setting.distiller.teacher_roles()) == (method != "seg")
    if distilling:  # without the segmentation loss: the student learns from the teacher itself
        torch.stack(distilling).sum().backward(retain_graph=True)
        assert touched(dict(setting.student.named_parameters()))
        assert touched(setting.student_heads()) == set(setting.student_heads())
        assert not touched(setting.teacher_heads())
    torch.stack(list(losses.values())).sum().backward()
    assert touched(setting.teacher_heads()) == set(setting.teacher_heads())
    assert all(p.grad is None and not p.requires_grad for p in setting.teacher.parameters())
    after = setting.teacher.state_dict()
    assert all(torch.equal(after[key], value) for key, value in teacher_before.items())
    assert any("running_mean" in key for key in after)


@every_method
def test_every_distilling_term_reaches_the_student(method):
    setting = Setting(method)
    for name, value in setting.losses().items():
        if name.startswith("head."):
            continue
        setting.student.zero_grad()
        value.backward(retain_graph=True)
        assert touched(dict(setting.student.named_parameters())), name


@every_method
def test_heads_change_when_they_are_fitted_and_projectors_at_a_step(method):
    setting = Setting(method)
    theirs, ours = [{n: p.detach().clone() for n, p in heads.items()} for heads in heads_of(setting)]
    setting.fit_heads()
    assert all(not torch.equal(p, theirs[n]) for n, p in setting.teacher_heads().items())
    assert all(torch.equal(p, ours[n]) for n, p in setting.student_heads().items())
    theirs = {n: p.detach().clone() for n, p in setting.teacher_heads().items()}
    assert not any(name.startswith("head.") for name in setting.losses())
    setting.step()
    assert all(torch.equal(p, theirs[n]) for n, p in setting.teacher_heads().items())
    assert all(not torch.equal(p, ours[n]) for n, p in setting.student_heads().items())


def heads_of(setting: Setting) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return setting.teacher_heads(), setting.student_heads()


@every_method
@pytest.mark.parametrize("fitted", [True, False])
def test_the_optimiser_owns_the_student_and_every_projector_and_no_teacher(method, fitted):
    setting = Setting(method)
    labels = organ_and_tumor("both", "kidney")
    teaching = Teaching([setting.teacher], [setting.distiller], torch.ones(1, 1))
    module = TrainingModule(setting.student, teaching, labels, None, None, TrainingSection(), seed=0)
    if fitted:
        setting.fit_heads()
    module._trainer = SimpleNamespace(estimated_stepping_batches=10)
    owned = {id(p) for group in module.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    wanted = [*setting.student.parameters(), *setting.student_heads().values()]
    wanted += [] if fitted else setting.teacher_heads().values()
    assert owned == {id(p) for p in wanted}
    assert not {id(p) for p in setting.teacher.parameters()} & {id(p) for p in module.parameters()}
    assert not any("teacher." in key for key in module.state_dict())


@every_method
def test_a_batch_twice_is_as_one(method):
    setting = Setting(method)
    setting.student.eval()
    once = setting.losses()
    setting.image, setting.target = torch.cat([setting.image] * 2), torch.cat([setting.target] * 2)
    twice = setting.losses()
    for name, value in once.items():
        if name != "seg" and not name.startswith("head."):  # Dice's smoothing counts once a batch
            torch.testing.assert_close(twice[name], value, rtol=1e-3, atol=1e-6)


def distilling(losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in losses.items() if name != "seg" and not name.startswith("head.")}


@every_method
def test_a_sample_without_labels_counts_in_every_term_that_needs_none(method):
    setting = Setting(method)
    setting.student.eval()
    setting.fit_heads()
    full, target = distilling(setting.losses()), setting.target
    setting.target = torch.stack([target[0], torch.full_like(target[1], -1)])
    half = distilling(setting.losses())
    setting.target = torch.full_like(target, -1)
    none = distilling(setting.losses())
    setting.image, setting.target = setting.image[:1], target[:1]
    first = distilling(setting.losses())
    for term in setting.distiller.each():
        expected = (first, dict.fromkeys(first, torch.tensor(0.0))) if term.loss.needs_labels else (full, full)
        torch.testing.assert_close(half[term.name], expected[0][term.name], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(none[term.name], expected[1][term.name])
        assert none[term.name].requires_grad


@every_method
def test_a_teacher_that_sees_the_image_at_another_size(method):
    setting = Setting(method)
    setting.teacher.view = View(size=(48, 64))
    for name, value in setting.losses().items():
        assert value.isfinite(), name
        if not name.startswith("head."):
            setting.student.zero_grad()
            value.backward(retain_graph=True)
            assert touched(dict(setting.student.named_parameters())), name


@every_method
def test_half_precision_features_give_the_terms_of_their_rounded_values(method):
    setting = Setting(method)
    setting.fit_heads()
    with torch.no_grad():
        sides = [setting.student(setting.image), setting.teacher(setting.image)]
    half = [{role: f.bfloat16() for role, f in side.items()} for side in sides]
    rounded = [{role: f.float() for role, f in side.items()} for side in half]
    expected = setting.distiller(*rounded, setting.target)
    with torch.autocast("cpu", torch.bfloat16):
        result = setting.distiller(*half, setting.target)
    for name, value in expected.items():
        # Resizing and pooling stay in the features' own precision.
        torch.testing.assert_close(result[name], value, rtol=5e-2, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@every_method
def test_a_teacher_that_is_the_student_teaches_finite_terms_of_no_class_but_background(method):
    setting = Setting(method)
    setting.student.eval()
    setting.teacher = FrozenTeacher(copy.deepcopy(setting.student))
    setting.distiller = Distiller(
        plugins.load("methods", method, setting.student_taps, setting.student_taps, classes=CLASSES)
    )
    setting.target = torch.zeros_like(setting.target)
    losses = setting.losses()
    assert all(value.isfinite() for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in setting.student.parameters())


@every_method
@both_dims
def test_the_exported_student_holds_the_student_alone_and_gives_its_output(method, dims, tmp_path):
    setting = Setting(method, dims)
    setting.fit_heads()
    setting.step()
    labels = organ_and_tumor("both", "kidney")
    model = Segmenter(setting.student, "unet", {"width": 2}, Preprocess(window_hu=(-200, 300)), labels)
    loaded = Segmenter.load(model.save(tmp_path))
    assert set(loaded.network.state_dict()) == set(setting.student.state_dict())
    assert sum(v.numel() for v in loaded.network.parameters()) == sum(p.numel() for p in setting.student.parameters())
    with torch.no_grad():
        trained, exported = setting.student.eval()(setting.image), loaded.network(setting.image)
    assert all(torch.equal(trained[role], exported[role]) for role in trained)


@every_method
def test_a_misspelt_option_lists_the_options(method):
    setting = Setting(method)
    with pytest.raises(ValueError, match=f"method '{method}' has no option 'wieght'"):
        plugins.load("methods", method, setting.student_taps, setting.student_taps, classes=3, wieght=1)

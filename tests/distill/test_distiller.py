"""Terms, heads, and HLFD's eight terms by hand."""

import math

import pytest
import torch
from torch import nn

from hlfd import plugins
from hlfd.distill.distiller import Distiller
from hlfd.distill.features import TapInfo
from hlfd.distill.losses import ImportanceMapLoss, PixelLoss, SegmentationLoss
from hlfd.distill.terms import Term
from hlfd.errors import InputError

# HLFD by hand. role -> (channels, pixels an axis)

STUDENT = {
    "e1": (2, 8), "e2": (2, 4), "e3": (3, 4), "e4": (3, 2), "d5": (3, 2), "d4": (2, 4), "d3": (2, 4), "d2": (2, 8),
    "logits": (3, 16),
}  # fmt: skip
TEACHER = {
    "e2": (3, 8), "e3": (3, 4), "e4": (4, 2), "e5": (4, 2), "d5": (4, 2), "d4": (3, 4), "d3": (2, 8),
    "logits": (3, 16),
}  # fmt: skip

# Computed with numpy from the formulas alone, in float64, on `wave` features and heads.
WEIGHTED = {
    "flfd.e1": 0.21109471,  # 0.9 / 2 I(s.e1, cat(t.e2, t.e3, t.e4))
    "flfd.e2": 0.35182805,  # 0.9 / 2 I(s.e2, t.e5)
    "flfd.e3": 0.22982730,
    "flfd.e4": 0.26017529,
    "plfd.d5": 0.03040275,  # 0.1 / 2 P(g(s.d5), g(cat(t.d5, t.d4, t.d3)))
    "plfd.d4": 0.10904514,  # 0.1 / 2 P(g(s.d4), t.logits)
    "plfd.d3": 0.11723647,
    "plfd.d2": 0.10736426,
}
HEADS = {"plfd.d5": 31, "plfd.d4": 33, "plfd.d3": 35, "plfd.d2": 37}

WHO_TEACHES_WHOM = {
    "flfd.e1": (("e1",), ("e2", "e3", "e4")),
    "flfd.e2": (("e2",), ("e5",)),
    "flfd.e3": (("e3",), ("e5",)),
    "flfd.e4": (("e4",), ("e5",)),
    "plfd.d5": (("d5",), ("d5", "d4", "d3")),
    "plfd.d4": (("d4",), ("logits",)),
    "plfd.d3": (("d3",), ("logits",)),
    "plfd.d2": (("d2",), ("logits",)),
}


def wave(seed: int, *shape: int) -> torch.Tensor:
    """sin(0.7 (1 + seed / 10) i + seed) for i = 0, 1, ..."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.7 * i * (1 + seed / 10) + seed).float().reshape(shape)


def taps(sizes: dict[str, tuple[int, int]]) -> dict[str, TapInfo]:
    return {role: TapInfo(channels, 16 // size) for role, (channels, size) in sizes.items()}


def student_features() -> dict[str, torch.Tensor]:
    return {role: wave(i, 2, c, n, n) for i, (role, (c, n)) in enumerate(STUDENT.items(), 1)}


def teacher_features() -> dict[str, torch.Tensor]:
    return {role: 3 * wave(i, 2, c, n, n) for i, (role, (c, n)) in enumerate(TEACHER.items(), 21)}


def target() -> torch.Tensor:
    return torch.arange(2 * 16 * 16).reshape(2, 16, 16) % 3


def hlfd(**options: float) -> Distiller:
    table = plugins.load("methods", "hlfd", taps(STUDENT), taps(TEACHER), classes=3, **options)
    return Distiller(table)


def with_wave_heads(distiller: Distiller) -> Distiller:
    def set_head(head: nn.Module, seed: int) -> None:
        with torch.no_grad():
            head.weight.copy_(wave(seed, *head.weight.shape))
            head.bias.copy_(wave(seed + 1, 3))

    for term in distiller.terms:
        if term.student_head is not None:
            set_head(term.student_head, HEADS[term.name])
        if term.teacher_head is not None:
            set_head(term.teacher_head, 41)
    distiller.freeze_heads()
    return distiller


def test_hlfd_by_hand():
    losses = with_wave_heads(hlfd())(student_features(), teacher_features(), target())
    assert list(losses) == list(WEIGHTED)
    for name, expected in WEIGHTED.items():
        assert float(losses[name].detach()) == pytest.approx(expected, rel=1e-4), name


@pytest.mark.parametrize(
    ("options", "factors"),
    [
        ({"alpha": 0.3}, (1, 3)),
        ({"beta": 0.45}, (0.5, 1)),
        ({"alpha": 0, "beta": 1.8}, (2, 0)),
    ],
)
def test_hlfd_s_weights(options, factors):
    losses = with_wave_heads(hlfd(**options))(student_features(), teacher_features(), target())
    for name, expected in WEIGHTED.items():
        factor = factors[0] if name.startswith("flfd") else factors[1]
        assert float(losses[name].detach()) == pytest.approx(factor * expected, rel=1e-4), name


def test_hlfd_s_temperature_and_power_are_options():
    losses = with_wave_heads(hlfd(temperature=1, power=2))(student_features(), teacher_features(), target())
    for name, expected in WEIGHTED.items():
        assert float(losses[name].detach()) != pytest.approx(expected, rel=1e-3), name


def test_hlfd_s_table():
    terms = {term.name: term for term in hlfd().terms}
    assert {name: (term.student, term.teacher) for name, term in terms.items()} == WHO_TEACHES_WHOM
    for name, term in terms.items():
        pixel = name.startswith("plfd")
        assert isinstance(term.loss, PixelLoss if pixel else ImportanceMapLoss), name
        assert (term.student_head is not None) == pixel, name
        assert (term.teacher_head is not None) == (name == "plfd.d5"), name


@pytest.mark.parametrize("name", WHO_TEACHES_WHOM)
def test_each_term_teaches_its_own_tap_and_reads_its_own_teacher_taps(name):
    distiller = with_wave_heads(hlfd())
    student = {role: f.requires_grad_() for role, f in student_features().items()}
    before = distiller(student, teacher_features(), target())[name]
    before.backward()
    own, theirs = WHO_TEACHES_WHOM[name]
    assert tuple(role for role, f in student.items() if f.grad is not None and f.grad.any()) == own
    read = set()
    for role in TEACHER:
        changed = teacher_features()
        changed[role] = changed[role].flip(-1) ** 3
        after = distiller(student_features(), changed, target())[name]
        if not torch.isclose(before, after, rtol=1e-6):
            read.add(role)
    assert read == set(theirs)


# Heads on the teacher's side.


def batches(count: int):
    for _ in range(count):
        yield teacher_features(), target()


def test_a_teacher_head_learns_from_the_labels_alone():
    distiller = hlfd()
    student = {role: f.requires_grad_() for role, f in student_features().items()}
    losses = distiller(student, teacher_features(), target())
    assert list(losses) == [*WEIGHTED, "head.plfd.d5"]
    head = distiller.heads()[0].teacher_head
    torch.stack([losses[name] for name in WEIGHTED]).sum().backward(retain_graph=True)
    assert all(p.grad is None for p in head.parameters())
    losses["head.plfd.d5"].backward()
    assert all(p.grad.any() for p in head.parameters())


def test_a_teacher_with_gradients_is_refused():
    teacher = {role: f.requires_grad_() for role, f in teacher_features().items()}
    with pytest.raises(InputError, match="wrap the teacher in FrozenTeacher"):
        hlfd()(student_features(), teacher, target())


def test_head_loss_is_the_segmentation_loss_at_full_resolution():
    distiller = with_wave_heads(hlfd())
    opinion = distiller.heads()[0].teacher_opinion(teacher_features())
    full = torch.nn.functional.interpolate(opinion, (16, 16), mode="bilinear")
    expected = SegmentationLoss()(full, target())
    losses = distiller.head_losses(teacher_features(), target())
    assert list(losses) == ["head.plfd.d5"]
    torch.testing.assert_close(losses["head.plfd.d5"], expected)


def test_fit_heads_trains_a_step_a_batch_then_freezes():
    torch.manual_seed(0)
    distiller = hlfd()
    head = distiller.heads()[0].teacher_head
    before = head.weight.detach().clone()
    students = {n: p.detach().clone() for n, p in distiller.named_parameters() if "student_head" in n}
    history = distiller.fit_heads(batches(20))
    assert [set(step) for step in history] == [{"head.plfd.d5"}] * 20
    assert history[-1]["head.plfd.d5"] < history[0]["head.plfd.d5"]
    assert not torch.equal(head.weight, before)
    assert not any(p.requires_grad for p in head.parameters())
    assert all(torch.equal(p, students[n]) for n, p in distiller.named_parameters() if n in students)
    assert all(p.requires_grad for n, p in distiller.named_parameters() if n in students)
    assert list(distiller(student_features(), teacher_features(), target())) == list(WEIGHTED)


def test_fitted_heads_are_in_the_state_and_so_is_that_they_are_fitted():
    torch.manual_seed(0)
    distiller, other = hlfd(), hlfd()
    distiller.fit_heads(batches(2))
    other.load_state_dict(distiller.state_dict())
    before, after = [d(student_features(), teacher_features(), target()) for d in (distiller, other)]
    assert list(after) == list(WEIGHTED)
    assert all(torch.equal(before[name], after[name]) for name in WEIGHTED)


def test_nothing_to_fit_takes_no_batch():
    distiller = Distiller(plugins.load("methods", "at", {"e5": TapInfo(2, 8)}, {"e5": TapInfo(3, 8)}, classes=2))
    stream = batches(1)
    assert distiller.fit_heads(stream) == []
    assert next(stream) is not None


# What is refused.


def test_a_tap_that_does_not_exist_lists_those_that_do():
    teacher = {role: info for role, info in taps(TEACHER).items() if role != "e5"}
    with pytest.raises(InputError, match=r"term flfd\.e2: the teacher has no tap 'e5' \(it has e2, e3, e4, d5"):
        plugins.load("methods", "hlfd", taps(STUDENT), teacher, classes=3)
    student = {role: info for role, info in taps(STUDENT).items() if role != "d5"}
    with pytest.raises(InputError, match=r"term plfd\.d5: the student has no tap 'd5' \(it has e1, e2, e3, e4, d4"):
        plugins.load("methods", "hlfd", student, taps(TEACHER), classes=3)


@pytest.mark.parametrize(
    ("method", "who"),
    [("kd", "student"), ("kd", "teacher"), ("skd", "student"), ("skd", "teacher"), ("hlfd", "teacher")],
)
def test_other_classes_are_refused(method, who):
    both = {"student": taps(STUDENT), "teacher": taps(TEACHER)}
    both[who]["logits"] = TapInfo(2, 1)
    both["teacher"].setdefault("e5", TapInfo(4, 8))
    both["student"].setdefault("e5", TapInfo(4, 8))
    with pytest.raises(InputError, match="expected logits of 3 classes on both sides, got 2: teacher and student have"):
        plugins.load("methods", method, both["student"], both["teacher"], classes=3)


def test_terms_of_one_name_are_a_mistake_of_the_method():
    term = Term("a", PixelLoss(), 1, ("logits",), ("logits",), student_taps=taps(STUDENT), teacher_taps=taps(TEACHER),
                classes=3)  # fmt: skip
    with pytest.raises(InputError, match="different names"):
        Distiller([term, term])


def test_no_terms_no_teacher():
    assert not Distiller([]).teacher_roles()
    assert Distiller([])({}, {}, target()) == {}
    assert hlfd().teacher_roles() == {"e2", "e3", "e4", "e5", "d5", "d4", "d3", "logits"}

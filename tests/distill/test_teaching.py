"""Several teachers: what they teach together, whom each may teach, and which heads they share."""

import pytest
import torch
from torch import nn

from hlfd.distill.distiller import Distiller
from hlfd.distill.features import TapInfo, Tapped
from hlfd.distill.frozen import FrozenTeacher
from hlfd.distill.losses import DistillationLoss, PixelLoss
from hlfd.distill.teaching import Teaching, teacher_shares
from hlfd.distill.terms import Schedule, Term

TAPS = {"d2": TapInfo(4, 1), "logits": TapInfo(3, 1)}


class Small(nn.Module):
    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(image))


def tapped(seed: int) -> Tapped:
    return Tapped(Small(seed), {"d2": "body"}, classes=3, in_channels=1, dims=2)


def term(name: str, student: str, teacher: str, weight: float = 1.0) -> Term:
    return Term(name, PixelLoss(2), weight, (student,), (teacher,), student_taps=TAPS, teacher_taps=TAPS, classes=3)


def teaching(shares: list[list[float]], *rows: tuple[str, str, str]) -> Teaching:
    teachers = [FrozenTeacher(tapped(seed)) for seed in range(1, 1 + len(shares[0]))]
    torch.manual_seed(0)
    distillers = [Distiller(term(*row) for row in rows) for _ in teachers]
    return Teaching(teachers, distillers, torch.tensor(shares))


IMAGE = torch.randn(4, 1, 6, 5, generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(3, (4, 6, 5), generator=torch.Generator().manual_seed(1))
STUDENT = tapped(9)


def test_the_loss_is_the_mean_over_samples_of_the_weighted_mean_over_their_teachers():
    shares = [[1, 0, 0], [0.25, 0.75, 0], [0, 0, 0]]
    lessons, patient = teaching(shares, ("kd", "logits", "logits")), torch.tensor([1, 0, 1, 2])
    student = STUDENT(IMAGE)
    expected = 0.0
    for sample, row in enumerate(patient.tolist()):
        for share, teacher in zip(shares[row], lessons.teachers, strict=True):
            one = slice(sample, sample + 1)
            loss = PixelLoss(2)(student["logits"][one], teacher(IMAGE[one])["logits"], TARGET[one])
            expected += share * float(loss.detach()) / 4
    losses = lessons(IMAGE, student, TARGET, patient)
    assert list(losses) == ["kd"]
    assert float(losses["kd"].detach()) == pytest.approx(expected, rel=1e-5)


def test_an_ensemble_pulls_as_one_teacher_with_the_mean_of_their_probabilities():
    lessons = teaching([[0.3, 0.7]], ("kd", "logits", "logits"))
    logits = STUDENT(IMAGE)["logits"].detach().requires_grad_()
    lessons(IMAGE, {"logits": logits}, TARGET, torch.zeros(4, dtype=torch.long))["kd"].backward()
    mean = sum(
        share * (teacher(IMAGE)["logits"] / 2).softmax(1)
        for share, teacher in zip((0.3, 0.7), lessons.teachers, strict=True)
    )
    alone = logits.detach().clone().requires_grad_()
    PixelLoss(2)(alone, 2 * mean.log(), TARGET).backward()
    torch.testing.assert_close(logits.grad, alone.grad)


def test_a_teacher_never_sees_a_sample_it_may_not_teach(monkeypatch):
    lessons = teaching([[1, 0], [0, 1]], ("kd", "logits", "logits"))
    seen: list[list[float]] = []
    for teacher in lessons.teachers:
        monkeypatch.setattr(teacher.view.__class__, "image", lambda _, image: seen.append(image[:, 0, 0, 0]) or image)
        teacher(IMAGE[:1])
    seen.clear()
    lessons(IMAGE, STUDENT(IMAGE), TARGET, torch.tensor([0, 1, 1, 0]))
    assert [s.tolist() for s in seen] == [IMAGE[[0, 3], 0, 0, 0].tolist(), IMAGE[[1, 2], 0, 0, 0].tolist()]


def test_heads_of_the_student_are_shared_those_of_the_teachers_are_their_own():
    lessons = teaching([[0.5, 0.5]], ("plfd.d2", "d2", "d2"))
    first, second = (distiller.each()[0] for distiller in lessons.distillers)
    assert first.student_head is second.student_head
    assert first.teacher_head is not second.teacher_head
    names = [name for name, _ in lessons.named_parameters()]
    assert len(names) == 2 + 2 * 2
    assert not any("body" in name for name in lessons.state_dict())


def test_each_teacher_s_heads_are_fitted_on_its_own_labelled_samples():
    lessons, patient = teaching([[1, 0], [0, 1]], ("plfd.d2", "d2", "d2")), torch.tensor([0, 0, 1, 1])
    target = TARGET.clone()
    target[1] = -1
    batches: list[int] = []

    def stream():
        batches.append(3)
        yield from [(IMAGE, target, patient)] * 2
        yield IMAGE[:2], target[:2], patient[:2]  # nothing for the second teacher

    history = list(lessons.fit_heads(stream))
    assert batches == [3, 3]
    assert len(history) == 3 + 2
    alone = [Distiller([term("plfd.d2", "d2", "d2")]) for _ in range(2)]
    torch.manual_seed(0)
    again = teaching([[1, 0], [0, 1]], ("plfd.d2", "d2", "d2"))
    for k, rows in enumerate(([0], [2, 3])):
        alone[k].load_state_dict(again.distillers[k].state_dict())
        alone[k].fit_heads([(again.teachers[k](IMAGE[rows]), target[rows])] * (3 - k))
        fitted, expected = (d.each()[0].teacher_head.weight for d in (lessons.distillers[k], alone[k]))
        torch.testing.assert_close(fitted, expected)
        assert not fitted.requires_grad


class LabelledMean(DistillationLoss):
    """Of the student's logits over labelled samples: what a term that needs labels is a mean over."""

    needs_labels = True

    def compare(self, student, knowledge, target):
        labelled = target.flatten(1).amin(1) >= 0
        return student[labelled].sum() / labelled.sum().clamp_min(1)


def test_a_term_that_needs_labels_is_a_mean_over_labelled_samples_whoever_teaches_them():
    target, patient = TARGET.clone(), torch.tensor([0, 1, 0, 1])
    target[2:] = -1
    student = STUDENT(IMAGE)
    values = []
    for shares in ([[1.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.2, 0.8]]):
        teachers = [FrozenTeacher(tapped(seed)) for seed in range(len(shares[0]))]
        one = [
            Term("m", LabelledMean(), 1.0, ("logits",), ("logits",), student_taps=TAPS, teacher_taps=TAPS, classes=3)
            for _ in teachers
        ]
        lessons = Teaching(teachers, [Distiller([term]) for term in one], torch.tensor(shares))
        values.append(lessons(IMAGE, student, target, patient)["m"].item())
    assert values == pytest.approx([student["logits"][:2].sum().item() / 2] * 3, rel=1e-5)


def test_a_teacher_of_unlabelled_patients_alone_has_its_heads_fitted_all_the_same():
    lessons, patient = teaching([[1, 0], [0, 1]], ("plfd.d2", "d2", "d2")), torch.tensor([0, 0, 1, 1])
    target = TARGET.clone()
    target[2:] = -1
    before = [d.each()[0].teacher_head.weight.clone() for d in lessons.distillers]
    assert len(list(lessons.fit_heads(lambda: [(IMAGE, target, patient)] * 2))) == 4
    for distiller, old in zip(lessons.distillers, before, strict=True):
        assert not torch.equal(distiller.each()[0].teacher_head.weight, old)
    with pytest.raises(ValueError, match="no training batch has a label"):
        list(lessons.fit_heads(lambda: [(IMAGE, -torch.ones_like(TARGET), patient)]))


def test_shares_are_the_allowed_teachers_weights_and_sum_to_one():
    may_teach = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])
    expected = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0, 0.5], [0, 1, 0], [0, 0, 0]])
    torch.testing.assert_close(teacher_shares((1.0, 2.0, 1.0), may_teach), expected)


def test_nobody_teaches_a_student_alone():
    lessons = Teaching.alone()
    assert lessons(IMAGE, STUDENT(IMAGE), TARGET, torch.zeros(4, dtype=torch.long)) == {}
    assert not list(lessons.parameters())
    assert not lessons.taps_taught()
    assert not lessons.heads()


# Schedules, for one and for several.


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Schedule(), {0: 1, 3.5: 1}),
        (Schedule(scale=0.5), {0: 0.5, 9: 0.5}),
        (Schedule(warmup_epochs=2), {0: 0, 0.5: 0.25, 2: 1, 7: 1}),
        (Schedule(stop_epoch=3), {0: 1, 2.99: 1, 3: 0, 4: 0}),
        (Schedule(3, warmup_epochs=1, stop_epoch=2), {0.5: 1.5, 1.5: 3, 2: 0}),
    ],
)
def test_schedule(schedule, factors):
    assert {epoch: schedule.factor(epoch) for epoch in factors} == pytest.approx(factors)


def test_a_schedule_reaches_the_terms_its_pattern_fits_and_a_stopped_term_costs_nothing(monkeypatch):
    distiller = Distiller(
        [term("a.one", "logits", "logits"), term("a.two", "logits", "logits"), term("b", "logits", "logits", 5)],
        {"a.*": Schedule(warmup_epochs=4, stop_epoch=8), "a.two": Schedule(scale=2)},
    )
    student, teacher = STUDENT(IMAGE), FrozenTeacher(tapped(1))(IMAGE)
    base = distiller.each()[0](student, teacher, TARGET).item()

    def values() -> dict[str, float]:
        return {name: value.item() / base for name, value in distiller(student, teacher, TARGET).items()}

    assert values() == pytest.approx({"a.one": 0, "a.two": 2, "b": 5})
    distiller.set_epoch(1)
    assert values() == pytest.approx({"a.one": 0.25, "a.two": 2, "b": 5})
    assert distiller.weights() == pytest.approx({"a.one": 0.25, "a.two": 2, "b": 5})
    distiller.set_balance({"b": 0.1})
    distiller.set_epoch(8)
    assert values() == pytest.approx({"a.two": 2, "b": 0.5})
    assert distiller.balance_factors() == pytest.approx({"a.one": 1, "a.two": 1, "b": 0.1})
    assert not distiller.finished


def test_a_pattern_that_fits_no_term_lists_the_terms():
    with pytest.raises(ValueError, match=r"there is no term 'c\.\*' \(known: a\)"):
        Distiller([term("a", "logits", "logits")], {"c.*": Schedule()})


def test_when_all_terms_have_stopped_the_teacher_is_not_asked(monkeypatch):
    lessons = teaching([[1.0]], ("kd", "logits", "logits"))
    lessons.distillers[0].each()[0].schedule = Schedule(stop_epoch=2)
    monkeypatch.setattr(FrozenTeacher, "forward", lambda *_: pytest.fail("the teacher was asked"))
    lessons.set_epoch(2)
    assert lessons(IMAGE, STUDENT(IMAGE), TARGET, torch.zeros(4, dtype=torch.long)) == {}


def test_a_method_s_unlabelled_samples_count_in_its_terms_and_not_in_its_heads():
    target = TARGET.clone()
    target[2:] = -1
    distiller = Distiller([term("plfd.d2", "d2", "d2")])
    student, teacher = STUDENT(IMAGE), FrozenTeacher(tapped(1))(IMAGE)
    mixed, full = distiller(student, teacher, target), distiller(student, teacher, TARGET)
    torch.testing.assert_close(mixed["plfd.d2"], full["plfd.d2"])
    half = distiller.head_losses({role: f[:2] for role, f in teacher.items()}, TARGET[:2])
    torch.testing.assert_close(mixed["head.plfd.d2"], half["head.plfd.d2"])

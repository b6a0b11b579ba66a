"""Each loss against a slow, obvious reference in float64, and the properties its formula promises."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses.dice import DiceLoss
from monai.losses.focal_loss import FocalLoss
from torch.nn import functional as F

from hlfd.data.rows import decode, encode
from hlfd.distill.losses import (
    DistillationLoss,
    ImportanceMapLoss,
    PixelLoss,
    SegmentationLoss,
    gathered,
    importance_map,
    resize,
)
from hlfd.methods.cwd import ChannelLoss
from hlfd.methods.dist import CorrelationLoss
from hlfd.methods.hlfd import ReleasedDeepLoss

some_shapes = settings(max_examples=15, deadline=None, derandomize=True, database=None)
both_dims = pytest.mark.parametrize("dims", [2, 3])
half_types = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])


# The references: one number at a time, straight from the formulas.


def resized(a: np.ndarray, spatial: tuple[int, ...]) -> np.ndarray:
    """Linear along one axis after the other; pixel edges aligned: output i lies at (i + 1/2) n / m - 1/2."""
    for axis, m in enumerate(spatial, 2):
        n = a.shape[axis]
        slices = []
        for i in range(m):
            at = min(max((i + 0.5) * n / m - 0.5, 0), n - 1)
            below = int(at)
            above = min(below + 1, n - 1)
            slices.append(np.take(a, below, axis) * (1 - (at - below)) + np.take(a, above, axis) * (at - below))
        a = np.stack(slices, axis)
    return a


def attention(features: np.ndarray, power: float) -> np.ndarray:
    """A(F), N x pixels."""
    rows = []
    for sample in features:
        pixels = [
            sum(abs(float(channel[where])) ** power for channel in sample) / len(sample)
            for where in np.ndindex(sample.shape[1:])
        ]
        length = math.sqrt(sum(v * v for v in pixels))
        rows.append([v / length if length else 0.0 for v in pixels])
    return np.array(rows)


def importance_term(s: np.ndarray, t: np.ndarray, power: float) -> float:
    if math.prod(t.shape[2:]) > math.prod(s.shape[2:]):
        t = resized(t, s.shape[2:])
    s = resized(s, t.shape[2:])
    a, b = attention(s, power), attention(t, power)
    return sum(sum((x - y) ** 2 for x, y in zip(p, q, strict=True)) for p, q in zip(a, b, strict=True)) / len(a)


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max())
    return e / e.sum()


def pixel_term(s: np.ndarray, t: np.ndarray, temperature: float) -> float:
    s, total, count = resized(s, t.shape[2:]), 0.0, 0
    for n in range(len(t)):
        for where in np.ndindex(t.shape[2:]):
            p = softmax(t[(n, slice(None), *where)] / temperature)
            q = softmax(s[(n, slice(None), *where)] / temperature)
            total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            count += 1
    return temperature**2 * total / count


def segmentation_term(logits: np.ndarray, target: np.ndarray) -> float:
    classes = logits.shape[1]
    focal, both, predicted, true = [], np.zeros(classes), np.zeros(classes), np.zeros(classes)
    for n in range(len(logits)):
        for where in np.ndindex(target.shape[1:]):
            p, truth = softmax(logits[(n, slice(None), *where)]), target[(n, *where)]
            focal.append(-((1 - p[truth]) ** 2) * math.log(p[truth]))
            predicted += p
            true[truth] += 1
            both[truth] += p[truth]
    dice = [(2 * both[k] + 1) / (predicted[k] + true[k] + 1) for k in range(1, classes)]
    return 0.5 * sum(focal) / len(focal) + 0.5 * (1 - sum(dice) / len(dice))


# Inputs.

small_spatial = st.lists(st.integers(1, 4), min_size=2, max_size=3).map(tuple)


def draw(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def exact(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def image(dims: int, channels: int = 3, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return draw(seed, batch, channels, *(4, 3, 2)[:dims])


def enlarged(a: torch.Tensor) -> torch.Tensor:
    """Every pixel repeated along every spatial axis."""
    for axis in range(2, a.ndim):
        a = a.repeat_interleave(2, axis)
    return a


# Resizing.


@some_shapes
@given(st.data(), small_spatial)
def test_resize(data, spatial):
    to = data.draw(st.tuples(*[st.integers(1, 6)] * len(spatial)))
    a = draw(0, 2, 3, *spatial)
    result = resize(a, to)
    np.testing.assert_allclose(exact(result), resized(exact(a), to), atol=1e-5)


def test_resize_to_the_same_size_is_the_same_tensor():
    a = image(2)
    assert resize(a, (4, 3)) is a


# Importance maps.


@some_shapes
@given(st.integers(1, 3), st.integers(1, 4), small_spatial, st.sampled_from([1.0, 2.0, 4.0]))
def test_importance_map(batch, channels, spatial, power):
    features = draw(1, batch, channels, *spatial)
    result = importance_map(features, power)
    np.testing.assert_allclose(exact(result), attention(exact(features), power), atol=1e-6)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(exact(result.norm(dim=1)), 1, atol=1e-5)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 3.0, 4.0])
def test_the_gradient_of_an_importance_map(power):
    features = draw(1, 2, 3, 4, 5).requires_grad_()
    with torch.no_grad():
        features[:, :, 0, 0] = 0
    wanted = draw(2, 2, 20)
    plain = F.normalize(features.flatten(2).abs().pow(power).sum(1), dim=1)
    (expected,) = torch.autograd.grad((plain * wanted).sum(), features)
    (found,) = torch.autograd.grad((importance_map(features, power) * wanted).sum(), features)
    torch.testing.assert_close(found, expected)


def test_for_the_gradient_of_an_importance_map_nothing_is_kept_but_the_features():
    features, kept = torch.randn(2, 32, 16, 16, requires_grad=True), [0]

    def note(a: torch.Tensor) -> torch.Tensor:
        kept[0] += a.numel() if a.data_ptr() != features.data_ptr() else 0
        return a

    with torch.autograd.graph.saved_tensors_hooks(note, lambda a: a):
        importance_map(features)
    assert kept[0] < features.numel() / 4


def test_importance_map_has_the_paper_s_power_by_default():
    features = image(2)
    assert torch.equal(importance_map(features), importance_map(features, 4))
    np.testing.assert_allclose(
        float(ImportanceMapLoss()(features, image(2, seed=1), torch.empty(0))),
        importance_term(exact(features), exact(image(2, seed=1)), 4),
        rtol=1e-5,
    )


@some_shapes
@given(st.data(), small_spatial, st.sampled_from([2.0, 4.0]))
def test_importance_loss_resizes_the_finer_of_the_two(data, spatial, power):
    other = data.draw(st.tuples(*[st.integers(1, 6)] * len(spatial)))
    student, teacher = draw(2, 2, 3, *spatial), draw(3, 2, 5, *other)
    loss = ImportanceMapLoss(power)(student, teacher, torch.empty(0))
    assert float(loss) == pytest.approx(importance_term(exact(student), exact(teacher), power), abs=1e-5)
    assert 0 <= float(loss) <= 2


def test_importance_loss_by_hand():
    # A(s) = (1, 0, 0, 0); A(t) = (16, 1, 0, 0) / sqrt(257): 2 - 2 * 16 / sqrt(257)
    student, teacher = torch.tensor([[[[3.0, 0], [0, 0]]]]), torch.tensor([[[[2.0, -1], [0, 0]]]])
    assert float(ImportanceMapLoss(4)(student, teacher, torch.empty(0))) == pytest.approx(2 - 32 / 257**0.5, abs=1e-6)
    assert float(ImportanceMapLoss(2)(student, teacher, torch.empty(0))) == pytest.approx(2 - 8 / 17**0.5, abs=1e-6)


@both_dims
def test_importance_loss_reaches_both_ends_of_its_range(dims):
    features = image(dims)
    assert float(ImportanceMapLoss()(features, features.clone(), torch.empty(0))) == 0
    here, there = torch.zeros(2, 1, 2, *[2] * dims)
    here[(..., *[0] * dims)], there[(..., *[1] * dims)] = 1, 5
    assert float(ImportanceMapLoss()(here[None], there[None], torch.empty(0))) == pytest.approx(2)


# What leaves both distillation losses as they are: name -> (student, teacher) -> (student, teacher).

SAME_FOR_BOTH = {
    "batch twice": lambda s, t: (torch.cat([s, s]), torch.cat([t, t])),
    "batch reversed": lambda s, t: (s.flip(0), t.flip(0)),
    "every pixel eight or four times": lambda s, t: (enlarged(s), enlarged(t)),
    "mirrored": lambda s, t: (s.flip(-1), t.flip(-1)),
}
SAME_FOR_MAPS = {
    "student scaled": lambda s, t: (1e3 * s, t),
    "teacher scaled": lambda s, t: (s, 1e-3 * t),
    "sign": lambda s, t: (-s, t),
    "channels twice": lambda s, t: (torch.cat([s, s], 1), t),
    "channels permuted": lambda s, t: (s, t.flip(1)),
}
SAME_FOR_PIXELS = {
    "classes permuted": lambda s, t: (s.flip(1), t.flip(1)),
    "a constant more for each class": lambda s, t: (s + 7, t - 3),
}
INVARIANCES = [
    *itertools.product([ImportanceMapLoss()], [*SAME_FOR_BOTH.items(), *SAME_FOR_MAPS.items()]),
    *itertools.product([PixelLoss()], [*SAME_FOR_BOTH.items(), *SAME_FOR_PIXELS.items()]),
]


@both_dims
@pytest.mark.parametrize(("loss", "case"), INVARIANCES, ids=[f"{type(x).__name__}-{c[0]}" for x, c in INVARIANCES])
def test_invariance(loss, case, dims):
    student, teacher = image(dims), image(dims, seed=1)
    before = float(loss(student, teacher, torch.empty(0)))
    assert before > 1e-3
    assert float(loss(*case[1](student, teacher), torch.empty(0))) == pytest.approx(before, rel=1e-4)


# Pixels.


@some_shapes
@given(st.data(), st.integers(2, 4), small_spatial, st.sampled_from([1.0, 4.0]))
def test_pixel_loss(data, classes, spatial, temperature):
    student_size = data.draw(st.tuples(*[st.integers(1, 5)] * len(spatial)))
    student, teacher = draw(4, 2, classes, *student_size, scale=3), draw(5, 2, classes, *spatial, scale=3)
    result = float(PixelLoss(temperature)(student, teacher, torch.empty(0)))
    assert result == pytest.approx(pixel_term(exact(student), exact(teacher), temperature), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_pixel_loss_is_in_nats_times_the_square_of_the_temperature(temperature):
    # softmax(t / T) = (3/4, 1/4), softmax(s / T) = (1/2, 1/2)
    teacher = torch.tensor([temperature * math.log(3), 0.0]).reshape(1, 2, 1, 1)
    nats = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    loss = PixelLoss(temperature)(torch.zeros(1, 2, 1, 1), teacher, torch.empty(0))
    assert float(loss) == pytest.approx(temperature**2 * nats, rel=1e-5)


def test_pixel_loss_is_of_the_teacher_to_the_student_not_the_reverse():
    sure, unsure = torch.tensor([8.0, 0.0]).reshape(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    loss = PixelLoss(1)
    assert float(loss(unsure, sure, torch.empty(0))) == pytest.approx(0.690, abs=1e-3)
    assert float(loss(sure, unsure, torch.empty(0))) == pytest.approx(3.307, abs=1e-3)


@some_shapes
@given(st.integers(2, 4), small_spatial)
def test_pixel_loss_averaged_over_the_teacher_s_classes(classes, spatial):
    student, teacher = draw(4, 2, classes, *spatial, scale=3), draw(5, 2, classes, *spatial, scale=3)
    each = {}
    for n, *where in np.ndindex(2, *spatial):
        s, t = (exact(x)[(n, slice(None), *where)].reshape(1, classes, *[1] * len(spatial)) for x in (student, teacher))
        each.setdefault(int(t.argmax()), []).append(pixel_term(s, t, 4))
    expected = sum(sum(values) / len(values) for values in each.values()) / len(each)
    loss = PixelLoss(average="classes")
    assert float(loss(student, teacher, torch.empty(0))) == pytest.approx(expected, rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(loss(student, teacher, torch.empty(0))) == pytest.approx(expected, rel=1e-4)


def test_a_small_class_counts_as_much_as_a_large_one():
    teacher = 10 * torch.nn.functional.one_hot(torch.tensor([[0] * 99 + [1]]), 2).movedim(-1, 1).float()[..., None]
    student = teacher.clone()
    student[0, :, 99] = 0  # only the one pixel of class 1 is wrong
    alike, balanced = (
        float(PixelLoss(1, average)(student, teacher, torch.empty(0))) for average in ("pixels", "classes")
    )
    assert balanced == pytest.approx(50 * alike, rel=1e-5)


@both_dims
def test_pixel_loss_is_zero_at_equality_and_has_the_paper_s_temperature(dims):
    s, t = image(dims), image(dims, seed=1)
    assert float(PixelLoss()(t, t.clone(), torch.empty(0))) == 0
    assert float(PixelLoss()(s, t, torch.empty(0))) == float(PixelLoss(4)(s, t, torch.empty(0)))


# A coarser student: what it needs of the teacher is gathered on its own grid, and gives the same.


@some_shapes
@given(st.data(), small_spatial)
def test_gathered_is_the_adjoint_of_resize(data, spatial):
    full = data.draw(st.tuples(*[st.integers(1, 7)] * len(spatial)))
    a, b = draw(0, 2, 3, *full), draw(1, 2, 3, *spatial)
    assert gathered(a, spatial).shape == b.shape
    assert float((a * resize(b, full)).sum()) == pytest.approx(
        float((gathered(a, spatial) * b).sum()), rel=1e-4, abs=1e-4
    )


@some_shapes
@given(st.data(), st.integers(2, 4), small_spatial, st.sampled_from([1.0, 4.0]))
def test_pixel_loss_of_a_coarser_student(data, classes, spatial, temperature):
    full = tuple(data.draw(st.integers(n + 1, 3 * n + 1)) for n in spatial)
    student, teacher = draw(4, 2, classes, *spatial, scale=3).requires_grad_(), draw(5, 2, classes, *full, scale=3)
    target, loss = torch.zeros(2, *full, dtype=torch.long), PixelLoss(temperature)
    known = loss.knowledge(teacher, spatial, target)
    assert known.shape == (2, classes + 1, *spatial)
    torch.testing.assert_close(known[:, :-1].sum(1), torch.ones(2, *spatial))
    result = loss(student, teacher, target)
    assert result.item() == pytest.approx(pixel_term(exact(student), exact(teacher), temperature), rel=1e-4, abs=1e-5)
    (own,) = torch.autograd.grad(result, student)
    (direct,) = torch.autograd.grad(loss.compare(student, F.log_softmax(teacher / temperature, 1), target), student)
    torch.testing.assert_close(own, direct, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 100.0])
@both_dims
def test_pixel_loss_of_a_coarser_student_that_agrees(dims, scale):
    student = scale * image(dims)
    full = tuple(4 * n for n in student.shape[2:])
    target = torch.zeros(2, *full, dtype=torch.long)
    teacher = resize(student, full)
    assert PixelLoss()(student, teacher, target).item() == pytest.approx(0, abs=2e-5 * scale)


def test_pixel_loss_at_the_student_s_resolution():
    student, teacher, target = image(2), enlarged(image(2, seed=1)), torch.zeros(2, 8, 6, dtype=torch.long)
    loss = PixelLoss(resolution="student")
    assert loss.knowledge(teacher, (4, 3), target).shape == student.shape
    small = resize(teacher, (4, 3))
    assert loss(student, teacher, target).item() == pytest.approx(pixel_term(exact(student), exact(small), 4), rel=1e-4)
    assert loss(student, teacher, target).item() != pytest.approx(
        PixelLoss()(student, teacher, target).item(), rel=1e-3
    )


def test_losses_that_need_the_same_of_the_teacher_have_one_key():
    assert PixelLoss(4).knowledge_key((8, 8)) == PixelLoss(4).knowledge_key((8, 8))
    keys = {
        *(PixelLoss(4).knowledge_key(size) for size in ((8, 8), (4, 8))),
        PixelLoss(2).knowledge_key((8, 8)),
        PixelLoss(4, "classes").knowledge_key((8, 8)),
        PixelLoss(4, resolution="student").knowledge_key((8, 8)),
        ImportanceMapLoss(4).knowledge_key((8, 8)),
        ImportanceMapLoss(2).knowledge_key((8, 8)),
    }
    assert len(keys) == 7


def test_another_formula_has_another_key():
    """What was kept of one isn't taken for the other: of another class, of changed code, of any option."""

    class Own(DistillationLoss):
        def __init__(self, taps: object = None):
            super().__init__()
            self.taps = taps

        def knowledge(self, teacher, size, target):
            return teacher

    class Changed(Own):
        __qualname__ = Own.__qualname__

        def knowledge(self, teacher, size, target):
            return 7 * teacher

    losses = [Own(), Own((1, 2)), Own((3,)), Changed()]
    assert len({loss.knowledge_key((8, 8)) for loss in losses}) == 4
    assert Own((3,)).knowledge_key((8, 8)) == losses[2].knowledge_key((8, 8))


def test_relations_of_one_temperature_need_the_same():
    assert CorrelationLoss("classes").knowledge_key((8, 8)) == CorrelationLoss("pixels").knowledge_key((8, 8))
    assert CorrelationLoss("classes", 2).knowledge_key((8, 8)) != CorrelationLoss("classes").knowledge_key((8, 8))
    whole = {ChannelLoss(temperature).knowledge_key(size) for temperature in (1, 4) for size in ((8, 8), (4, 4))}
    assert len(whole) == 1


def test_a_loss_without_knowledge_of_its_own_needs_whole_features():
    class Own(DistillationLoss):
        pass

    class Little(Own):
        def knowledge(self, teacher, size, target):
            return teacher[:, :1]

    class Large(Little):
        compact = False

    assert [cls.compact for cls in (Own, Little, Large, ImportanceMapLoss, ReleasedDeepLoss)] == [
        False,
        True,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("size", [(64, 64), (16, 16)], ids=["log_probabilities", "gathered"])
def test_what_is_kept_tells_a_nearly_converged_student_from_its_teacher(size, temperature):
    """Where both are nearly sure, and nearly agree, coarser steps show."""
    loss, target = PixelLoss(temperature), torch.zeros(2, 64, 64, dtype=torch.long)
    coarse = resize(draw(1, 2, 3, 4, 4, scale=6), size)
    student, teacher = coarse + draw(2, 2, 3, *size, scale=0.3), resize(coarse, target.shape[1:])
    known = loss.knowledge(teacher, size, target)
    code = loss.code(known, 3)
    kept = torch.from_numpy(np.stack([decode(encode(row.numpy(), code), code, tuple(row.shape)) for row in known]))
    exactly, found = (float(loss.compare(student, k, target)) for k in (known, kept))
    assert found == pytest.approx(exactly, rel=2e-3)


# Segmentation.


@some_shapes
@given(st.data(), st.integers(2, 4), small_spatial)
def test_segmentation_loss(data, classes, spatial):
    present = data.draw(st.integers(1, classes))  # the classes from here on are absent
    logits = draw(6, 2, classes, *spatial, scale=3)
    target = torch.randint(present, (2, *spatial), generator=torch.Generator().manual_seed(7))
    result = float(SegmentationLoss()(logits, target))
    assert result == pytest.approx(segmentation_term(exact(logits), target.numpy()), rel=1e-4)


@both_dims
@pytest.mark.parametrize("present", [(0, 1, 2), (0, 1), (0, 2), (0,), (2,)])
def test_segmentation_loss_is_zero_for_a_sure_and_right_answer_whatever_is_absent(dims, present):
    target = torch.tensor(present * 16)[:16].reshape(1, *[4] * 2, *[1] * (dims - 2))
    logits = 100 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    assert float(SegmentationLoss()(logits, target)) == pytest.approx(0, abs=1e-6)
    assert float(SegmentationLoss()(-logits, target)) > 10


def test_segmentation_loss_is_what_monai_computes():
    torch.manual_seed(0)
    logits, target = torch.randn(3, 4, 12, 10, requires_grad=True), torch.randint(3, (3, 12, 10))
    focal = FocalLoss(gamma=2, use_softmax=True, to_onehot_y=True, reduction="none")
    dice = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1, smooth_dr=1)
    theirs = 0.5 * focal(logits, target[:, None]).sum(1).mean() + 0.5 * dice(logits, target[:, None])
    own = SegmentationLoss()(logits, target)
    torch.testing.assert_close(own, theirs)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (own, theirs)]
    torch.testing.assert_close(*gradients)


def test_segmentation_loss_pools_a_class_over_the_batch():
    # The class is in the first slice alone, found there, and not claimed in the second: Dice (2 * 2 + 1) / (4 + 1).
    target = torch.tensor([[[1, 1]], [[0, 0]]])
    logits = 100 * torch.nn.functional.one_hot(target, 2).movedim(-1, 1).float()
    logits[0, :, 0, 1] = torch.tensor([100.0, 0])  # one of its two pixels is missed: Dice (2 + 1) / (3 + 1)
    missed = 100 / 4  # focal of a probability of exp(-100), over four pixels
    assert float(SegmentationLoss()(logits, target)) == pytest.approx(0.5 * missed + 0.5 * 0.25, rel=1e-5)


@both_dims
def test_segmentation_loss_leaves_out_samples_without_labels(dims):
    logits = image(dims).requires_grad_()
    target = torch.randint(3, (2, *logits.shape[2:]), generator=torch.Generator().manual_seed(7))
    none = torch.full_like(target, -1)
    half = SegmentationLoss()(logits, torch.cat([target[:1], none[1:]]))
    assert float(half.detach()) == float(SegmentationLoss()(logits[:1], target[:1]).detach())
    nothing = SegmentationLoss()(logits, none)
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert not logits.grad.any()


# Half precision.

VALUES = {
    "zero": lambda a: 0 * a,
    "tiny": lambda a: 1e-4 * a.sign(),
    "small": lambda a: 1e-4 * a,
    "large": lambda a: 1e4 * a.clamp(-1, 1),
    "one large": lambda a: torch.where(torch.arange(a.numel()).reshape(a.shape) == 5, 1e4, 1e-4 * a),
}
LOSSES = {
    "map": (ImportanceMapLoss(), lambda s, t, _: importance_term(s, t, 4)),
    "pixel": (PixelLoss(), lambda s, t, _: pixel_term(s, t, 4)),
    "segmentation": (lambda s, _, target: SegmentationLoss()(s, target), lambda s, _, y: segmentation_term(s, y)),
}


@half_types
@both_dims
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_finite_and_as_exact_as_the_input(name, value, dims, dtype):
    loss, reference = LOSSES[name]
    student = VALUES[value](image(dims)).to(dtype).requires_grad_()
    teacher = VALUES[value](image(dims, seed=1)).to(dtype)
    target = torch.randint(3, (2, *student.shape[2:]), generator=torch.Generator().manual_seed(8))
    result = loss(student, teacher, target)
    assert result.dtype == torch.float32
    result.backward()
    assert student.grad.isfinite().all()
    assert result.isfinite()
    if name == "map" or "large" not in value:  # the references take logarithms of probabilities of exp(-1e4)
        expected = reference(exact(student), exact(teacher), target.numpy())
        assert float(result.detach()) == pytest.approx(expected, abs=1e-5)


@half_types
@both_dims
def test_half_precision_of_different_sizes(dims, dtype):
    student = image(dims).to(dtype)
    finer = enlarged(image(dims, seed=1)).to(dtype)
    for s, t in ((student, finer), (finer, student)):
        result = ImportanceMapLoss()(s, t, torch.empty(0))
        assert float(result) == pytest.approx(importance_term(exact(s), exact(t), 4), abs=5e-2)
        assert PixelLoss()(s, t, torch.empty(0)).isfinite()


def test_importance_map_of_nothing_is_zero_and_teaches_nothing():
    nothing = torch.zeros(1, 2, 3, 3, requires_grad=True)
    assert not importance_map(nothing).any()
    loss = ImportanceMapLoss()(nothing, image(2, batch=1)[..., :3, :3], torch.empty(0))
    assert float(loss.detach()) == pytest.approx(1)
    loss.backward()
    assert not nothing.grad.any()


@both_dims
def test_losses_change_none_of_their_arguments(dims):
    student, teacher = image(dims), image(dims, seed=1)
    target = torch.zeros(2, *student.shape[2:], dtype=torch.long)
    copies = [x.clone() for x in (student, teacher, target)]
    for loss, _ in LOSSES.values():
        loss(student, teacher, target)
    assert all(torch.equal(a, b) for a, b in zip((student, teacher, target), copies, strict=True))


def test_importance_maps_leave_the_gradient_in_the_order_of_memory_of_the_features():
    weights = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    features = weights * 2  # a leaf's gradient is brought into the leaf's order in any case
    seen: list[bool] = []
    features.register_hook(lambda gradient: seen.append(gradient.is_contiguous(memory_format=torch.channels_last)))
    ImportanceMapLoss()(features, torch.randn(2, 16, 6, 6), torch.empty(0)).backward()
    assert seen == [True]

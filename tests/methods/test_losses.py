"""The losses of single methods against slow, obvious references in float64, and what their formulas promise."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hlfd.distill.losses import class_shares, coarser, resize
from hlfd.methods.cwd import ChannelLoss
from hlfd.methods.dist import CorrelationLoss
from hlfd.methods.emkd import RegionAffinityLoss
from hlfd.methods.fitnet import HintLoss
from hlfd.methods.ifvd import VariationLoss
from hlfd.methods.pairwise import PairwiseLoss

CLASSES = 3

both_dims = pytest.mark.parametrize("dims", [2, 3])
half_types = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])

# The references: one number at a time. Features N x C x spatial, of one size unless they pool by themselves.


def cells(shape: tuple[int, ...], grid: tuple[int, ...]):
    """Each cell of the grid with the slices of the pixels it covers, shared pixels in both cells."""
    for cell in np.ndindex(*grid):
        yield (
            cell,
            tuple(slice(i * n // m, -(-(i + 1) * n // m)) for i, n, m in zip(cell, shape, grid, strict=True)),
        )


def shares(target: np.ndarray, classes: int, grid: tuple[int, ...]) -> np.ndarray:
    result = np.zeros((len(target), classes, *grid))
    for n, k in np.ndindex(len(target), classes):
        for cell, covers in cells(target.shape[1:], grid):
            pixels = target[n][covers].ravel().tolist()
            result[(n, k, *cell)] = pixels.count(k) / len(pixels)
    return result


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = math.sqrt(sum(a * a)) * math.sqrt(sum(b * b))
    return float(sum(a * b) / lengths) if lengths else 0.0


def hint(s: np.ndarray, t: np.ndarray, target: np.ndarray) -> float:
    return sum((s[i] - t[i]) ** 2 for i in np.ndindex(s.shape)) / s.size


def pairwise(s: np.ndarray, t: np.ndarray, target: np.ndarray, most: int = 2) -> float:
    grid = tuple(min(most, a, b) for a, b in zip(s.shape[2:], t.shape[2:], strict=True))
    total = []
    for n in range(len(s)):
        sides = []
        for features in (s[n], t[n]):
            covers = [covered for _, covered in cells(features.shape[1:], grid)]
            sides.append([np.array([channel[c].mean() for channel in features]) for c in covers])
        for i, j in np.ndindex(len(sides[0]), len(sides[0])):
            total.append((cosine(sides[0][i], sides[0][j]) - cosine(sides[1][i], sides[1][j])) ** 2)
    return sum(total) / len(total)


def centre(features: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Mean of one sample's features over a class, C; zeros if it is absent."""
    total = sum(features[(slice(None), *i)] * share[i] for i in np.ndindex(share.shape))
    return total / share.sum() if share.sum() else np.zeros(len(features))


def variation(s: np.ndarray, t: np.ndarray, target: np.ndarray, classes: int = CLASSES) -> float:
    share, total, labelled = shares(target, classes, s.shape[2:]), 0.0, 0.0
    for n in range(len(s)):
        for i in np.ndindex(s.shape[2:]):
            maps = [
                sum(share[(n, k, *i)] * cosine(f[(slice(None), *i)], centre(f, share[n, k])) for k in range(classes))
                for f in (s[n], t[n])
            ]
            total += (maps[0] - maps[1]) ** 2
            labelled += share[(n, slice(None), *i)].sum()
    return total / labelled if labelled else 0.0


def region(s: np.ndarray, t: np.ndarray, target: np.ndarray, classes: int = CLASSES) -> float:
    both = [(f, shares(target, classes, f.shape[2:])) for f in (s, t)]
    total = []
    for n, (a, b) in itertools.product(range(len(s)), itertools.combinations(range(classes), 2)):
        if (target[n] == a).any() and (target[n] == b).any():
            own, theirs = (cosine(centre(f[n], share[n, a]), centre(f[n], share[n, b])) for f, share in both)
            total.append((own - theirs) ** 2)
    return sum(total) / len(total) if total else 0.0


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max())
    return e / e.sum()


def channel(s: np.ndarray, t: np.ndarray, target: np.ndarray, temperature: float = 4) -> float:
    total = 0.0
    for n, c in np.ndindex(*s.shape[:2]):
        p, q = softmax(t[n, c].ravel() / temperature), softmax(s[n, c].ravel() / temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / (s.shape[0] * s.shape[1])


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """1 - Pearson correlation."""
    a, b = a - a.mean(), b - b.mean()
    vary = [math.sqrt((x**2).mean()) > 1e-6 for x in (a, b)]
    return 1 - cosine(a, b) if all(vary) else 0.5 * any(vary)


def probabilities(logits: np.ndarray, temperature: float) -> list[np.ndarray]:
    """For each pixel of the batch."""
    where = np.ndindex(len(logits), *logits.shape[2:])
    return [softmax(logits[(n, slice(None), *i)] / temperature) for n, *i in where]


def inter(s: np.ndarray, t: np.ndarray, target: np.ndarray, temperature: float = 1) -> float:
    pairs = list(zip(probabilities(s, temperature), probabilities(t, temperature), strict=True))
    return temperature**2 * sum(apart(a, b) for a, b in pairs) / len(pairs)


def intra(s: np.ndarray, t: np.ndarray, target: np.ndarray, temperature: float = 1) -> float:
    own, theirs = (np.array(probabilities(x, temperature)).T for x in (s, t))
    return temperature**2 * sum(apart(a, b) for a, b in zip(own, theirs, strict=True)) / len(own)


LOSSES = {  # name -> loss, reference
    "hint": (HintLoss(), hint),
    "pairwise": (PairwiseLoss(2), pairwise),
    "variation": (VariationLoss(CLASSES), variation),
    "region": (RegionAffinityLoss(CLASSES), region),
    "channel": (ChannelLoss(), channel),
    "inter": (CorrelationLoss("classes"), inter),
    "intra": (CorrelationLoss("pixels"), intra),
}
COSINES = ("pairwise", "variation", "region")  # independent of scale and channels
LOGITS = ("channel", "inter", "intra")
LABELS = ("variation", "region")

every_loss = pytest.mark.parametrize("name", LOSSES)


# Inputs.


def draw(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labels(seed: int, *shape: int, classes: int = CLASSES) -> torch.Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def batch(dims: int, finer: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of student and teacher, and a finer target; sizes are multiples of the two nodes."""
    size = (4, 6, 2)[:dims]
    target = labels(2, 2, *(finer * n for n in size))
    return draw(0, 2, CLASSES, *size), draw(1, 2, CLASSES, *size), target


def exact(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def enlarged(a: torch.Tensor, first: int) -> torch.Tensor:
    """Every pixel repeated along every spatial axis."""
    for axis in range(first, a.ndim):
        a = a.repeat_interleave(2, axis)
    return a


small = st.lists(st.integers(1, 3), min_size=2, max_size=3).map(tuple)


# Values.


@given(st.data(), small)
def test_class_shares(data, size):
    fine = data.draw(st.tuples(*[st.integers(n, 5) for n in size]))
    target = labels(0, 2, *fine, classes=4) - 1
    result = class_shares(target, CLASSES, size)
    np.testing.assert_allclose(exact(result), shares(target.numpy(), CLASSES, size), atol=1e-6)


@every_loss
@given(st.data(), small, st.integers(1, 2))
def test_against_the_reference_whatever_the_sizes(name, data, size, n):
    """Different sizes and, where there is no head between, different channels."""
    loss, reference = LOSSES[name]
    other, fine = (data.draw(st.tuples(*[st.integers(1, 4)] * len(size))) for _ in range(2))
    channels = data.draw(st.integers(1, 4)) if name in COSINES else CLASSES
    student, teacher = draw(0, n, CLASSES, *size), draw(1, n, channels, *other, scale=2)
    target = labels(2, n, *fine)
    result = float(loss(student, teacher, target))
    if name in LOGITS:
        student = resize(student, other)
    elif name in ("hint", "variation"):
        teacher = coarser(teacher, size)
        student = resize(student, teacher.shape[2:])
    assert result == pytest.approx(reference(exact(student), exact(teacher), target.numpy()), abs=2e-5, rel=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@both_dims
def test_temperature(temperature, dims):
    s, t, target = batch(dims)
    for loss, reference in (
        (ChannelLoss(temperature), channel),
        (CorrelationLoss("classes", temperature), inter),
        (CorrelationLoss("pixels", temperature), intra),
    ):
        expected = reference(exact(s), exact(t), target.numpy(), temperature)
        assert float(loss(s, t, target)) == pytest.approx(expected, rel=1e-4)


def test_ranges_by_hand():
    here, there = torch.eye(2).reshape(1, 2, 1, 2), torch.ones(1, 2, 1, 2)
    # Two nodes: at right angles for the student, parallel for the teacher; two of four pairs differ by 1.
    assert float(PairwiseLoss()(here, there, torch.empty(0))) == pytest.approx(0.5)
    # The same of two regions of one pixel each: one pair.
    assert float(RegionAffinityLoss(2)(here, there, torch.tensor([[[0, 1]]]))) == pytest.approx(1)
    # One region of both pixels: each at 45 degrees to the mean, or at none.
    expected = (1 - 0.5**0.5) ** 2
    assert float(VariationLoss(2)(here, there, torch.tensor([[[0, 0]]]))) == pytest.approx(expected, abs=1e-6)
    # Opposite answers: correlation -1 across three classes and across pixels.
    scores = draw(0, 1, 2, 3, 3)
    for between in ("classes", "pixels"):
        assert float(CorrelationLoss(between)(scores, -scores, torch.empty(0))) == pytest.approx(2, abs=1e-5)


# What leaves the losses as they are: (student, teacher, target) -> the same.

FOR_ALL = {
    "batch twice": lambda s, t, y: (torch.cat([s, s]), torch.cat([t, t]), torch.cat([y, y])),
    "batch reversed": lambda s, t, y: (s.flip(0), t.flip(0), y.flip(0)),
    "every pixel repeated": lambda s, t, y: (enlarged(s, 2), enlarged(t, 2), enlarged(y, 1)),
    "mirrored": lambda s, t, y: (s.flip(-1), t.flip(-1), y.flip(-1)),
    "channels permuted alike": lambda s, t, y: (s.flip(1), t.flip(1), y),
}
FOR_COSINES = {
    "student scaled": lambda s, t, y: (1e3 * s, t, y),
    "teacher scaled": lambda s, t, y: (s, 1e-3 * t, y),
    "channels twice": lambda s, t, y: (torch.cat([s, s], 1), t, y),
    "channels permuted": lambda s, t, y: (s, t.flip(1), y),
}
FOR_LABELS = {"classes permuted": lambda s, t, y: (s, t, CLASSES - 1 - y)}
INVARIANCES = [
    *itertools.product(LOSSES, FOR_ALL.items()),
    *itertools.product(COSINES, FOR_COSINES.items()),
    *itertools.product(LABELS, FOR_LABELS.items()),
    *[(name, ("constant", lambda s, t, y: (s + 7, t - 3, y))) for name in LOGITS],
    (
        "channel",
        ("constant of each class", lambda s, t, y: (s + s.flatten(2).mean(2).view(2, 3, *[1] * (s.ndim - 2)), t, y)),
    ),
]


@both_dims
@pytest.mark.parametrize(("name", "case"), INVARIANCES, ids=[f"{name}-{case[0]}" for name, case in INVARIANCES])
def test_invariance(name, case, dims):
    loss = LOSSES[name][0]
    values = batch(dims, finer=1)  # a finer target's shares would change with pixels that are repeated
    before = float(loss(*values))
    assert before > 1e-3
    assert float(loss(*case[1](*values))) == pytest.approx(before, rel=1e-4)


@every_loss
@both_dims
def test_zero_at_equality(name, dims):
    s, _, target = batch(dims)
    assert float(LOSSES[name][0](s, s.clone(), target)) == pytest.approx(0, abs=1e-9)  # to rounding


@pytest.mark.parametrize("loss", [VariationLoss, RegionAffinityLoss])
@both_dims
def test_classes_that_nobody_has_change_nothing(loss, dims):
    values = batch(dims)
    assert float(loss(CLASSES + 4)(*values)) == pytest.approx(float(loss(CLASSES)(*values)), rel=1e-5)


# Labels.


@every_loss
@both_dims
def test_samples_without_labels(name, dims):
    loss, _ = LOSSES[name]
    s, t, target = batch(dims)
    none = torch.full_like(target, -1)
    half = torch.cat([target[:1], none[1:]])
    if name not in LABELS:
        assert not loss.needs_labels
        assert float(loss(s, t, none)) == float(loss(s, t, target))
        return
    assert loss.needs_labels
    assert float(loss(s, t, half)) == pytest.approx(float(loss(s[:1], t[:1], target[:1])), rel=1e-6)
    s.requires_grad_()
    nothing = loss(s, t, none)
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert not s.grad.any()


@pytest.mark.parametrize("name", LABELS)
@both_dims
def test_absent_classes(name, dims):
    loss, reference = LOSSES[name]
    s, t, target = batch(dims)
    for present in ((0,), (2,), (0, 2)):
        some = torch.tensor(present)[target % len(present)]
        result = float(loss(s, t, some))
        assert result == pytest.approx(reference(exact(s), exact(t), some.numpy()), rel=1e-4, abs=1e-7)
        assert (result == 0) == (name == "region" and len(present) == 1)


@pytest.mark.parametrize("name", LABELS)
def test_a_tumour_smaller_than_a_feature_pixel_counts(name):
    """It is nowhere the nearest label, and still has a region of its own."""
    s, t = draw(0, 1, 4, 4, 4), draw(1, 1, 4, 4, 4)
    target = torch.zeros(1, 32, 32, dtype=torch.long)
    without = float(LOSSES[name][0](s, t, target))
    target[0, 10, 11] = 2
    assert abs(float(LOSSES[name][0](s, t, target)) - without) > 1e-4


# Precision.

VALUES = {
    "zero": lambda a: 0 * a,
    "tiny": lambda a: 1e-4 * a.sign(),
    "small": lambda a: 1e-4 * a,
    "ordinary": lambda a: a,
    "large": lambda a: 1e4 * a.clamp(-1, 1),
    "one large": lambda a: torch.where(torch.arange(a.numel()).reshape(a.shape) == 5, 1e4, 1e-4 * a),
}


@half_types
@both_dims
@pytest.mark.parametrize("value", VALUES)
@every_loss
def test_half_precision_is_finite_and_as_exact_as_the_input(name, value, dims, dtype):
    loss, reference = LOSSES[name]
    s, t, target = batch(dims)
    student, teacher = VALUES[value](s).to(dtype).requires_grad_(), VALUES[value](t).to(dtype)
    result = loss(student, teacher, target)
    assert result.dtype == torch.float32
    result.backward()
    assert student.grad.isfinite().all()
    if value == "zero":
        assert student.grad.abs().max() < 1e-6
    if name != "channel" or "large" not in value:  # the reference takes logarithms of exp(-1e4)
        expected = reference(exact(student), exact(teacher), target.numpy())
        assert float(result.detach()) == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-8, 1e15])
@both_dims
@every_loss
def test_gradients_are_finite_at_any_size(name, dims, size):
    loss, _ = LOSSES[name]
    s, t, target = batch(dims)
    for own, teacher in ((size * s, t), (s, size * t), (size * s, size * t)):
        student = own.detach().requires_grad_()
        result = loss(student, teacher, target)
        result.backward()
        assert result.isfinite()
        assert student.grad.isfinite().all()
        if size <= 1e-8:  # what is as good as zero gives no direction, rather than a gradient of 1e8
            assert student.grad.abs().max() < 10


@both_dims
@every_loss
def test_autocast_changes_nothing(name, dims):
    loss, _ = LOSSES[name]
    s, t, target = batch(dims)
    with torch.autocast("cpu", torch.bfloat16):
        result = loss(s, t, target)
    assert torch.equal(result, loss(s, t, target))


# What the teacher is asked for.


@pytest.mark.parametrize(
    ("name", "channels", "shape"),
    [
        ("hint", 3, (2, 3, 4, 6)),
        ("pairwise", 3, (2, 3, 2, 2)),  # nodes
        ("pairwise", 9, (2, 2, 2, 2, 2)),  # their similarities
        ("variation", 9, (2, 1, 4, 6)),
        ("region", 9, (2, CLASSES, CLASSES)),
        ("channel", 3, (2, 3, 8, 12)),
        ("inter", 3, (2, 3, 8, 12)),
    ],
)
def test_knowledge_is_small_and_enough(name, channels, shape):
    loss, _ = LOSSES[name]
    s, _, target = batch(2)
    teacher = draw(5, 2, channels, 8, 12)
    knowledge = loss.knowledge(teacher, s.shape[2:], target)
    assert tuple(knowledge.shape) == shape
    assert torch.equal(loss.compare(s, knowledge, target), loss(s, teacher, target))
    each = torch.cat([loss.knowledge(teacher[i : i + 1], s.shape[2:], target[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(each, knowledge)


@both_dims
@every_loss
def test_losses_change_none_of_their_arguments(name, dims):
    values = batch(dims)
    copies = [x.clone() for x in values]
    LOSSES[name][0](*values)
    assert all(torch.equal(a, b) for a, b in zip(values, copies, strict=True))

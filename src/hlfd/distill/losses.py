"""The losses: each the same code in 2D and 3D, computed in float32 whatever the features' precision.

Shapes: features N x C x spatial, logits N x K x spatial (K classes with background), target N x spatial.
"""

import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlfd.distill.dry_run import times

Size = Sequence[int]
Average = Literal["pixels", "classes"]
Resolution = Literal["full", "student"]
Code = Literal["half", "log_probabilities", "gathered"]


def resize(a: Tensor, size: Size) -> Tensor:
    """R(a -> b): ``a`` (N x C x spatial) at the spatial size of b; bilinear or trilinear, pixel edges aligned."""
    if tuple(a.shape[2:]) == tuple(size):
        return a
    mode = "bilinear" if a.ndim == 4 else "trilinear"
    return F.interpolate(a, tuple(size), mode=mode, align_corners=False)


def coarser(a: Tensor, size: Size) -> Tensor:
    """``a`` (N x C x spatial), resized to ``size`` if that has fewer pixels."""
    return resize(a, size) if a.shape[2:].numel() > math.prod(size) else a


def class_shares(target: Tensor, classes: int, size: Size) -> Tensor:
    """How much of each class lies in each cell of a coarser (or equal) grid.

    Areas, not the nearest label: a tumour smaller than a cell is still there.

    Args:
        target: N x spatial, classes; -1 where there is no label, which belongs to no class.
        classes: K, with background.
        size: the grid's spatial size.

    Returns:
        N x K x size, float32, in [0, 1]; over the classes it sums to the cell's labelled share.
    """
    masks = torch.stack([target == k for k in range(classes)], 1).float()
    pool: Any = F.adaptive_avg_pool2d if masks.ndim == 4 else F.adaptive_avg_pool3d
    return masks if tuple(masks.shape[2:]) == tuple(size) else pool(masks, tuple(size))


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product in float32, also where autocast would choose half precision."""
    with torch.autocast(a.device.type, enabled=False):
        return a.float() @ b.float()


def inverse_length(a: Tensor, dim: int | tuple[int, ...], shortest: float = 1e-6) -> Tensor:
    """1 / length of the vectors along ``dim``; 0, without a gradient, for those not longer than ``shortest``."""
    squared = a.square().sum(dim, keepdim=True)  # ten times faster than a norm along few channels
    return (squared > shortest**2) * squared.clamp_min(shortest**2).rsqrt()


def unit(a: Tensor, dim: int | tuple[int, ...], shortest: float = 1e-6) -> Tensor:
    """Vectors along ``dim`` at length 1; zero, without a gradient, for those not longer than ``shortest``."""
    return a * inverse_length(a, dim, shortest)


def region_means(features: Tensor, shares: Tensor) -> Tensor:
    """Mean of the features over each class's pixels.

    Args:
        features: N x C x spatial.
        shares: N x K x spatial, from `class_shares`.

    Returns:
        N x K x C, float32; zeros for a class that the sample doesn't have.
    """
    pixels = shares.flatten(2)
    sums = product(pixels, features.flatten(2).mT)
    return sums / pixels.sum(2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


@cache
def _mark_of(function: Callable[..., Any]) -> str:
    """Another one where its source is another."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # typed into a console, or compiled
        source = ""
    return hashlib.sha256(source.encode()).hexdigest()[:8]


class DistillationLoss(nn.Module):
    """What a term computes, in two parts: what it needs of the teacher, and the comparison with the student.

    Attributes:
        head: the learned 1x1 convolution that a side goes through first: ``classes``, to class scores, on each side
            that isn't ``logits`` already; ``teacher``, on the student's side, to as many channels as the teacher's
            side has; None, none.
        kind: what is compared, for people: ``importance maps``, ``class scores``, ...
        needs_labels: it reads the target. A pixel without a label is -1 there, and must not count.
        compact: what it needs of the teacher is small enough to be kept for every slice: said by every class with a
            `knowledge` of its own that doesn't say otherwise.
    """

    head: Literal["classes", "teacher"] | None = None
    kind = "features"
    needs_labels = False
    compact = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "knowledge" in cls.__dict__ and "compact" not in cls.__dict__:
            cls.compact = True

    def __init__(self):
        super().__init__()
        self._mark = _mark_of(type(self).knowledge)  # here, as `torch.compile` can't look into a cached function

    def knowledge_key(self, size: Size) -> str:
        """What `knowledge` depends on but for teacher and target: terms of one key need the same and share it.

        Here: the class and where it comes from, its attributes, and the source of `knowledge`, so that what was kept
        before that was changed isn't taken. What else `knowledge` calls is for a key of the class's own.
        """
        kind, plain = type(self), int | float | str | tuple | list | None
        own = [(k, v) for k, v in sorted(vars(self).items()) if k != "training" and not k.startswith("_")]
        options = [f"{k}={v}" for k, v in own if isinstance(v, plain)]
        name = f"{kind.__module__}.{kind.__qualname__}"
        return " ".join([name, self._mark, *options, times(size)])

    def code(self, knowledge: Tensor, classes: int) -> Code:
        """How to keep what `knowledge` gave, see `hlfd.data.rows.Code`."""
        return "half"

    def knowledge(self, teacher: Tensor, size: Size, target: Tensor) -> Tensor:
        """All that a comparison needs of the teacher, as little as it can be, a row a sample.

        Args:
            teacher: its features or logits, N x C x spatial.
            size: spatial size of the student's features.
            target: N x spatial; read only by losses that need labels.
        """
        return teacher

    def compare(self, student: Tensor, knowledge: Tensor, target: Tensor) -> Tensor:
        """Features or logits of the student, what `knowledge` gave, target N x spatial -> scalar."""
        raise NotImplementedError

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Features or logits of both (N x C x spatial), target N x spatial -> scalar."""
        return self.compare(student, self.knowledge(teacher, student.shape[2:], target), target)


def importance_map(features: Tensor, power: float = 4) -> Tensor:
    """A(F): the mean over channels of |F|^p as a vector of length 1 for each sample.

    Args:
        features: N x C x spatial.
        power: p >= 1; 4 in HLFD and EMKD, 2 in attention transfer (Zagoruyko 2017, arXiv 1612.03928, eq. 2).

    Returns:
        N x pixels, float32, in [0, 1]; zeros where all features are zero.
    """
    features = features.float().flatten(2)
    low, high = features.detach().amin((1, 2), keepdim=True), features.detach().amax((1, 2), keepdim=True)
    largest = torch.maximum(high, -low).clamp_min(torch.finfo(torch.float32).tiny)
    if torch.compiler.is_compiling():  # which fuses this, and its gradient, itself
        scaled = features / largest
        powers = (scaled.square().pow(power / 2) if power >= 2 else scaled.abs().pow(power)).sum(1)
    else:
        powers: Tensor = _PowerSum.apply(features, largest, power)  # pyright: ignore[reportAssignmentType]
    return F.normalize(powers, dim=1)


class _PowerSum(torch.autograd.Function):
    """Sum over channels of |F / largest F|^p, N x C x pixels -> N x pixels.

    A(F) doesn't depend on the scale of F, and the scaled power neither overflows nor underflows. For the gradient
    nothing is kept but the features themselves, which the network has anyway, and it is in their order of memory.
    """

    @staticmethod
    def forward(features: Tensor, largest: Tensor, power: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        scaled = features / largest
        # For p = 2 and 4 that is a square, in a quarter of the time of any other power.
        powers = scaled.square_().pow_(power / 2) if power >= 2 else scaled.abs_().pow_(power)
        return powers.sum(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, largest, power = inputs
        ctx.save_for_backward(features, largest)
        ctx.power = power

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, largest = ctx.saved_tensors
        scaled, power = features / largest, ctx.power
        if power >= 2:
            slope = scaled.square().pow_(power / 2 - 1).mul_(scaled)
        else:
            slope = scaled.abs().pow_(power - 1).nan_to_num_(0, 0, 0).mul_(scaled.sign())  # 0 at 0, not infinity
        limit = torch.finfo(torch.float32).max  # where all features are zero: 0, not 0 times infinity
        return slope.mul_((power * grad[:, None] / largest).clamp_(-limit, limit)), None, None


class ImportanceMapLoss(DistillationLoss):
    """I(s, t) = mean over samples of || A(R(s -> t)) - A(t) ||^2, in [0, 2].

    The finer of the two is resized to the other's size. Zero when s = t; independent of channels, scale and N.
    Source: Zagoruyko 2017 (arXiv 1612.03928), with p = 4 as in HLFD (arXiv 2311.16700).
    """

    kind = "importance maps"

    def __init__(self, power: float = 4):
        super().__init__()
        self.power = power

    def knowledge(self, teacher: Tensor, size: Size, target: Tensor) -> Tensor:
        """A(t) as N x 1 x spatial, at the coarser of both sizes."""
        teacher = coarser(teacher, size)
        return importance_map(teacher, self.power).unflatten(1, (1, *teacher.shape[2:]))

    def compare(self, student: Tensor, knowledge: Tensor, target: Tensor) -> Tensor:
        """Features, map of `knowledge` -> scalar; the target is not used."""
        own = importance_map(resize(student, knowledge.shape[2:]), self.power)
        return (own - knowledge.flatten(1)).square().sum(1).mean()


class PixelLoss(DistillationLoss):
    """P(s, t) = T^2 * mean over samples and pixels of KL(softmax(t / T) || softmax(s / T)), in nats.

    The student is resized to the teacher. Zero when s = t; independent of N and of the number of pixels.
    Source: Hinton 2015 (arXiv 1503.02531), pixel-wise as in Liu 2019 (arXiv 1903.04197).

    A coarser student needs less of the teacher than its probabilities at full resolution. Resizing is linear, R s, so
    sum of t R s = sum of (R^T t) s: the teacher's probabilities, averaged over what each of the student's pixels
    reaches, and the mean of their negative entropy give the loss and its gradient exactly (to rounding, which shows in
    a loss below 1e-5).

    Args:
        temperature: T.
        average: ``pixels``, the source's mean over all pixels; ``classes``, the mean over the classes that the
            teacher's answer has in the batch of the mean over that class's pixels, so that a tumour of ten pixels
            counts as much as all the background.
        resolution: ``full``, the source's, the teacher's own; ``student``: where the student is coarser, the teacher
            is resized to it. Less to compute, and it blurs a small tumour's margin.
    """

    head = "classes"
    kind = "class scores"

    def __init__(self, temperature: float = 4, average: Average = "pixels", resolution: Resolution = "full"):
        super().__init__()
        self.temperature, self.average, self.resolution = temperature, average, resolution

    def knowledge_key(self, size: Size) -> str:
        """As the base's; ``average`` matters only for which of the two forms it is."""
        return f"probabilities T={self.temperature:g} {self.resolution} {self.average} {times(size)}"

    def code(self, knowledge: Tensor, classes: int) -> Code:
        """As probabilities."""
        return "gathered" if knowledge.shape[1] > classes else "log_probabilities"

    def knowledge(self, teacher: Tensor, size: Size, target: Tensor) -> Tensor:
        """Log-probabilities, N x K x spatial; or for a coarser student, N x (K + 1) x size.

        The latter are the probabilities averaged over each pixel's reach, and the mean negative entropy everywhere.
        """
        if self.resolution == "student":
            teacher = coarser(teacher, size)
        log_t = F.log_softmax(teacher.float() / self.temperature, dim=1)
        full = log_t.shape[2:]
        if self.average == "classes" or full.numel() <= math.prod(size) or full != target.shape[1:]:
            return log_t
        probabilities = log_t.exp()
        entropy = (probabilities * log_t).sum(1).flatten(1).mean(1)
        reached = gathered(probabilities, size) / _reach(size, full, log_t)
        return torch.cat([reached, entropy.reshape(-1, *[1] * (log_t.ndim - 1)).expand(-1, 1, *size)], 1)

    def compare(self, student: Tensor, knowledge: Tensor, target: Tensor) -> Tensor:
        """Logits of the student, what `knowledge` gave; of the target only the size is used."""
        # Few channels: in channels_last they are slow to resize and to sum.
        own = student.float().contiguous() / self.temperature
        if knowledge.shape[1] > student.shape[1]:
            return self.temperature**2 * self._gathered(own, knowledge, target.shape[1:])
        log_s, log_t = F.log_softmax(resize(own, knowledge.shape[2:]), dim=1), knowledge
        divergence = (log_t.exp() * (log_t - log_s)).sum(1)
        if self.average == "pixels":
            return self.temperature**2 * divergence.mean()
        answer = F.one_hot(log_t.argmax(1), log_t.shape[1]).flatten(0, -2).to(divergence.dtype)
        pixels = answer.sum(0)
        each = product(divergence.flatten(), answer) / pixels.clamp_min(1)
        return self.temperature**2 * each.sum() / (pixels > 0).sum()

    def _gathered(self, own: Tensor, knowledge: Tensor, full: Size) -> Tensor:
        own = own - own.mean(1, keepdim=True)  # changes nothing, and keeps the two large terms small
        taught, entropy = knowledge[:, :-1] * _reach(own.shape[2:], full, own), knowledge[:, -1]
        agreement = (taught * own).sum() / (len(own) * math.prod(full))
        return entropy.mean() - agreement + resize(own, full).logsumexp(1).mean()


def gathered(a: Tensor, size: Size) -> Tensor:
    """R^T a, the adjoint of `resize` from ``size`` to a's own: sum of a R(b) = sum of gathered(a) b, for any b.

    Args:
        a: N x C x spatial.
        size: the coarser grid.
    """
    for axis, n in enumerate(size, 2):
        a = torch.movedim(product(torch.movedim(a, axis, -1), _weights(n, a.shape[axis], a)), -1, axis)
    return a


def _reach(size: Size, full: Size, like: Tensor) -> Tensor:
    """How many pixels of ``full`` each pixel of ``size`` makes up when resized, 1 x 1 x size."""
    reach = torch.ones((1, 1), device=like.device)
    for n, m in zip(size, full, strict=True):
        reach = reach[..., None] * _weights(n, m, like).sum(0)
    return reach


def _weights(n: int, m: int, like: Tensor) -> Tensor:
    """Linear interpolation from n to m pixels as a matrix, m x n."""
    eye = torch.eye(n, device=like.device)[None]
    return F.interpolate(eye, m, mode="linear", align_corners=False)[0].T


class SegmentationLoss(nn.Module):
    """Lseg = 1/2 Focal(gamma = 2) + 1/2 (1 - Dice).

    Focal: mean over pixels of -(1 - p)^2 log p of the true class. Dice: over foreground classes, smooth 1, each
    class's pixels pooled over the batch, so that a slice without the class doesn't count as a failure of its own.

    Attributes:
        pooled: the batch is that of all processes of `torch.distributed`: every process gets the loss of the whole,
            and DistributedDataParallel's mean over processes is its gradient. All of them must call it.
    """

    def __init__(self, pooled: bool = False):
        super().__init__()
        self.pooled = pooled

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits N x K x spatial, target N x spatial (-1 throughout a sample that doesn't count) -> scalar >= 0."""
        labelled = target.flatten(1).amin(1) >= 0
        if not bool(labelled.all()):
            logits, target = logits[labelled], target[labelled]
        # Sums over pixels alone are kept: no one-hot target, and no copy of it, takes the size of the logits.
        log_p = F.log_softmax(logits.float().contiguous(), 1)
        own = log_p.gather(1, target[:, None])[:, 0]
        own_p = own.exp()
        members = [target == k for k in range(1, logits.shape[1])]
        pixels = own.new_tensor([own.numel()])
        focal = torch.stack([-((1 - own_p).square() * own).sum()])
        shared = torch.stack([(own_p * member).sum() for member in members])
        predicted = log_p[:, 1:].exp().sum((0, *range(2, log_p.ndim)))
        reference = torch.stack([member.sum() for member in members])
        sums = torch.cat([pixels, focal, shared, predicted + reference])
        if self.pooled:
            sums = sum_over_processes(sums)
        pixels, focal, shared, both = sums.split([1, 1, len(members), len(members)])
        dice = (2 * shared + 1) / (both + 1)
        # Without any label every sum is 0: so are Focal and, with the smooth 1, 1 - Dice.
        return 0.5 * focal[0] / pixels[0].clamp_min(1) + 0.5 * (1 - dice).mean()


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = a.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = grad.clone()
        torch.distributed.all_reduce(total)
        return total


def sum_over_processes(a: Tensor) -> Tensor:
    """Sum of ``a`` over all processes, in each; the gradient too is the sum of all of theirs."""
    return _SumOverProcesses.apply(a)  # pyright: ignore[reportReturnType]

"""trace: what every module of a network took and gave in one run, and what led to the logits."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from hlfd.distill.dry_run import Size
from hlfd.distill.features import TapInfo, first_tensor, logits_of

CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
)


@dataclass(frozen=True)
class ModuleRun:
    """What a module did in a dry run.

    Attributes:
        name: in the network.
        kind: its class.
        calls: how often it was run.
        tap: channels and stride of what it gave first; None: no tensor of N x C x spatial.
        size: spatial size of that.
    """

    name: str
    kind: str
    calls: int
    tap: TapInfo | None
    size: Size


@dataclass
class Call:
    """One run of a module.

    Attributes:
        inputs: every input that has spatial axes.
        output: if it is one tensor of N x C x spatial.
        depths, depth: product of strides of the inputs and the output; None where that is no feature map.
        leads: whether the logits depend on the output.
    """

    name: str
    module: nn.Module
    inputs: list[Tensor]
    children: "list[Call]" = field(default_factory=list["Call"])
    output: Tensor | None = None
    depths: set[int] = field(default_factory=set[int])
    depth: int | None = None
    leads: bool = False

    @property
    def channels(self) -> int:
        """Of the output."""
        return 0 if self.output is None else self.output.shape[1]

    @property
    def weighs(self) -> bool:
        """Whether the module has parameters."""
        return next(self.module.parameters(), None) is not None

    @property
    def merges(self) -> bool:
        """Whether it joins a deeper feature with one of its own stride: a decoder's stage."""
        return self.depth in self.depths and max(self.depths) > depth_of(self)

    def inside(self) -> Iterator["Call"]:
        """All that ran within it."""
        for child in self.children:
            yield child
            yield from child.inside()


def depth_of(call: Call) -> int:
    assert call.depth is not None, "a stage has a depth"
    return call.depth


class _Levels:
    """Tells feature maps by their strides, for images of ``size``.

    A tensor of the right number of axes may have its channels last: only strides that a convolution, a norm or a
    pooling gives are believed.
    """

    def __init__(self, size: Size, calls: Sequence[Call]):
        self.size = size
        layers = [c.output for c in calls if isinstance(c.module, CHANNELS_FIRST) and c.output is not None]
        self.known = {strides for layer in layers if (strides := self.strides(layer)) is not None}

    def strides(self, feature: Tensor) -> tuple[int, ...] | None:
        """None for one that is no image divided by whole numbers, give or take two pixels of padding."""
        found: list[int] = []
        for n, m in zip(self.size, feature.shape[2:], strict=True):
            stride = n // m if n % m == 0 else 2 ** max(0, round(math.log2(n / m)))
            if abs(n / stride - m) > 2 or (m == 1 and n > 1):  # a single cell is pooled from the whole image
                return None
            found.append(stride)
        return tuple(found)

    def depth(self, feature: Tensor | None) -> int | None:
        """Product of its strides; None: not a feature map."""
        strides = None if feature is None else self.strides(feature)
        return math.prod(strides) if strides is not None and strides in self.known else None


class _Uses(TorchDispatchMode):
    """Which tensor was computed from which."""

    def __init__(self):
        super().__init__()
        self.sources: dict[int, set[int]] = {}
        self.alive: list[Tensor] = []  # an id is a tensor's own only while it lives

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        inputs = {id(t) for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_iter(outputs):
            if isinstance(tensor, Tensor):
                self.alive.append(tensor)
                self.sources.setdefault(id(tensor), set()).update(inputs)
        return outputs

    def leading_to(self, tensor: Tensor) -> set[int]:
        found, waiting = set[int](), [id(tensor)]
        while waiting:
            here = waiting.pop()
            if here not in found:
                found.add(here)
                waiting += self.sources.get(here, ())
        return found


def trace(probe: nn.Module, image: Tensor, dims: int) -> tuple[Call, list[ModuleRun], Tensor]:
    root = Call("", probe, [image])
    stack, calls = [root], list[Call]()
    outputs: dict[str, Tensor | None] = {}

    def spatial(values: Any) -> list[Tensor]:
        return [t for t in tree_iter(values) if isinstance(t, Tensor) and t.ndim == dims + 2 and t.numel() > 0]

    def before(name: str):
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            call = Call(name, module, spatial((args, kwargs)))
            stack[-1].children.append(call)
            calls.append(call)
            stack.append(call)

        return hook

    def after(_module: nn.Module, _args: object, output: Any) -> None:
        call, found = stack.pop(), spatial(output)
        if found and len(list(tree_iter(output))) == 1:
            call.output = found[0]
        outputs.setdefault(call.name, first_tensor(output))

    handles: list[Any] = []
    for name, module in probe.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(after))
    try:
        with _Uses() as uses:
            answer = probe(image)
    finally:
        for handle in handles:
            handle.remove()
    logits, size = logits_of(answer, dims), tuple(image.shape[2:])
    leading, levels = uses.leading_to(logits), _Levels(size, calls)
    counts: dict[str, int] = {}
    for call in calls:
        call.leads = call.output is not None and id(call.output) in leading
        call.depth = levels.depth(call.output)
        call.depths = {depth for tensor in call.inputs if (depth := levels.depth(tensor)) is not None}
        counts[call.name] = counts.get(call.name, 0) + 1
    kinds = {call.name: type(call.module).__name__ for call in calls}
    return root, [_run(name, kinds[name], n, outputs.get(name), size) for name, n in counts.items()], logits


def _run(name: str, kind: str, calls: int, output: Tensor | None, size: Size) -> ModuleRun:
    if output is None or output.ndim != len(size) + 2:
        return ModuleRun(name, kind, calls, None, ())
    return ModuleRun(name, kind, calls, TapInfo.of(output, size), tuple(output.shape[2:]))

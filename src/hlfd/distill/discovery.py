"""Discovery: which modules of a network nobody has described can be its taps, from a dry run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Tensor, nn

from hlfd.distill._trace import Call, ModuleRun, depth_of, trace
from hlfd.distill.dry_run import SIZES, Size, dry_run
from hlfd.distill.features import DECODER, ENCODER, Tapped, require_logits

LARGE = (128, *(size for size in SIZES if size != 128))
"""Sizes to try: at 128 pixels a stride of 64 is still more than one cell, so it isn't taken for a pooled image."""


@dataclass(frozen=True)
class Discovery:
    """What a dry run found.

    Attributes:
        size: of the image.
        taps: role -> module, as far as there are modules for the roles.
        modules: every module that was run, in the order of their first run.
        logits: of the dry run, a tensor of shapes alone.
    """

    size: Size
    taps: dict[str, str]
    modules: tuple[ModuleRun, ...]
    logits: Tensor


def tapped(
    network: nn.Module,
    *,
    in_channels: int,
    classes: int,
    dims: int = 2,
    taps: Mapping[str, str | None] | None = None,
    size: int | Size | None = None,
) -> Tapped:
    """Any network as `Tapped`, with the taps that `discover` proposes.

    Args:
        network: maps an image (N x C x spatial) to logits (N x classes x spatial).
        in_channels, classes, dims: as for `Tapped`.
        taps: over those proposed; None takes one away.
        size: of the image, for a network that accepts no other; a number is that many pixels an axis.

    Raises:
        InputError: the network can't be run, gives other logits than expected, or a tap doesn't have its role.
    """
    fixed = (size,) * dims if isinstance(size, int) else size
    found = discover(network, in_channels=in_channels, dims=dims, sizes=(fixed,) if fixed else LARGE)
    require_logits(found.logits, classes, found.size)
    options: dict[str, Any] = {"classes": classes, "in_channels": in_channels, "dims": dims, "size": fixed}
    result = Tapped(network, found.taps, **options, proposed=frozenset(found.taps))
    if taps:
        result = result.with_taps(taps)
        result.info()
    return result


def discover(network: nn.Module, *, in_channels: int, dims: int, sizes: Sequence[int | Size] = LARGE) -> Discovery:
    """Find out what every module gives, and propose taps.

    An encoder tap is the last output of a whole stage at each stride on the way down to the bottleneck, a decoder tap
    the same on the way up; a stage is the outermost module that stays at the strides of its input and output. Of more
    levels than roles the first, the last and some evenly between are taken. Of fewer, further blocks of the deepest
    levels fill in, as far as there are blocks; else e4, then e3 and d5, then d4 are left out. Outputs that nothing
    leads from to the logits are no taps, nor are the logits themselves.

    Args:
        sizes: as for `dry_run`.

    Raises:
        InputError: as `dry_run`, or the network gives no logits.
    """
    (root, runs, logits), size = dry_run(
        network,
        lambda probe, image: trace(probe, image, dims),
        in_channels=in_channels,
        dims=dims,
        sizes=sizes,
    )
    once = {run.name for run in runs if run.calls == 1}
    searches = [_Search(once, logits, *into) for into in product((False, True), repeat=4)]
    best = max((_Paths(search, root) for search in searches), key=lambda paths: paths.levels)  # the first of equals
    return Discovery(size, _in_order(best.taps(), runs, dims), tuple(runs), logits)


def _in_order(taps: dict[str, str], runs: Sequence[ModuleRun], dims: int) -> dict[str, str]:
    """Without taps whose strides go back along one axis, as they may where they differ by axis."""
    found = {run.name: run.tap.along(dims) for run in runs if run.tap is not None}
    kept: dict[str, str] = {}
    for path in (ENCODER, tuple(reversed(DECODER))):
        before = (0,) * dims
        for role in path:
            if role in taps and all(a <= b for a, b in zip(before, found[taps[role]], strict=True)):
                kept[role], before = taps[role], found[taps[role]]
    return {role: module for role, module in taps.items() if role in kept}


@dataclass(frozen=True)
class _Search:
    """How stages are looked for. What is not looked into is one stage, or none.

    Attributes:
        once: modules that were run once.
        logits: the network's output.
        into_lists: look into modules that give no feature map, or several: a transformer's inside is better seen
            through the convolutions that follow it, where there are any.
        into_ups: look into modules that enlarge one feature over several strides: a whole decoder, or one skip's way
            up from a transformer.
        into_loops: look into modules that go deeper and come back: a U-Net nested in skips, or an attention mask.
        into_logits: look into the module that gives the logits.
    """

    once: set[str]
    logits: Tensor
    into_lists: bool
    into_ups: bool
    into_loops: bool
    into_logits: bool

    def stages(self, call: Call) -> Iterator[Call]:
        """The outermost runs that stay at the strides of their input and output, in order."""
        for child in call.children:
            if child.depth is None:
                if child.output is None and self.into_lists:
                    yield from self.stages(child)
            elif self._look_into(child):
                yield from self.stages(child)
            elif child.leads and child.name in self.once and child.output is not self.logits:
                yield child

    def _look_into(self, call: Call) -> bool:
        if not call.children:
            return False
        if call.output is self.logits and self.into_logits:
            return True
        inside = {c.depth for c in call.inside() if c.depth is not None and c.weighs} - {call.depth}
        if not inside:  # a skip that is concatenated hides the feature beside it
            return len(call.children) == 1 and 0 < call.children[0].channels < call.channels
        if inside <= call.depths and len(inside) == 1 and len(call.depths) < 3:
            return False
        enlarges = len(call.inputs) == 1 and min(call.depths, default=0) > depth_of(call)
        returns = call.depths == {call.depth} and max(inside) > depth_of(call)
        return (self.into_ups or not enlarges) and (self.into_loops or not returns)


class _Paths:
    """The stages as a way down to the bottleneck and a way up."""

    def __init__(self, search: _Search, root: Call):
        self.once = search.once
        stages: list[Call] = []
        for stage in search.stages(root):
            same = stages and depth_of(stages[-1]) == depth_of(stage)
            if all(stage.output is not other.output for other in stages) and (same or stage.weighs):
                stages.append(stage)  # pooling, padding and enlarging alone make no level
        while stages and stages[-1].channels == search.logits.shape[1]:  # class scores that are yet to be enlarged
            stages.pop()
        deepest = max(map(depth_of, stages), default=1)
        end = next((i for i, stage in enumerate(stages) if depth_of(stage) == deepest), -1) + 1
        while end < len(stages) and depth_of(stages[end]) == deepest and not stages[end].merges:
            end += 1
        self.down, self.up = stages[:end], stages[end:]
        self.encoder, self.decoder = self._encoder(), self._decoder()

    @property
    def levels(self) -> int:
        """How many roles have a stride of their own."""
        return min(len(self.encoder), len(ENCODER)) + min(len(self.decoder), len(DECODER))

    def taps(self) -> dict[str, str]:
        """Role -> module."""
        encoder = self._choose(self.encoder, self.down, len(ENCODER))
        decoder = self._choose(self.decoder, self.up, len(DECODER))
        roles = [*ENCODER[: len(encoder) - 1], *ENCODER[-1:]] if encoder else []
        roles += DECODER[len(DECODER) - len(decoder) :]
        return dict(zip(roles, [call.name for call in (*encoder, *decoder)], strict=True))

    def _encoder(self) -> list[Call]:
        """Of each stride the last stage before a deeper one, shallow to deep."""
        last: list[Call] = []
        for depth in sorted(set(map(depth_of, self.down))):
            deeper = next((i for i, stage in enumerate(self.down) if depth_of(stage) > depth), len(self.down))
            last += [stage for stage in self.down[:deeper] if depth_of(stage) == depth][-1:]
        return last

    def _decoder(self) -> list[Call]:
        """Of each stride the last stage before a shallower one's, deep to shallow."""
        last: list[Call] = []
        end = len(self.up)
        for depth in sorted(set(map(depth_of, self.up))):
            place = next((i for i in range(end - 1, -1, -1) if depth_of(self.up[i]) == depth), None)
            if place is not None:
                last.insert(0, self.up[place])
                end = place
        return last

    def _choose(self, levels: list[Call], path: list[Call], wanted: int) -> list[Call]:
        """``wanted`` of the path's stages: evenly of the levels if there are more, else with others of the deepest."""
        if len(levels) > wanted:
            return [levels[round(i * (len(levels) - 1) / (wanted - 1))] for i in range(wanted)]
        chosen = list(levels)
        starts = [0, *(path.index(level) + 1 for level in levels)]
        for start, level in sorted(zip(starts, levels, strict=False), key=lambda pair: -depth_of(pair[1])):
            beside = path[start : path.index(level)]
            others = [s for s in beside if depth_of(s) == depth_of(level) and s.weighs] or self._blocks(level)
            take = min(wanted - len(chosen), len(others))
            place = chosen.index(level)
            chosen[place:place] = [others[(2 * i + 1) * len(others) // (2 * take)] for i in range(take)]
        return chosen

    def _blocks(self, stage: Call) -> list[Call]:
        """The blocks of a stage that is a sequence of them, but the last: that is the stage's own output."""
        if not isinstance(stage.module, nn.Sequential):
            return []
        return [
            block
            for block in stage.children
            if block.depth == stage.depth
            and block.output is not stage.output
            and block.name in self.once
            and block.children
            and block.weighs
        ]

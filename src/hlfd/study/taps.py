"""taps: what a network offers to distillation, and which methods it can take part in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from hlfd import plugins
from hlfd.distill._trace import ModuleRun
from hlfd.distill.discovery import discover
from hlfd.distill.dry_run import Size, dry_run, times
from hlfd.distill.features import DECODER, ENCODER, ROLES, TapInfo, Tapped
from hlfd.errors import InputError
from hlfd.sections import Plugin
from hlfd.segmenter import Segmenter, build_network
from hlfd.study.describe import read_options
from hlfd.teachers import open_pretrained
from hlfd.teachers._foreign import Foreign

SIZES = {2: 256, 3: 96}
"""Pixels an axis of the image that sizes are told for, unless asked otherwise."""


@dataclass(frozen=True)
class Tap:
    """One role of a network.

    Attributes:
        size: spatial size of the feature.
        module: that gives it; None for the logits.
        proposed: by a dry run, not declared.
    """

    role: str
    info: TapInfo
    size: Size
    module: str | None
    proposed: bool

    @property
    def meaning(self) -> str:
        """Of the role."""
        return "encoder" if self.role in ENCODER else "decoder" if self.role in DECODER else "output"


@dataclass(frozen=True)
class Overview:
    """A network as distillation sees it.

    Attributes:
        title: the network in a line.
        size: of the image that sizes are told for.
        taps: by role.
        modules: all that run, in order; sizes along the network's own axes.
        methods: method -> why the network can't be its student, and why not its teacher; None: it can.
    """

    title: str
    size: Size
    taps: tuple[Tap, ...]
    modules: tuple[ModuleRun, ...]
    methods: Mapping[str, tuple[str | None, str | None]]


def overview(
    network: str,
    options: Sequence[str] = (),
    *,
    size: int | None = None,
    dims: int = 2,
    classes: int = 3,
    in_channels: int = 1,
) -> Overview:
    """What a network offers.

    Args:
        network: a plug-in (``unet``, ``monai:SegResNet``), the dotted path of a class, or a model folder, ours or
            one that a teacher plug-in reads, which says itself what dims, classes and in_channels are.
        options: of the plug-in or the folder's reader, ``key=value`` as in a recipe.
        size: pixels an axis of the image that sizes are told for; None: `SIZES`, or the one the network accepts.

    Raises:
        InputError: no such network, a wrong option, an image that the network can't be run on.
    """
    folder = next((f for f in (Path(network), Path(network) / "model") if (f / "model.json").is_file()), None)
    if folder is not None:
        if options:
            raise InputError(f"{folder}: a model's options are its own, got {' '.join(options)}")
        model = Segmenter.load(folder)
        title, tapped = f"{folder}: {model.network_name}", model.network
    elif Path(network).is_dir() and network not in plugins.names("networks"):
        pretrained = open_pretrained(Path(network), **read_options(options))
        title, tapped = f"{network}: {pretrained.description}", pretrained.tapped
    else:
        chosen = Plugin(**{"name": network, **read_options(options)})
        chosen.check("networks")
        title = network
        tapped = build_network(chosen.name, chosen.options, classes, in_channels=in_channels, dims=dims)
    info = tapped.info()
    shape: Size = (size,) * tapped.dims if size else tapped.size or (_default_size(tapped),) * tapped.dims
    found = discover(tapped.network, in_channels=tapped.in_channels, dims=tapped.dims, sizes=(shape,))
    features, _ = dry_run(
        tapped, lambda probe, image: probe(image), in_channels=tapped.in_channels, dims=tapped.dims, sizes=(shape,)
    )
    sizes = {role: tuple(feature.shape[2:]) for role, feature in features.items()}
    parameters = sum(p.numel() for p in tapped.parameters())
    channels = f"{tapped.in_channels} channel{'s' if tapped.in_channels > 1 else ''}"
    return Overview(
        f"{title}, {tapped.dims}D, {channels} to {tapped.classes} classes, {parameters:,} parameters",
        shape,
        tuple(_taps(tapped, info, sizes)),
        found.modules,
        methods(info, tapped.classes),
    )


def _default_size(tapped: Tapped) -> int:
    """Pixels an axis: `SIZES`, of a network from elsewhere at least and a multiple of what it needs."""
    size, multiple = SIZES[tapped.dims], 2 * max(tapped.multiples) if isinstance(tapped, Foreign) else 1
    return -(-size // multiple) * multiple


def _taps(tapped: Tapped, info: Mapping[str, TapInfo], sizes: Mapping[str, Size]) -> list[Tap]:
    return [
        Tap(role, info[role], sizes[role], tapped.taps.get(role), role in tapped.proposed)
        for role in ROLES
        if role in info
    ]


def methods(info: Mapping[str, TapInfo], classes: int) -> dict[str, tuple[str | None, str | None]]:
    """Method -> why a network of these taps can't be its student and its teacher, beside one that has every tap."""
    whole = {role: TapInfo(classes if role == "logits" else 8, 1) for role in ROLES}

    def problem(name: str, student: Mapping[str, TapInfo], teacher: Mapping[str, TapInfo]) -> str | None:
        try:
            plugins.load("methods", name, student, teacher, classes=classes)
        except InputError as error:
            return str(error)
        return None

    return {
        name: (problem(name, info, whole), problem(name, whole, info))
        for name in plugins.names("methods")
        if not plugins.needs_argument("methods", name)
    }


def show(console: Console, found: Overview, *, every_module: bool = False) -> None:
    """Print it: taps, methods and, if asked, every module."""
    console.print(found.title, markup=False, highlight=False)
    taps = _table("tap", "is", ">channels", ">stride", f">of {times(found.size)}", "module", "")
    for tap in found.taps:
        origin = "" if tap.module is None else "proposed" if tap.proposed else "declared"
        row = (tap.role, tap.meaning, str(tap.info.channels), str(tap.info), times(tap.size), tap.module or "-", origin)
        taps.add_row(*row)
    console.print(taps)
    if every_module:
        console.print(_modules(found))
    table = _table("method", "as student", "as teacher")
    reasons: dict[str, None] = {}
    for name, problems in found.methods.items():
        table.add_row(name, *("yes" if problem is None else "no" for problem in problems))
        reasons |= dict.fromkeys(f"{name}: {problem}" for problem in problems if problem is not None)
    console.print(table)
    for reason in reasons:
        console.print(reason, markup=False, highlight=False, soft_wrap=True)


def _modules(found: Overview) -> Table:
    roles: dict[str | None, str] = {tap.module: tap.role for tap in found.taps if tap.module}
    table = _table("module", "class", ">runs", ">channels", ">stride", ">size", "tap")
    for run in found.modules:
        shape = ("-", "-", "-") if run.tap is None else (str(run.tap.channels), str(run.tap), times(run.size))
        table.add_row(run.name, run.kind, str(run.calls), *shape, roles.get(run.name, ""))
    return table


def _table(*columns: str) -> Table:
    """``>`` before a column's title: to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        justify: Any = "right" if column.startswith(">") else "left"
        table.add_column(column.removeprefix(">"), justify=justify, overflow="fold", highlight=False)
    return table

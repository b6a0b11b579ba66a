"""The configuration of a MONAI bundle, read as data: nothing in it is evaluated."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.networks import nets
from torch import nn

from hlfd.errors import InputError, nearest
from hlfd.teachers._files import read_config

FILES = tuple(f"{name}.{suffix}" for name in ("inference", "train") for suffix in ("json", "yaml", "yml"))
NETWORKS = (
    *("AHNet", "AttentionUnet", "BasicUNet", "BasicUNetPlusPlus", "DynUNet", "FlexibleUNet", "HighResNet"),
    *("MedNeXt", "SegResNet", "SegResNetDS", "SwinUNETR", "UNet", "VNet"),
)


@dataclass(frozen=True)
class Config:
    """A bundle's inference.json (or .yaml, or train.json), with ``@key`` looked up and ``$...`` refused.

    Attributes:
        path: the file.
        values: what it says.
    """

    path: Path
    values: dict[str, Any]

    def plain(self, value: Any, key: str, way_out: str, seen: tuple[str, ...] = ()) -> Any:
        """``value``, found at ``key``, with its references resolved to plain values.

        Args:
            way_out: what the user can do where an expression would have to be evaluated.

        Raises:
            InputError: an expression, a reference that leads nowhere or in a circle, an object to be built.
        """
        if isinstance(value, dict):
            for name in ("_target_", "_mode_", "_disabled_"):
                if name in value:
                    raise InputError(f"{self.path}: {key}: expected plain values, got {name}: {way_out}")
            return {name: self.plain(v, f"{key}.{name}", way_out, seen) for name, v in value.items()}
        if isinstance(value, list):
            return [self.plain(v, f"{key}.{i}", way_out, seen) for i, v in enumerate(value)]
        if isinstance(value, str) and value.startswith("@"):
            if value in seen:
                raise InputError(f"{self.path}: {key}: {' -> '.join([*seen, value])} is a circle: {way_out}")
            return self.plain(self._at(value, key), key, way_out, (*seen, value))
        if isinstance(value, str) and value.startswith(("$", "%")):
            raise InputError(f"{self.path}: {key}: '{value}' is an expression, and none is evaluated: {way_out}")
        return value

    def _at(self, reference: str, key: str) -> Any:
        found: Any = self.values
        for part in reference.removeprefix("@").replace("::", "#").split("#"):
            if isinstance(found, list) and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, dict) and part in found:
                found = found[part]
            else:
                raise InputError(f"{self.path}: {key}: '{reference}' leads nowhere, there is no '{part}'")
        return found

    def transforms(self, *names: str, of: str = "image") -> list[tuple[str, dict[str, Any]]]:
        """Key and arguments of the transforms ``names``, wherever they stand, but those of other data than ``of``.

        A name is that of the class for arrays: "Spacing" is Spacingd, SpacingD and SpacingDict too.
        """
        others = {"image", "label", "pred"} - {of}
        return [
            (key, component)
            for key, component in _walk(self.values, "")
            if _target(component) in names and not _all_in(component.get("keys"), others)
        ]

    def argument(self, transform: str, name: str, way_out: str) -> tuple[str, Any] | None:
        """Key and plain value of an argument of the transform, None if there is no such transform.

        Raises:
            InputError: an expression, or the transform stands there several times with different values.
        """
        found: list[tuple[str, Any]] = []
        for key, component in self.transforms(transform):
            found.append((f"{key}.{name}", self.plain(component.get(name), f"{key}.{name}", way_out)))
        for key, value in found[1:]:
            if value != found[0][1]:
                raise InputError(f"{self.path}: {key} is {value}, and {found[0][0]} is {found[0][1]}: {way_out}")
        return found[0] if found else None


def _target(component: dict[str, Any]) -> str:
    """The class of a component, without package and without the suffix of those for dictionaries."""
    return re.sub("(Dict|D|d)$", "", str(component.get("_target_", "")).rpartition(".")[2])


def _all_in(keys: Any, others: set[str]) -> bool:
    return all(isinstance(key, str) and key in others for key in (keys if isinstance(keys, list) else [keys]))


def _walk(value: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        if value.get("_disabled_") in (True, "true", "True"):
            return
        if "_target_" in value:
            yield key, value
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from _walk(inner, f"{key}.{name}" if key else str(name))


def find_config(folder: Path) -> Path | None:
    """The bundle's configuration: for inference or, if there is none, for training."""
    return next((folder / "configs" / name for name in FILES if (folder / "configs" / name).is_file()), None)


def read(folder: Path) -> Config:
    """Read the bundle's configuration."""
    path = find_config(folder)
    if path is None:
        raise InputError(f"{folder / 'configs'}: expected one of {', '.join(FILES)}, found none")
    return Config(path, read_config(path))


def build_network(config: Config, stated: dict[str, Any] | None) -> tuple[nn.Module, str, int]:
    """The network with fresh weights, its class's name and its number of spatial axes.

    Args:
        stated: the user's definition, which replaces the bundle's: ``{_target_: SegResNet, ...}``.

    Raises:
        InputError: no definition, a class that isn't one of `NETWORKS` of MONAI, arguments it can't take.
    """
    way_out = "give the network with plain values as the option network: {_target_: ..., ...}"
    key = "network_def" if stated is None else "network"
    definition: Any = config.values.get("network_def", config.values.get("network")) if stated is None else stated
    where = str(config.path) if stated is None else "the option network"
    if not isinstance(definition, dict) or "_target_" not in definition:
        raise InputError(f"{where}: {key}: expected a class and its arguments, got {definition!r}: {way_out}")
    package, _, name = str(definition["_target_"]).rpartition(".")
    network = getattr(nets, name, None)
    kind = network.__name__ if isinstance(network, type) else ""
    if kind not in NETWORKS or not f"{package}.".startswith(("monai.networks.nets.", ".")):
        got = definition["_target_"]
        raise InputError(f"{where}: {key}._target_: '{got}' is not supported{nearest(name, NETWORKS)}")
    given = {k: v for k, v in definition.items() if k not in ("_target_", "_desc_")}
    arguments: dict[str, Any] = config.plain(given, key, way_out)
    if "pretrained" in arguments:  # it would download what the bundle's weights replace
        arguments["pretrained"] = False
    try:
        built: Any = getattr(nets, name)(**arguments)
    except Exception as error:  # whatever a class does with arguments it wasn't made for
        problem = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: {key}: {kind} can't be built: {problem}: {way_out}") from None
    dims: Any = arguments.get("spatial_dims", arguments.get("dimensions", 3))
    if dims not in (2, 3):
        raise InputError(f"{where}: {key}.spatial_dims: expected 2 or 3, got {dims!r}")
    return built, kind, dims

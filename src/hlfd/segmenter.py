"""Segmenter: a trained network with its preprocessing and labels, in a folder without pickle."""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import safetensors
import safetensors.torch
import torch

from hlfd import plugins
from hlfd.data.postprocess import Postprocess
from hlfd.data.preprocess import Preprocess
from hlfd.distill.features import Tapped
from hlfd.errors import InputError
from hlfd.io.files import write_atomic, write_json
from hlfd.labels import Labels

VERSION = 1

PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt")
"""Names of files that are usually pickles."""


@dataclass(frozen=True)
class Segmenter:
    """What it takes to segment a CT volume, and nothing of the training.

    Attributes:
        network: the network, in eval mode.
        network_name, network_options: the plug-in that rebuilds it.
        preprocess: what was done to the images it learned from.
        labels: what its classes mean.
        learned_from: `patient_keys` of the patients used to train it or to choose it.
        postprocess: what is done to its label maps.
        facts: how it was made: recipe, seed, method, scores. For people; nothing reads it to decide.
    """

    network: Tapped
    network_name: str
    network_options: Mapping[str, Any]
    preprocess: Preprocess
    labels: Labels
    learned_from: frozenset[str] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    postprocess: Postprocess = field(default_factory=Postprocess)

    def __post_init__(self) -> None:
        self.network.eval()
        if self.network.classes != self.labels.classes:
            raise InputError(f"network of {self.network.classes} classes, labels of {self.labels.classes}")
        self.postprocess.require_fits(self.labels)

    @property
    def parameters(self) -> int:
        """Number of trainable values of the network."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def description(self) -> str:
        """Class indices and their names, for a NIfTI header: ``hlfd 1=kidney 2=tumor``."""
        return "hlfd " + " ".join(f"{i}={name}" for i, name in enumerate(self.labels.names, 1))

    @cached_property
    def multiple(self) -> tuple[int, ...]:
        """What each spatial axis of the network's input must be a multiple of."""
        return self.network.multiple()

    @property
    def device(self) -> torch.device:
        """Where the network runs; one in an exported file takes its input from the CPU."""
        return next((p.device for p in self.network.parameters()), torch.device("cpu"))

    def described(self) -> dict[str, Any]:
        """All but the weights and the patients' keys, as JSON: what `Description.of` reads."""
        return {
            "version": VERSION,
            "network": {"name": self.network_name, **self.network_options},
            "in_channels": self.network.in_channels,
            "dims": self.network.dims,
            "preprocess": self.preprocess.model_dump(mode="json"),
            "postprocess": self.postprocess.model_dump(mode="json"),
            "labels": {
                "names": list(self.labels.names),
                "regions": {k: list(v) for k, v in self.labels.regions.items()},
                "raw": {str(k): v for k, v in self.labels.raw.items()},
            },
            "facts": dict(self.facts),
            "versions": versions(),
            "notice": "Research use only. Not a medical device.",
        }

    def save(self, folder: Path) -> Path:
        """Write ``model.safetensors`` and, last, ``model.json``, each atomically."""
        weights = safetensors.torch.save({k: v.contiguous() for k, v in self.network.network.state_dict().items()})
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "model.safetensors", weights)
        keys = {"weights_sha256": hashlib.sha256(weights).hexdigest(), "learned_from": sorted(self.learned_from)}
        write_json(folder / "model.json", self.described() | keys)
        return folder

    @classmethod
    def load(cls, folder: Path, *, allow: Iterable[str] = ()) -> Self:
        """Read a folder written by `save`.

        A folder holds no code, but may name some: a network that is a dotted path (``my_package.nets.Net``) is
        imported from what is installed. As a folder can come from anywhere, that is done only if somebody else asked
        for it: ``allow``, the environment's HLFD_ALLOW (packages, comma between), or a recipe or a program that named
        the same path before in this process.

        Args:
            allow: packages, or dotted paths, that may be imported.

        Raises:
            InputError: no model there, another version, weights that are damaged or of another network, a network that
                may not be imported, a pickle beside the model.
        """
        path, weights_path = folder / "model.json", folder / "model.safetensors"
        for needed in (path, weights_path):
            if not needed.is_file():
                raise InputError(f"{needed}: no such file; expected a folder with model.json and model.safetensors")
        for other in sorted(folder.iterdir()):
            if other.suffix.lower() in PICKLES:
                raise InputError(
                    f"{other}: refused, a pickle can run code when it is read; expected model.json and "
                    "model.safetensors alone in a model folder"
                )
        known = read_description(path)
        described = Description.of(known, path)
        try:
            sha256, learned_from = known["weights_sha256"], frozenset[str](known["learned_from"])
        except (KeyError, TypeError) as error:
            raise _not_described(path, error) from None
        weights = weights_path.read_bytes()
        if hashlib.sha256(weights).hexdigest() != sha256:
            raise InputError(f"{weights_path}: damaged, or not the weights that model.json beside it describes")
        name = described.network_name
        _require_allowed(name, allow, path)
        try:
            network = build_network(
                name,
                described.network_options,
                described.labels.classes,
                in_channels=described.in_channels,
                dims=described.dims,
            )
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        try:
            network.network.load_state_dict(safetensors.torch.load(weights))
        except (RuntimeError, safetensors.SafetensorError) as error:
            problem = " ".join(str(error).split())[:200]
            raise InputError(f"{weights_path}: does not fit network '{name}': {problem}") from None
        return cls.of(described, network, learned_from)

    @classmethod
    def of(cls, described: "Description", network: Tapped, learned_from: frozenset[str] = frozenset()) -> Self:
        """A network as it is described."""
        d = described
        return cls(
            network, d.network_name, d.network_options, d.preprocess, d.labels, learned_from, d.facts, d.postprocess
        )


class Description(NamedTuple):
    """What a description says, as `Segmenter.described` wrote it."""

    network_name: str
    network_options: dict[str, Any]
    in_channels: int
    dims: int
    preprocess: Preprocess
    labels: Labels
    facts: dict[str, Any]
    postprocess: Postprocess

    @classmethod
    def of(cls, known: Mapping[str, Any], path: Path) -> "Description":
        """From what was read of ``path``. Raises `InputError` for a key that is missing or can't be."""
        try:
            raw, options = known["labels"], dict(known["network"])
            labels = Labels(
                {int(k): v for k, v in raw["raw"].items()},
                {k: tuple(v) for k, v in raw["regions"].items()},
                tuple(raw["names"]),
            )
            _require_sound(labels)
            name, preprocess = options.pop("name"), Preprocess(**known["preprocess"])
            postprocess = Postprocess(**known.get("postprocess", {}))
            facts = dict(known["facts"])
            return cls(name, options, known["in_channels"], known["dims"], preprocess, labels, facts, postprocess)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _not_described(path, error) from None


def _require_sound(labels: Labels) -> None:
    """A model can come from anybody, and files are called after its labels. Raises ValueError."""
    names: tuple[Any, ...] = (*labels.names, *labels.regions)
    for name in names:
        if not isinstance(name, str) or not name.strip(". ") or any(c in name for c in "/\\\0"):
            raise ValueError(f"labels: expected names that can be file names, got {name!r}")
    for name, members in labels.regions.items():
        known: tuple[Any, ...] = members
        if not all(type(member) is int and 0 < member < labels.classes for member in known):
            raise ValueError(f"labels: region {name}: expected classes from 1 to {labels.classes - 1}, got {known}")


def read_description(path: Path) -> dict[str, Any]:
    """A JSON file of `VERSION`. Raises `InputError` for another version, or anything else."""
    try:
        known = json.loads(path.read_text())
        version = known.get("version")
    except (AttributeError, ValueError) as error:
        raise _not_described(path, error) from None
    if version != VERSION:
        newer = "; it was written by a newer hlfd" if isinstance(version, int) and version > VERSION else ""
        raise InputError(f"{path}: expected a model of version {VERSION}, got version {version}{newer}")
    return known


def _not_described(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a model description, {' '.join(repr(error).split())}")


def build_network(
    name: str, options: Mapping[str, Any], classes: int, *, in_channels: int = 1, dims: int = 2
) -> Tapped:
    """A network plug-in with fresh weights.

    Args:
        name: of the plug-in, ``PLUGIN:ARGUMENT`` or a dotted path.
        options: of the plug-in; and of every one, ``taps``: role -> module, over the network's own taps.
    """
    checked = plugins.options("networks", name, dict(options), given=("in_channels", "classes", "dims"))
    taps: Mapping[str, str | None] = checked.pop("taps", {})
    network: Tapped = plugins.load("networks", name, in_channels=in_channels, classes=classes, dims=dims, **checked)
    if not taps:
        return network
    try:
        network = network.with_taps(taps)
        network.info()
    except InputError as error:
        raise InputError(f"network '{name}': {error}") from None
    return network


def _require_allowed(name: str, allow: Iterable[str], path: Path) -> None:
    target = name.removeprefix("imported:")
    if "." not in target or target in plugins.asked_for():
        return
    allowed = [*allow, *filter(None, os.environ.get("HLFD_ALLOW", "").split(","))]
    if not any(target == known or target.startswith(f"{known}.") for known in allowed):
        package = target.partition(".")[0]
        raise InputError(
            f"{path}: its network '{name}' is code that is not part of hlfd; if you trust it, allow it: "
            f"HLFD_ALLOW={package} in the environment, or Segmenter.load(folder, allow=['{package}'])"
        )


def patient_keys(data: str, patients: Iterable[str]) -> frozenset[str]:
    """Keys by which patients are compared between models, without writing their ids into a model.

    Args:
        data: name of the data set's folder; ids are unique in one data set only.
    """
    return frozenset(hashlib.sha256(f"{data}/{p}".encode()).hexdigest()[:16] for p in patients)


def versions() -> dict[str, str]:
    """Versions of what computes."""
    from importlib.metadata import version

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{p: version(p) for p in ("hlfd", "monai")},
    }

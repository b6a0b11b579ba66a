"""Files of models from elsewhere, read as data: descriptions against a schema, weights without running code."""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch
import yaml
from numpy._core.multiarray import scalar
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from hlfd.errors import InputError, unreadable
from hlfd.plugins import first_problem

Schema = TypeVar("Schema", bound=BaseModel)

# What training loops log beside the weights: numpy's numbers. The function has moved between numpy 1 and 2.
NUMBERS: list[Any] = [
    (scalar, "numpy._core.multiarray.scalar"),
    (scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    *[type(np.dtype(name)) for name in ("bool", "int32", "int64", "float16", "float32", "float64")],
]

WRAPPERS = ("module.", "_orig_mod.")
"""What distributed training and torch.compile put before the names of weights."""


def read_config(path: Path) -> dict[str, Any]:
    """A JSON or YAML file of keys and values.

    Raises:
        InputError: no such file, or something else in it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    kind = "JSON" if path.suffix == ".json" else "YAML"
    try:
        text = path.read_text()
        values = json.loads(text) if kind == "JSON" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise unreadable(path, kind, error) from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected keys with values, got {type(values).__name__}")
    return values


def described(values: Any, schema: type[Schema], where: str) -> Schema:
    """``values`` as ``schema`` wants them; the first problem as an `InputError`."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problem = first_problem(error)
        raise InputError(f"{where}: {problem if len(problem) < 300 else problem[:300] + ' ...'}") from None


def read_weights(path: Path) -> dict[str, Any]:
    """What torch.save or safetensors wrote, if it is tensors, numbers, text and containers of these.

    Raises:
        InputError: no such file, a damaged one, or a pickle that names functions to run: none of them is run.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return dict(safetensors.torch.load_file(path))
        except (OSError, safetensors.SafetensorError) as error:
            raise unreadable(path, "weights as safetensors", error) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            values = _load(path)
        except Exception as error:  # whatever a file that is no checkpoint provokes in the reader
            if wants := _functions_in(path, error):
                raise InputError(
                    f"{path}: refused, reading it would run code ({', '.join(wants[:3])}); expected tensors, numbers "
                    "and text alone: save the state dict by itself"
                ) from None
            # torch's own words would advise to read the file without this protection
            script = "TorchScript" in str(error)
            got = "a file of TorchScript" if script else f"a damaged or other file ({type(error).__name__})"
            raise InputError(f"{path}: expected tensors, numbers and text of torch.save, got {got}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a dictionary of weights, got {type(values).__name__}")
    return values


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        with torch.serialization.safe_globals(NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)


def _functions_in(path: Path, error: Exception) -> list[str]:
    """The functions and classes that a checkpoint names beside those that are harmless; none if it can't be told."""
    named = re.findall(r"GLOBAL ([\w.]+)", str(error))
    try:
        with torch.serialization.safe_globals(NUMBERS):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)) or named
    except Exception:  # a file that is no checkpoint, or of the time before torch 1.6
        return named


def load_weights(network: nn.Module, weights: Any, path: Path) -> None:
    """Put a state dict into ``network``, every tensor of it.

    Raises:
        InputError: for the first tensor that is missing, left over or of another shape.
    """
    name = type(network).__name__
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path}: expected a state dict, names with tensors, for {name}")
    given: dict[str, Tensor] = {}
    for key, value in weights.items():
        stripped = str(key)
        while stripped.startswith(WRAPPERS):
            stripped = stripped.removeprefix(WRAPPERS[0]).removeprefix(WRAPPERS[1])
        given[stripped] = value
    wanted = network.state_dict()
    for key, value in wanted.items():
        if key not in given:
            raise InputError(f"{path}: does not fit {name}: it has no '{key}'")
        if given[key].shape != value.shape:
            expected, got = tuple(value.shape), tuple(given[key].shape)
            raise InputError(f"{path}: does not fit {name}: '{key}' is {got}, expected {expected}")
    for key in given:
        if key not in wanted:
            raise InputError(f"{path}: does not fit {name}, which has no '{key}'")
    network.load_state_dict(given)

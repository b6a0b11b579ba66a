"""Network classes that were not written for this library: what their constructor asks for, and building them."""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from hlfd.distill.dry_run import Size, missing_package, one_line
from hlfd.errors import InputError, nearest

GIVEN = {
    "in_channels": ("in_channels", "in_chans", "input_channels", "n_channels"),
    "classes": ("classes", "num_classes", "n_classes", "out_channels", "output_channels"),
    "dims": ("dims", "spatial_dims", "dimensions", "ndim"),
}
"""What a recipe decides -> the names by which constructors call it; the first that is declared is filled in."""

IMAGE_SIZE = ("img_size", "image_size", "input_size")
"""Names by which constructors call the one image size that their network accepts."""


def filled_in(network: type[nn.Module]) -> dict[str, str]:
    """Of `GIVEN` what the constructor declares -> its name for it."""
    declared = inspect.signature(network).parameters
    found = {what: next((name for name in names if name in declared), None) for what, names in GIVEN.items()}
    return {what: name for what, name in found.items() if name is not None}


def defaults(network: type[nn.Module]) -> dict[str, Any]:
    """The constructor's options with their defaults; ``...`` for one that must be given."""
    given = filled_in(network).values()
    return {
        name: ... if p.default is p.empty else p.default
        for name, p in inspect.signature(network).parameters.items()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and name not in given
    }


def check(network: type[nn.Module], options: Mapping[str, Any]) -> None:
    """Raise `InputError` for an option that the constructor doesn't have, or one that is missing."""
    known, given = defaults(network), filled_in(network)
    anything = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(network).parameters.values())
    for name in options:
        for what, theirs in given.items():
            if name == theirs:
                raise InputError(f"'{name}' is no option: it is filled in with the recipe's {what}")
        if name not in known and not anything:
            raise InputError(f"there is no option '{name}'{nearest(name, known)}")
    for name, default in known.items():
        if default is ... and name not in options:
            raise InputError(f"'{name}' is missing: {network.__name__} has no default for it")


def construct(network: type[nn.Module], options: Mapping[str, Any], **given: int) -> nn.Module:
    """Build it. ``given`` are the values of `GIVEN`. Whatever the constructor raises is an `InputError` of one line."""
    names = filled_in(network)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return network(**{names[what]: value for what, value in given.items() if what in names}, **options)
    except ImportError as error:
        raise missing_package(error) from error
    except Exception as error:  # anyone's constructor
        raise InputError(f"{network.__name__} can't be built with these options: {one_line(error)}") from error


def only_size(network: type[nn.Module], options: Mapping[str, Any], dims: int) -> Size | None:
    """The image size that the constructor is told, by one of the names in `IMAGE_SIZE`; `InputError` if it is none."""
    known = defaults(network) | dict(options)
    name = next((name for name in IMAGE_SIZE if known.get(name, ...) is not ...), None)
    size: Any = known[name] if name else None
    if size is None:
        return None
    axes: list[Any] = [size] * dims if isinstance(size, int) else [*size] if isinstance(size, list | tuple) else []
    if [type(pixels) for pixels in axes] != [int] * dims or min(axes) < 1:
        raise InputError(f"'{name}': expected a number of pixels, or one for each of {dims} axes, got {size!r}")
    return tuple(axes)

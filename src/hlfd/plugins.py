"""Sections of a recipe, and plug-ins: the module's name is the plug-in's name, its ``build`` signature its options."""

import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from hlfd.errors import InputError, nearest

Kind = Literal["methods", "networks", "sources"]


class Section(BaseModel):
    """Base of every part of a recipe: keyword-only, frozen, an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def names(kind: Kind) -> list[str]:
    """Names of the plug-ins of a kind: our modules, and entry points of the group ``hlfd.<kind>``."""
    package = importlib.import_module(f"hlfd.{kind}")
    ours = {m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")}
    theirs = {point.name for point in importlib.metadata.entry_points(group=f"hlfd.{kind}")}
    return sorted(ours | theirs)


def module(kind: Kind, name: str) -> ModuleType:
    """The plug-in's module. ``name`` is one of `names`, or a third party's dotted module path."""
    for point in importlib.metadata.entry_points(group=f"hlfd.{kind}", name=name):
        return point.load()
    dotted = "." in name.strip(".")
    if not dotted and name not in names(kind):
        raise InputError(f"there is no {kind[:-1]} '{name}'{nearest(name, names(kind))}")
    path = name if dotted else f"hlfd.{kind}.{name}"
    try:
        found = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise  # the plug-in exists and one of its own imports is missing
        raise InputError(f"{kind[:-1]} '{name}': no module of that name can be imported") from None
    if not callable(getattr(found, "build", None)):
        raise InputError(f"{kind[:-1]} '{name}': the module has no function build()")
    return found


def defaults(kind: Kind, name: str, given: Iterable[str] = ()) -> dict[str, Any]:
    """A plug-in's options with their defaults; ``...`` for one that must be given."""
    return {
        key: ... if p.default is p.empty else p.default
        for key, p in inspect.signature(module(kind, name).build).parameters.items()
        if p.kind is p.KEYWORD_ONLY and key not in set(given)
    }


def summary(kind: Kind, name: str) -> str:
    """First line of the plug-in's documentation."""
    found = module(kind, name)
    return (inspect.getdoc(found.build) or inspect.getdoc(found) or "").strip().split("\n")[0]


def options(kind: Kind, name: str, values: dict[str, Any], given: Iterable[str] = ()) -> dict[str, Any]:
    """Check a plug-in's options against the signature of its ``build`` without calling it.

    Args:
        values: the user's options.
        given: parameters that the caller will supply, which therefore are no options.

    Raises:
        InputError: for an option that does not exist (with the nearest that does) or a value it can't take.
    """
    build = module(kind, name).build
    parameters = {
        key: p
        for key, p in inspect.signature(build, eval_str=True).parameters.items()
        if p.kind is p.KEYWORD_ONLY and key not in set(given)
    }
    for key in values:
        if key not in parameters:
            raise InputError(f"{kind[:-1]} '{name}' has no option '{key}'{nearest(key, parameters)}")
    fields: dict[str, Any] = {
        key: (p.annotation, ... if p.default is p.empty else p.default) for key, p in parameters.items()
    }
    schema = create_model(name.replace(".", "_"), __config__=ConfigDict(arbitrary_types_allowed=True), **fields)
    try:
        checked = schema(**values)
    except ValidationError as error:
        raise InputError(f"{kind[:-1]} '{name}': {first_problem(error)}") from None
    return {key: getattr(checked, key) for key in values}


def load(kind: Kind, name: str, *given: Any, **values: Any) -> Any:
    """Build a plug-in: ``load("networks", "unet", in_channels=1, classes=2, width=8)``."""
    build: Callable[..., Any] = module(kind, name).build
    return build(*given, **options(kind, name, values))


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's complaints as one line: key, what was expected, what came."""
    problem = error.errors()[0]
    if problem["type"] == "value_error" and "ctx" in problem:  # raised by a check of ours, which says it all
        return str(problem["ctx"]["error"])
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"'{key}' is missing"
    return f"'{key}': {problem['msg'][0].lower() + problem['msg'][1:]}, got {problem['input']!r}"

"""Sections of a recipe, and plug-ins: the module's name is the plug-in's name, its ``build`` signature its options."""

import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from hlfd.errors import InputError, nearest

Kind = Literal["methods", "networks", "sources", "teachers", "exporters"]

COMMON: dict[Kind, dict[str, inspect.Parameter]] = {
    "networks": {
        "taps": inspect.Parameter("taps", inspect.Parameter.KEYWORD_ONLY, default={}, annotation=dict[str, str | None])
    }
}
"""Options that every plug-in of a kind has. ``taps``: role -> module, over the network's own; null takes one away."""


class Section(BaseModel):
    """Base of every part of a recipe: keyword-only, frozen, an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def names(kind: Kind) -> list[str]:
    """Names of the plug-ins of a kind: our modules, and entry points of the group ``hlfd.<kind>``."""
    theirs = {point.name for point in importlib.metadata.entry_points(group=f"hlfd.{kind}")}
    return sorted(_ours(kind) | theirs)


def _ours(kind: Kind) -> set[str]:
    package = importlib.import_module(f"hlfd.{kind}")
    return {m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")}


def resolve(kind: Kind, name: str) -> tuple[ModuleType, str | None]:
    """The plug-in's module and what it is to build, if the plug-in needs to be told.

    Args:
        name: one of `names`; ``PLUGIN:ARGUMENT``; a third party's dotted module path; or any other dotted path, which
            is the argument of the plug-in ``imported``, if the kind has one.

    Raises:
        InputError: there is no such plug-in, or a package is missing that it imports.
    """
    plugin, colon, argument = name.partition(":")
    found, dotted, ours = None, "." in plugin.strip("."), plugin in _ours(kind)
    if not dotted and not ours:  # looking through all that is installed takes a while
        point = next(iter(importlib.metadata.entry_points(group=f"hlfd.{kind}", name=plugin)), None)
        if point is None:
            raise InputError(f"there is no {kind[:-1]} '{plugin}'{nearest(plugin, names(kind))}")
        try:
            found = point.load()
        except Exception as error:  # anyone's code
            raise InputError(
                f"{kind[:-1]} '{name}' can't be imported: {import_problem(error, point.module)}"
            ) from error
    if found is None:
        path = f"hlfd.{kind}.{plugin}" if ours else plugin
        try:
            found = importlib.import_module(path)
        except Exception as error:  # anyone's code
            if not (isinstance(error, ModuleNotFoundError) and error.name and f"{path}.".startswith(f"{error.name}.")):
                raise InputError(f"{kind[:-1]} '{name}' can't be imported: {import_problem(error, path)}") from error
            if dotted and not colon and "imported" in _ours(kind):
                return module(kind, "imported"), name
            raise InputError(f"{kind[:-1]} '{name}': no module of that name can be imported") from None
        if not callable(getattr(found, "build", None)):
            raise InputError(f"{kind[:-1]} '{name}': the module has no function build()")
    if colon and not _takes_argument(found):
        raise InputError(f"{kind[:-1]} '{plugin}' takes nothing after a colon, got '{argument}'")
    return found, argument if colon else None


def module(kind: Kind, name: str) -> ModuleType:
    """The plug-in's module; see `resolve`."""
    return resolve(kind, name)[0]


def needs_argument(kind: Kind, name: str) -> bool:
    """Whether the plug-in builds many things and must be told which: ``PLUGIN:ARGUMENT``."""
    return _takes_argument(module(kind, name))


def _takes_argument(plugin: ModuleType) -> bool:
    first = next(iter(inspect.signature(plugin.build).parameters.values()), None)
    return first is not None and first.kind is first.POSITIONAL_ONLY and first.name == "argument"


def import_problem(error: Exception, path: str) -> str:
    """Why the module ``path`` can't be imported, in a line: a package that it needs, or what its code raises."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs the package '{error.name}', which is not installed"
    if isinstance(error, ImportError | InputError):
        return str(error)
    parts = path.split(".")
    prefixes = [".".join(parts[: end + 1]) for end in range(len(parts))]
    failed = next((prefix for prefix in prefixes if prefix not in sys.modules), path)  # import takes it out again
    return f"module '{failed}' raises {type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _parameters(kind: Kind, name: str, given: Iterable[str]) -> dict[str, inspect.Parameter]:
    signature = inspect.signature(module(kind, name).build, eval_str=True)
    declared = {k: p for k, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY and k not in set(given)}
    return COMMON.get(kind, {}) | declared


def defaults(kind: Kind, name: str, given: Iterable[str] = ()) -> dict[str, Any]:
    """A plug-in's options with their defaults; ``...`` for one that must be given."""
    own = {k: ... if p.default is p.empty else p.default for k, p in _parameters(kind, name, given).items()}
    plugin, argument = resolve(kind, name)
    theirs: Callable[..., dict[str, Any]] | None = getattr(plugin, "defaults", None)
    return own if argument is None or theirs is None else own | theirs(argument)


def summary(kind: Kind, name: str) -> str:
    """First line of the plug-in's documentation."""
    found = module(kind, name)
    return (inspect.getdoc(found.build) or inspect.getdoc(found) or "").strip().split("\n")[0]


def options(kind: Kind, name: str, values: dict[str, Any], given: Iterable[str] = ()) -> dict[str, Any]:
    """Check a plug-in's options against the signature of its ``build`` without calling it.

    A ``build`` that takes any options (``**options``) can say in its module which are good: ``check(argument,
    options)`` raises `InputError`. ``defaults(argument)`` there gives them with their defaults, for `defaults`.

    Args:
        values: the user's options.
        given: parameters that the caller will supply, which therefore are no options.

    Raises:
        InputError: for an option that does not exist (with the nearest that does) or a value it can't take.
    """
    plugin, argument = resolve(kind, name)
    if argument is None and _takes_argument(plugin):
        raise InputError(f"{kind[:-1]} '{name}' needs to be told what to build: {name}:NAME")
    if "." in name:
        _asked_for.add(name.removeprefix("imported:"))
    parameters = _parameters(kind, name, given)
    extra = {k: v for k, v in values.items() if k not in parameters}
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(plugin.build).parameters.values()):
        check: Callable[..., None] | None = getattr(plugin, "check", None)
        with _named(kind, name):
            if check is not None:
                check(argument, extra)
    else:
        for key in extra:
            raise InputError(f"{kind[:-1]} '{name}' has no option '{key}'{nearest(key, parameters)}")
    fields: dict[str, Any] = {
        key: (Any if p.annotation is p.empty else p.annotation, ... if p.default is p.empty else p.default)
        for key, p in parameters.items()
    }
    schema = create_model(re.sub(r"\W", "_", name), __config__=ConfigDict(arbitrary_types_allowed=True), **fields)
    try:
        checked = schema(**{k: v for k, v in values.items() if k not in extra})
    except ValidationError as error:
        raise InputError(f"{kind[:-1]} '{name}': {first_problem(error)}") from None
    return {key: extra[key] if key in extra else getattr(checked, key) for key in values}


def load(kind: Kind, name: str, *given: Any, **values: Any) -> Any:
    """Build a plug-in: ``load("networks", "unet", in_channels=1, classes=2, width=8)``.

    Options in `COMMON` are the caller's to apply: no ``build`` is given them.

    Raises:
        InputError: as `options`; what ``build`` raises, a third party's ValueError or TypeError among it.
    """
    plugin, argument = resolve(kind, name)
    checked = options(kind, name, values)
    build: Callable[..., Any] = plugin.build
    own = {key: value for key, value in checked.items() if key not in COMMON.get(kind, {})}
    try:
        if argument is None:
            return build(*given, **own)
        with _named(kind, name):
            return build(argument, *given, **own)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        if plugin.__name__.startswith(f"hlfd.{kind}."):
            raise  # a mistake of ours
        raise InputError(f"{kind[:-1]} '{name}': {' '.join(str(error).split()) or type(error).__name__}") from error


def asked_for() -> frozenset[str]:
    """Dotted names whose options a recipe or a program has had checked in this process."""
    return frozenset(_asked_for)


_asked_for: set[str] = set()


@contextmanager
def _named(kind: Kind, name: str) -> Generator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{kind[:-1]} '{name}': {error}") from error.__cause__


def place(parts: Sequence[int | str]) -> str:
    """Where pydantic complains, as a key with dots; without which of several types it had tried there."""
    return ".".join(text for part in parts if not re.search(r"\[|^bool$|Section$", text := str(part)))


def complaint(error: ValidationError) -> Any:
    """The first of pydantic's complaints; where several types were tried, of the one that the value is meant to be."""
    problems = error.errors()
    at = place(problems[0]["loc"])
    tried = [p for p in problems if place(p["loc"]).startswith(at)]
    return next((p for p in tried if not p["type"].endswith(("_type", "_parsing"))), problems[0])


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's complaints as one line: key, what was expected, what came."""
    problem = complaint(error)
    if problem["type"] == "value_error" and "ctx" in problem:  # raised by a check of ours, which says it all
        return str(problem["ctx"]["error"])
    key = place(problem["loc"])
    if problem["type"] == "missing":
        return f"'{key}' is missing"
    return f"'{key}': {problem['msg'][0].lower() + problem['msg'][1:]}, got {problem['input']!r}"

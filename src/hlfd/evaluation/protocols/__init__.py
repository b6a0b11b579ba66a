"""Protocols by name: a module here with a function ``build(**options) -> Protocol``, or a dotted path to one."""

import importlib
import inspect
import pkgutil
from typing import Any

from hlfd.errors import InputError, nearest
from hlfd.evaluation.protocol import Protocol, evaluate_case
from hlfd.evaluation.results import CaseResult, Lesion, Scores, read_evaluation, write_evaluation
from hlfd.evaluation.summary import summarize

__all__ = [
    "CaseResult",
    "Lesion",
    "Protocol",
    "Scores",
    "evaluate_case",
    "load",
    "names",
    "read_evaluation",
    "summarize",
    "write_evaluation",
]


def names() -> list[str]:
    """Names of the protocols."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str, **options: Any) -> Protocol:
    """Build a protocol.

    Args:
        name: one of `names`, or a third party's dotted module path.
        options: of its ``build``; one that is None is left at its default.

    Raises:
        InputError: there is no such protocol or option.
    """
    if name not in names() and "." not in name.strip("."):
        raise InputError(f"there is no protocol '{name}'{nearest(name, names())}")
    path = f"{__name__}.{name}" if name in names() else name
    try:
        build = importlib.import_module(path).build
    except (ImportError, AttributeError) as error:
        raise InputError(f"protocol '{name}': no module with a function build() can be imported: {error}") from None
    given = {key: value for key, value in options.items() if value is not None}
    known = inspect.signature(build).parameters
    for key in given:
        if key not in known:
            raise InputError(f"protocol '{name}' has no option '{key}'{nearest(key, known)}")
    return build(**given)

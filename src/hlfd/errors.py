"""The one exception a user's mistake raises. The command line shows its message as one line, exit code 2."""

import difflib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path


class InputError(ValueError):
    """Input that can't be used: the message names the file, case or key, what was expected and what came."""


class UndeclaredError(InputError):
    """A label file holds other labels than were declared: an option says what they mean, the file is sound."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the known word closest to ``word``, else the list of known words."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f" (did you mean '{close[0]}'? known: {', '.join(known)})"
    return f" (known: {', '.join(known) or 'none'})"


def unreadable(path: Path, expected: str, error: Exception) -> InputError:
    """The `InputError` for a file that its reader gave up on."""
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return InputError(f"{path}: expected {expected}, it can't be read: {reason}")


_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


def complain(message: str) -> None:
    """Raise an `InputError`; within `collecting`, note the message, and the caller leaves out what it is about."""
    found = _collected.get()
    if found is None:
        raise InputError(message)
    found.append(message)


@contextmanager
def collecting() -> Generator[list[str]]:
    """Within the block, `complain` adds its messages to the list and doesn't raise."""
    found: list[str] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)

"""The commands: each a few lines over one library function. Heavy imports wait until a command runs."""

import os
import signal
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Any, cast

import typer

from hlfd.cli._app import app

INTERRUPTED = 130
UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # click's, or that of the copy in newer typers

for module in (
    "whole",
    "study",
    "data",
    "training",
    "evaluation",
    "use",
    "deploy",
    "benchmark",
    "look",
):  # in the order of ``hlfd --help``
    import_module(f"hlfd.cli.{module}")


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, a failure at run time one line and 1.

    130 after Ctrl-C, 143 after SIGTERM, which ends what runs in the same way.
    """
    from hlfd import progress
    from hlfd.errors import InputError

    ended: list[int] = []

    def end(number: int, _: object) -> None:
        ended.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    progress.interrupted.clear()
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")  # file names that are no UTF-8 come out as they are
    sys.argv[1:] = sys.argv[1:] or ["--help"]
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:
            if not progress.interrupted:
                print("hlfd: interrupted; what is finished stays", file=sys.stderr)
            code = 128 + ended[0] if ended else INTERRUPTED
        sys.exit(code if isinstance(code, int) else 0)
    except UsageError as error:
        _stop(cast(Any, error).format_message(), 2)
    except InputError as error:
        _stop(str(error), 2)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        _stop(f"{os.strerror(error.errno) if error.errno else error}{where}; what is finished stays", 1)
    except MemoryError as error:
        _stop(f"not enough memory{f': {error}' if str(error) else ''}; what is finished stays", 1)
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(message: str, code: int) -> None:
    print(f"hlfd: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)

"""The commands: each a few lines over one library function. Heavy imports wait until a command runs."""

import os
import sys
from importlib import import_module

from hlfd.cli._app import app

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
    """Entry point: a user's mistake is one line and exit code 2, a failure at run time one line and 1."""
    from hlfd.errors import InputError

    try:
        app()
    except InputError as error:
        _stop(str(error), 2)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        _stop(f"{os.strerror(error.errno) if error.errno else error}{where}; what is finished stays", 1)
    except MemoryError as error:
        _stop(f"not enough memory{f': {error}' if str(error) else ''}; what is finished stays", 1)


def _stop(message: str, code: int) -> None:
    print(f"hlfd: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)

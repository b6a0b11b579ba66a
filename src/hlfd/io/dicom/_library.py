"""pydicom and highdicom: asked for when they are needed, kept from telling what they read."""

import hashlib
import importlib
import logging
import threading
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from types import ModuleType

from hlfd.errors import InputError

LOGGERS = ("pydicom", "highdicom", "pylibjpeg", "openjpeg")


def library(name: str = "pydicom") -> ModuleType:
    """The module of that name. Raises `InputError` that names the extra if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise InputError(f"DICOM needs {package}, which is not installed: pip install hlfd[dicom]") from None


@contextmanager
def quiet() -> Generator[None]:
    """No warnings of the libraries, no lines in their logs: they quote values, and a value may be the patient's name.

    For the whole process, from the first thread that enters to the last that leaves.
    """
    global _inside, _before  # noqa: PLW0603
    with _lock:
        _inside += 1
        if _inside == 1:
            _before = ExitStack()
            _before.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            for logger in map(logging.getLogger, LOGGERS):
                _before.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _before.close()


_lock, _inside, _before = threading.Lock(), 0, ExitStack()


def hashed(text: str, length: int = 8) -> str:
    """A short stand-in for an identifier: hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]

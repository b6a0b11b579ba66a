"""pydicom and highdicom: asked for when they are needed, kept from telling what they read."""

import hashlib
import importlib
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType

from hlfd.errors import InputError


def library(name: str = "pydicom") -> ModuleType:
    """The module of that name. Raises `InputError` that names the extra if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise InputError(f"DICOM needs {package}, which is not installed: pip install hlfd[dicom]") from None


@contextmanager
def quiet() -> Generator[None]:
    """No warnings of the libraries: they quote values, and a value may be the patient's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def hashed(text: str, length: int = 8) -> str:
    """A short stand-in for an identifier: hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]

"""Data sources: `recognise` says which one a folder is laid out for, `open_source` builds it.

Modules without an underscore are the plug-ins.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlfd.sources._open import open_source
    from hlfd.sources._recognise import recognise

_HOME = {"open_source": "hlfd.sources._open", "recognise": "hlfd.sources._recognise"}

__all__ = ["open_source", "recognise"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the plug-ins are imported through this package.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'hlfd.sources' has no attribute '{name}'")

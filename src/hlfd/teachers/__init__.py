"""Trained networks as teachers, whoever trained them: `open_pretrained` a folder, `view` says how it sees an image.

Modules without an underscore are the plug-ins, one for each kind of folder.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlfd.teachers._open import open_pretrained
    from hlfd.teachers._view import view

_HOME = {"open_pretrained": "hlfd.teachers._open", "view": "hlfd.teachers._view"}

__all__ = ["open_pretrained", "view"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the plug-ins are imported through this package.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'hlfd.teachers' has no attribute '{name}'")

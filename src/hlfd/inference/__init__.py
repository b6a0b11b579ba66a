"""A trained model in use: volumes in, label maps out on the same grid.

`predict` and `Predictor` are for programs; `run` is the command ``hlfd predict``, from files to files.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlfd.inference.predictor import Prediction, Predictor, predict

__all__ = ["Prediction", "Predictor", "predict"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the command reads its first image while torch is imported.
    if name in __all__:
        return getattr(importlib.import_module("hlfd.inference.predictor"), name)
    raise AttributeError(f"module 'hlfd.inference' has no attribute '{name}'")

"""Turn a large CT segmentation network into a small one, without losing the tumour. Research use only."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlfd.distill.discovery import tapped
    from hlfd.distill.distiller import Distiller
    from hlfd.distill.features import TapInfo, Tapped
    from hlfd.distill.frozen import FrozenTeacher
    from hlfd.distill.losses import ImportanceMapLoss, PixelLoss, SegmentationLoss
    from hlfd.distill.terms import Term
    from hlfd.errors import InputError
    from hlfd.inference import predict
    from hlfd.loading import load
    from hlfd.recipe import Recipe
    from hlfd.segmenter import Segmenter
    from hlfd.study.compare import compare
    from hlfd.volume import Volume

_HOME = {
    "Distiller": "hlfd.distill.distiller",
    "FrozenTeacher": "hlfd.distill.frozen",
    "ImportanceMapLoss": "hlfd.distill.losses",
    "InputError": "hlfd.errors",
    "PixelLoss": "hlfd.distill.losses",
    "Recipe": "hlfd.recipe",
    "SegmentationLoss": "hlfd.distill.losses",
    "Segmenter": "hlfd.segmenter",
    "TapInfo": "hlfd.distill.features",
    "Tapped": "hlfd.distill.features",
    "Term": "hlfd.distill.terms",
    "Volume": "hlfd.volume",
    "compare": "hlfd.study.compare",
    "load": "hlfd.loading",
    "predict": "hlfd.inference",
    "tapped": "hlfd.distill.discovery",
}

__all__ = [
    "Distiller",
    "FrozenTeacher",
    "ImportanceMapLoss",
    "InputError",
    "PixelLoss",
    "Recipe",
    "SegmentationLoss",
    "Segmenter",
    "TapInfo",
    "Tapped",
    "Term",
    "Volume",
    "compare",
    "load",
    "predict",
    "tapped",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `hlfd --help` doesn't wait for torch.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'hlfd' has no attribute '{name}'")

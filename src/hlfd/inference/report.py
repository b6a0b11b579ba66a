"""The report of a prediction: times, memory, versions and hashes, nothing of the patients."""

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlfd.io.files import write_json
from hlfd.machine import peak_mib

if TYPE_CHECKING:
    from hlfd.inference.predictor import Predictor
    from hlfd.inference.run import Case


def write_report(
    path: Path, cases: Sequence["Case"], predictor: "Predictor", model: Path, start_seconds: float
) -> Path:
    """Write what is known of a run as JSON. Of an image it holds its number and its key, and no name.

    Args:
        path: the file.
        cases: the images.
        predictor: what predicted.
        model: its folder or file.
        start_seconds: from the command's begin to a model that is ready.
    """
    import torch

    from hlfd.segmenter import versions

    segmenter = predictor.model
    files = sorted(model.glob("model.*")) if model.is_dir() else [model]
    return write_json(
        path,
        {
            "version": 1,
            "versions": versions(),
            "model": {
                "network": segmenter.network_name,
                "options": dict(segmenter.network_options),
                "classes": list(segmenter.labels.names),
                "files": {file.name: _hash(file) for file in files},
            },
            "machine": {
                "system": platform.system(),
                "processor": platform.machine(),
                "cores": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "device": str(predictor.device),
            },
            "start_seconds": start_seconds,
            "peak_memory_mib": peak_mib(),
            "images": [_case(number, case) for number, case in enumerate(cases, 1)],
        },
    )


def is_report(path: Path) -> bool:
    """Whether a file is a report of this kind, which another may replace."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(known, dict) and {"start_seconds", "peak_memory_mib", "images"} <= known.keys()


def _case(number: int, case: "Case") -> dict[str, Any]:
    """Of a failure only its kind: the line on the terminal may name folders, and those may be called after people."""
    outcome = "failed" if case.error is not None else "there before" if case.ready else "done"
    return {
        "image": number,
        "key": case.key,
        "outcome": outcome,
        "error": type(case.error).__name__ if case.error is not None else None,
        "shape": case.shape,
        "spacing_mm": case.spacing_mm,
        "seconds": case.stages.seconds,
        "warnings": case.warnings,
        "files": {kind: _hash(path) for kind, path in case.files.items()},
    }


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

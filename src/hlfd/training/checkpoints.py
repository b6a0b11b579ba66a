"""Checkpoints written whole or not at all."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from hlfd.io.files import write_atomic


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint, then renames: on a full disk the old one stays and the run can continue.

    Lightning's own writes to the system's temporary folder and moves, which across file systems is a copy.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        buffer = io.BytesIO()  # torch.save to a file reports a full disk as RuntimeError
        torch.save(checkpoint, buffer)
        write_atomic(path, buffer.getvalue())

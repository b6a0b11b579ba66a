"""A network in a file, run by another runtime, where a `Tapped` is expected."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hlfd.distill.features import Size, TapInfo, Tapped
from hlfd.errors import InputError
from hlfd.exporters._graph import Run


class Runtime(nn.Module):
    """Runs a file's function on tensors. It has no parameters; images and logits are on the CPU, float32."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def state_dict(self, *_: Any, **__: Any) -> Any:
        """Raise `InputError`: the weights stay in the file."""
        raise InputError("an exported file can't be saved as a model folder; use the model folder it came from")

    def forward(self, image: Tensor) -> Tensor:
        """Images (N x channels x spatial) -> logits (N x classes x spatial)."""
        return torch.from_numpy(self.run(image.detach().cpu().float().contiguous().numpy()))


class Exported(Tapped):
    """A network in a file: of its features, the logits alone.

    Args:
        run: the file's function.
        multiple: what each spatial axis of an image must be a multiple of.
        size: of the image, if the file takes no other.
    """

    cpu_only = True

    def __init__(
        self, run: Run, *, classes: int, in_channels: int, dims: int, multiple: Sequence[int], size: Size | None
    ):
        super().__init__(Runtime(run), {}, classes=classes, in_channels=in_channels, dims=dims, size=size)
        self._multiple = tuple(multiple)

    def info(self, size: int = 64, *, computed: bool = False) -> dict[str, TapInfo]:
        """The logits alone."""
        return {"logits": TapInfo(self.classes, 1)}

    def multiple(self) -> tuple[int, ...]:
        """As it was when the file was written."""
        return self._multiple


def side_path(path: Path) -> Path:
    """The description of an exported file: ``student.onnx.json`` of ``student.onnx``."""
    return path.with_name(path.name + ".json")


def hashes(paths: Sequence[Path]) -> dict[str, str]:
    """File name -> SHA-256."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def require_whole(path: Path, files: Mapping[str, str]) -> None:
    """Raise `InputError` if a file of an export is missing, or isn't what its description says."""
    for name in files:
        if Path(name).name != name or not (path.parent / name).is_file():
            raise InputError(f"{path.parent / name}: no such file; it belongs to {path}")
    for name, found in hashes([path.parent / name for name in files]).items():
        if found != files[name]:
            raise InputError(f"{path.parent / name}: damaged, or not the file that {side_path(path).name} describes")

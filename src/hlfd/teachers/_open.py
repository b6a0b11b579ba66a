"""Open a folder with a trained network, whoever trained it."""

from pathlib import Path
from typing import Any

from hlfd import plugins
from hlfd.distill.pretrained import Pretrained
from hlfd.errors import InputError


def open_pretrained(folder: Path, **options: Any) -> Pretrained:
    """The trained network in ``folder``, read by the teacher plug-in that recognises it.

    Args:
        folder: a model folder of ours, a result folder of nnU-Net or a MONAI bundle.
        options: those of the plug-in.

    Raises:
        InputError: nothing there that a plug-in recognises, an option it doesn't have, files it can't use.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    kind = recognise(folder)
    if kind is None:
        inside = [child for child in sorted(folder.iterdir()) if child.is_dir() and recognise(child)]
        if inside:
            raise InputError(f"{folder}: no model itself, did you mean {' or '.join(map(str, inside[:4]))}?")
        known = "; ".join(
            f"{name} ({getattr(plugins.module('teachers', name), 'LAYOUT', 'see its documentation')})"
            for name in plugins.names("teachers")
        )
        raise InputError(f"{folder}: not a trained model of a kind that is known: {known}")
    return plugins.load("teachers", kind, folder, **options)


def recognise(folder: Path) -> str | None:
    """Name of the teacher plug-in that recognises ``folder``."""
    return next(
        (name for name in plugins.names("teachers") if plugins.module("teachers", name).recognises(folder)), None
    )

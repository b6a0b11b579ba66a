"""Probabilities from files, and which of their channels belongs to which class."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hlfd.errors import InputError, unreadable
from hlfd.io import nifti
from hlfd.labels import Labels


@dataclass(frozen=True, eq=False)
class Probabilities:
    """C x I x J x K, and where they lie."""

    voxels: np.ndarray
    affine: np.ndarray


def read_probabilities(path: Path) -> Probabilities:
    """Probabilities of every class; a file with three axes holds those of the one foreground class.

    Raises:
        InputError: no such file, not a whole NIfTI file, other than 3 or 4 axes.
    """
    nifti.read_header(path)  # whose size fits the file's
    try:
        image: Any = nib.load(path)
        values = np.asanyarray(image.dataobj, dtype=np.float32)
    except Exception as error:  # a truncated or damaged file makes nibabel raise anything
        raise unreadable(path, "a whole NIfTI file", error) from None
    if values.ndim not in (3, 4):
        raise InputError(f"{path}: expected probabilities with 3 or 4 axes, got shape {values.shape}")
    stacked = np.stack([1 - values, values]) if values.ndim == 3 else np.moveaxis(values, -1, 0)
    return Probabilities(stacked, image.affine)


def of_classes(channels: np.ndarray, labels: Labels, where: str) -> np.ndarray:
    """Channels brought to the classes: C x I x J x K with a channel for each class, background first.

    Channels are either the classes in their order, or the values of the label maps: ``{0, 2}`` may come with 2 channels
    or with 3. Of the latter, what a value without a class has counts as background.

    Raises:
        InputError: neither as many channels as classes, nor as the largest value and 0 make.
    """
    if len(channels) == labels.classes:
        return channels
    last = max(labels.raw)
    if len(channels) != last + 1:
        expected = f"{labels.classes} ({', '.join(['background', *labels.names])})"
        expected += f" or {last + 1} (values 0 to {last})" if last + 1 != labels.classes else ""
        raise InputError(f"{where}: expected as many channels as classes, {expected}, got {len(channels)}")
    found = np.zeros((labels.classes, *channels.shape[1:]), dtype=channels.dtype)
    for value, channel in enumerate(channels):
        found[labels.raw.get(value, 0)] += channel
    return found

"""Volumes for the report's viewer: cropped, 8-bit, and made coarser until they fit."""

import gzip
from collections.abc import Mapping

import nibabel as nib
import numpy as np

from hlfd.progress import console
from hlfd.report.model import ViewerCase
from hlfd.volume import Volume

MARGIN_MM, COARSEST = 20.0, 8


def viewer_case(
    title: str, image: Volume, masks: Mapping[str, Volume], window_hu: tuple[float, float], most_bytes: int
) -> ViewerCase | None:
    """A case for the viewer, or None where even the coarsest takes more than ``most_bytes``, base64 included.

    Cropped to what any mask marks, with `MARGIN_MM` around it; made coarser in-plane first, by averaging the image
    and picking of masks, while voxels there are finer than the slices are apart.
    """
    box = _box(image, masks)
    voxels = image.voxels[box].astype(np.float32)
    low, high = window_hu
    bright = np.clip((voxels - low) / (high - low) * 255, 0, 255)
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    steps = np.array([1, 1, 1])
    while True:
        grid = affine.copy()
        grid[:3, :3] = affine[:3, :3] * steps
        grid[:3, 3] += affine[:3, :3] @ ((steps - 1) / 2)  # the centre of the first coarse voxel
        packed = _nifti(_averaged(bright, steps), grid)
        others = {name: _nifti(_picked(mask.voxels[box], steps), grid, label=True) for name, mask in masks.items()}
        if (len(packed) + sum(map(len, others.values()))) * 4 / 3 <= most_bytes:
            return ViewerCase(title, packed, others, (int(steps[0]), int(steps[1]), int(steps[2])))
        spacing = np.asarray(image.spacing_mm) * steps
        finest = spacing <= spacing.min() * 1.2
        if steps.max() >= COARSEST:
            console.print(f"report: {title}: too large for the viewer within report.volume_mib; left out")
            return None
        steps = np.where(finest, steps + 1, steps)


def _box(image: Volume, masks: Mapping[str, Volume]) -> tuple[slice, ...]:
    marked = np.zeros(image.shape, dtype=bool)
    for mask in masks.values():
        marked |= mask.voxels > 0
    parts: list[slice] = []
    for axis, (size, mm) in enumerate(zip(image.shape, image.spacing_mm, strict=True)):
        line = np.flatnonzero(marked.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = int(np.ceil(MARGIN_MM / mm))
        ends = (int(line[0]) - margin, int(line[-1]) + margin + 1) if line.size else (0, size)
        parts.append(slice(max(0, ends[0]), min(size, ends[1])))
    return tuple(parts)


def _averaged(voxels: np.ndarray, steps: np.ndarray) -> np.ndarray:
    padded = np.pad(voxels, [(0, -n % s) for n, s in zip(voxels.shape, steps, strict=True)], mode="edge")
    shape = [part for n, s in zip(padded.shape, steps, strict=True) for part in (n // s, s)]
    return np.rint(padded.reshape(shape).mean((1, 3, 5))).astype(np.uint8)


def _picked(voxels: np.ndarray, steps: np.ndarray) -> np.ndarray:
    padded = np.pad(voxels, [(0, -n % s) for n, s in zip(voxels.shape, steps, strict=True)], mode="edge")
    i, j, k = (slice(int(s) // 2, None, int(s)) for s in steps)
    return padded[i, j, k].astype(np.uint8)


def _nifti(voxels: np.ndarray, affine: np.ndarray, *, label: bool = False) -> bytes:
    image = nib.Nifti1Image(voxels, affine)
    if label:
        image.header.set_intent("label")  # the viewer outlines what says so
    return gzip.compress(image.to_bytes(), 9, mtime=0)

"""A student that `hlfd export` wrote as ONNX, on a CT volume, without hlfd: onnxruntime, nibabel, numpy, scipy.

    python onnx_without_hlfd.py student.onnx ct.nii.gz labels.nii.gz

For 2D models that see whole slices or their centre. The description beside the file (student.onnx.json) says all that
is needed. Gives the labels of `hlfd predict` without post-processing.
"""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime
from nibabel.orientations import axcodes2ornt, ornt_transform
from scipy.special import softmax


def linear(have: int, wanted: int) -> np.ndarray:
    """Weights that resize an axis: linear, the outer edges stay, a wider filter where it shrinks."""
    scale = have / wanted
    centres = (np.arange(wanted)[:, None] + 0.5) * scale - 0.5
    weights = np.clip(1 - abs(centres - np.arange(have)) / max(scale, 1), 0, None)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def common(have: int, other: int) -> slice:
    """The part of an axis that one of another length, with the same centre, has in common with it."""
    return slice(max(have - other, 0) // 2, max(have - other, 0) // 2 + min(have, other))


def upright(ct: nib.Nifti1Image, how: dict) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """HU with slices to superior, rows to posterior, columns to the left; how they were turned; the network's plane."""
    turn = ornt_transform(nib.io_orientation(ct.affine), axcodes2ornt("SPL"))
    hu = nib.apply_orientation(ct.get_fdata(dtype=np.float32), turn)
    mm = nib.affines.voxel_sizes(ct.affine)[np.argsort(turn[:, 0])]
    as_trained = [round(n * size / (how["spacing_mm"] or size)) for n, size in zip(hu.shape[1:], mm[1:], strict=True)]
    return hu, turn, how["size"] or as_trained


def main(model: str, image: str, output: str) -> None:
    # begin
    known, ct = json.loads(Path(f"{model}.json").read_text()), nib.load(image)
    session, how = onnxruntime.InferenceSession(model), known["preprocess"]
    if known["dims"] != 2 or how["crop"] == "foreground" or any(map(how.get, ("neighbours", "patch", "slice_mm"))):
        sys.exit(f"{model}: expected a 2D model of single slices, whole or their centre")
    hu, turn, plane = upright(ct, how)
    size = how["crop"] or plane
    box, seen = [*map(common, plane, size)], [*map(common, size, plane)]
    (low, high), labels = how["window_hu"], np.zeros(hu.shape, np.uint8)
    for k, picture in enumerate(hu):
        small = linear(hu.shape[1], plane[0]) @ picture @ linear(hu.shape[2], plane[1]).T
        shown = np.full([n + -n % m for n, m in zip(size, known["multiple"], strict=True)], -1, np.float32)
        shown[: size[0], : size[1]][*seen] = (small.clip(low, high)[*box] - low) * 2 / (high - low) - 1
        logits = session.run(None, {"image": shown[None, None]})[0][0, :, : size[0], : size[1]]
        scores = np.eye(len(logits), 1, dtype=np.float32)[..., None] * np.ones(plane, np.float32)  # background
        scores[:, *box] = softmax(logits, 0)[:, *seen]
        labels[k] = (linear(plane[0], hu.shape[1]) @ scores @ linear(plane[1], hu.shape[2]).T).argmax(0)
    own = nib.apply_orientation(labels, ornt_transform([[0, 1], [1, 1], [2, 1]], turn))
    nib.save(nib.Nifti1Image(own, ct.affine), output)
    # end


if __name__ == "__main__":
    main(*sys.argv[1:])

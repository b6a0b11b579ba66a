"""A KiTS19 root of full size: real label volumes, and images rendered from them with the phantom's tissue model.

    .venv/bin/python benchmarks/full_size.py ROOT --cases 6 [--masks ../shared/data/kits19_masks]

512 x 512 pixels, up to 834 slices, in KiTS19's own orientation (slices first, from the top; qform code 0), int16. The
cases are spread over the number of slices, with the fewest and the most; what is there already is kept. The
kidneys and tumours are the patients' own; the body around them is a few ellipses, so this measures time and memory and
trains nothing.
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hlfd.io import nifti
from hlfd.io.files import replacing
from hlfd.sources._tissue import Tissue as T
from hlfd.sources._tissue import enhancement, render

MASKS = Path(__file__).parents[2] / "shared" / "data" / "kits19_masks"
SLAB = 32  # slices rendered at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--masks", type=Path, default=MASKS)
    options = parser.parse_args()
    if not options.masks.is_dir():
        raise SystemExit(f"{options.masks}: not there; this benchmark needs real label volumes")
    for source in chosen(options.masks, options.cases):
        folder = options.root / source.parent.name
        if (folder / "imaging.nii.gz").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        shape = write_case(source, folder)
        print(f"{folder.name}: {' x '.join(map(str, shape))}, {time.perf_counter() - began:.0f} s", flush=True)


def chosen(masks: Path, cases: int) -> list[Path]:
    """Label files, evenly spread over the number of slices."""
    files = sorted(masks.glob("case_*/segmentation.nii.gz"))
    files.sort(key=lambda path: nifti.read_header(path).shape[0])
    return [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(cases, len(files))).round().astype(int))]


def write_case(source: Path, folder: Path) -> tuple[int, ...]:
    label = nifti.read_label(source)
    if label.axcodes != "IPL":
        raise SystemExit(f"{source}: expected the axes I, P, L, got {label.axcodes}")
    hu = image(label.voxels, label.spacing_mm, int(source.parent.name.split("_")[-1]))
    header: Any = nib.load(source).header
    header.set_data_dtype(np.int16)
    shutil.copyfile(source, folder / source.name)
    with replacing(folder / "imaging.nii.gz", ".nii.gz") as temporary:
        nib.save(nib.Nifti1Image(hu, label.affine, header), temporary)
    return hu.shape


def image(label: np.ndarray, spacing_mm: tuple[float, float, float], seed: int) -> np.ndarray:
    """HU, int16, for labels (slices from the top, rows to posterior, columns to the left)."""
    rng = np.random.default_rng(seed)
    _, table_hu = enhancement(rng)
    slice_mm, pixel_mm, _ = spacing_mm
    where = np.argwhere(label[::4, ::4, ::4]) * 4
    hilum, (low, high) = where.mean(0), (np.percentile(where, q, axis=0) for q in (0, 100))
    half_width = 1.1 * max(high[2] - hilum[2], hilum[2] - low[2]) * pixel_mm + 35
    half_depth = max(0.7 * half_width, (high[1] - hilum[1]) * pixel_mm + 60)
    rows, columns = np.mgrid[: label.shape[1], : label.shape[2]].astype(np.float32)
    x, y = (columns - hilum[2]) * pixel_mm, (rows - hilum[1]) * pixel_mm + 0.3 * half_depth  # mm to left, posterior

    hu = np.empty(label.shape, np.int16)
    for first in range(0, len(label), SLAB):
        slab = label[first : first + SLAB]
        tissues = np.empty(slab.shape, np.uint8)
        for k in range(len(slab)):
            z = (hilum[0] - first - k) * slice_mm  # mm above the hilum
            tissues[k] = body(x / half_width, y / half_depth, z)
        tissues[slab == 1], tissues[slab == 2] = T.CORTEX, T.KIDNEY_TUMOR
        hu[first : first + SLAB] = np.rint(render(tissues, table_hu, pixel_mm, rng))
    return hu


def body(u: np.ndarray, v: np.ndarray, z: float) -> np.ndarray:
    """Tissues of a slice ``z`` mm above the renal hilum, at positions in units of the body's half width and depth."""
    plane = np.full(u.shape, T.AIR, np.uint8)
    r = np.hypot(u, v)
    for limit, tissue in ((1, T.SKIN), (0.98, T.FAT), (0.84, T.MUSCLE), (0.75, T.VISCERAL_FAT)):
        plane[r < limit] = tissue
    if z > 100:  # both lungs
        plane[np.hypot((np.abs(u) - 0.36) / 0.3, v / 0.55) < 1] = T.LUNG
    elif z > -50:  # the liver, on the patient's right
        plane[np.hypot((u + 0.36) / 0.33, (v + 0.15) / 0.45) < 1] = T.LIVER
    plane[np.hypot(u - 0.02, v - 0.3) < 0.07] = T.AORTA
    plane[np.hypot(u, v - 0.55) < 0.14] = T.BONE
    plane[np.hypot(u, v - 0.55) < 0.11] = T.MARROW
    plane[np.hypot(u, v - 0.72) < 0.05] = T.CORD
    plane[(np.abs(v - 1.03) < 0.02) & (np.abs(u) < 0.9)] = T.COUCH
    return plane


if __name__ == "__main__":
    main()

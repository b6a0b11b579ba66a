"""HD95, ASSD and surface Dice of one pair of masks: time and memory, beside MONAI, scipy and surface-distance.

    .venv/bin/python benchmarks/metrics.py [--rounds 5] [--reference FILE --classes 1 2] [--json FILE]

The pair is 512 x 512 x 100: a liver-sized ellipsoid with a lumpy surface and one with other lumps, or the classes of a
label map (its first 100 slices) and the same roughened. Each measurement is a process of its own, so that its peak
memory is its own: what its arrays and its library's work take on top of the interpreter, the imports and the two masks.
The rivals take turns within a round, so that a machine whose speed drifts slows all alike; figures are medians. A rival
that is not installed is left out and named.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

TOLERANCE_MM = 2.0
SHAPE, SPACING = (512, 512, 100), (0.7, 0.7, 1.6)
Measure = Callable[[np.ndarray, np.ndarray, tuple[float, ...]], tuple[float, float, float]]


def ours() -> Measure:
    from hlfd.evaluation.distances import surface_distances

    def measure(
        prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]
    ) -> tuple[float, float, float]:
        found = surface_distances(prediction, reference, spacing)
        assert found is not None
        return found.hd95_mm, found.assd_mm, found.surface_dice(TOLERANCE_MM)

    return measure


def monai() -> Measure:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    def measure(
        prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]
    ) -> tuple[float, float, float]:
        both = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
        options = {"include_background": True, "spacing": spacing}
        return (
            compute_hausdorff_distance(*both, percentile=95, **options).item(),
            compute_average_surface_distance(*both, symmetric=True, **options).item(),
            compute_surface_dice(*both, [TOLERANCE_MM], **options).item(),
        )

    return measure


def scipy() -> Measure:
    """The usual way: erode, a distance transform of each surface's complement, look up."""
    from scipy import ndimage

    def measure(
        prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]
    ) -> tuple[float, float, float]:
        box = ndimage.find_objects((prediction | reference).astype(np.uint8))[0]
        p, r = (mask[box] ^ ndimage.binary_erosion(mask[box]) for mask in (prediction, reference))
        there = ndimage.distance_transform_edt(~r, spacing)[p]
        back = ndimage.distance_transform_edt(~p, spacing)[r]
        both = np.concatenate([there, back])
        hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
        return float(hd95), float(both.mean()), float((both <= TOLERANCE_MM).mean())

    return measure


def surface_distance() -> Measure:
    import surface_distance as library

    def measure(
        prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]
    ) -> tuple[float, float, float]:
        found = library.compute_surface_distances(reference, prediction, spacing)
        return (
            library.compute_robust_hausdorff(found, 95),
            statistics.fmean(library.compute_average_surface_distance(found)),
            library.compute_surface_dice_at_tolerance(found, TOLERANCE_MM),
        )

    return measure


RIVALS = {"hlfd": ours, "MONAI": monai, "scipy edt, cropped": scipy, "surface-distance": surface_distance}
NEEDS = {"MONAI": "monai", "surface-distance": "surface_distance"}


def make_pair(reference_file: Path | None, classes: list[int]) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    from scipy import ndimage

    random = np.random.default_rng(0)
    if reference_file is None:
        spacing = SPACING
        axes = [(np.arange(n) - n / 2) / (0.3 * n) for n in SHAPE]
        field = 1 - sum(a**2 for a in np.meshgrid(*axes, indexing="ij", sparse=True))
    else:
        import nibabel as nib

        image = nib.load(reference_file)
        spacing = tuple(map(float, image.header.get_zooms()))
        inside = np.isin(np.asarray(image.dataobj)[:, :, : SHAPE[2]], classes)
        field = ndimage.gaussian_filter(inside.astype(np.float32), 2) - 0.5

    def lumps(size: float) -> np.ndarray:
        noise = ndimage.zoom(random.standard_normal([max(2, n // 16) for n in field.shape]), 16, order=1)
        pad = [(0, max(0, n - m)) for n, m in zip(field.shape, noise.shape, strict=True)]
        return size * np.pad(noise, pad, mode="edge")[tuple(slice(n) for n in field.shape)]

    reference = field > 0 if reference_file else field + lumps(0.06) > 0
    near = np.abs(field) < 0.4  # lumps of the border, no specks elsewhere
    prediction = np.where(near, field + lumps(0.06) > 0, field > 0)
    return np.ascontiguousarray(prediction), np.ascontiguousarray(reference), spacing


def child(name: str, file: str) -> None:
    """Measure once; print seconds, MiB and figures."""
    warnings.simplefilter("ignore")
    measure = RIVALS[name]()
    data = np.load(file)
    prediction, reference, spacing = data["prediction"], data["reference"], tuple(map(float, data["spacing"]))
    tiny = np.zeros((8, 8, 8), bool)
    tiny[2:5, 2:5, 2:5] = True
    measure(tiny, np.roll(tiny, 1, 0), spacing)  # what a library does at its first call isn't counted
    # The peak of /proc, which can be set back; elsewhere that of the process so far, imports and loading among it.
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    before = _resident_mib("VmRSS")
    started = time.perf_counter()
    figures = measure(prediction, reference, spacing)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "mib": _resident_mib("VmHWM") - before, "figures": figures}))


def _resident_mib(field: str) -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reference", type=Path, help="a label map, .nii.gz, in place of the ellipsoid")
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 2], help="its values")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    names = [n for n in RIVALS if n not in NEEDS or importlib.util.find_spec(NEEDS[n])]
    for name in RIVALS.keys() - set(names):
        print(f"{name} is not installed and left out")
    prediction, reference, spacing = make_pair(options.reference, options.classes)
    runs: dict[str, list[dict]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pair.npz"
        np.savez(file, prediction=prediction, reference=reference, spacing=spacing)
        for _ in range(options.rounds):
            for name in names:
                command = [sys.executable, __file__, "--child", name, str(file)]
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    shape = " x ".join(map(str, reference.shape))
    print(f"{shape}, {reference.sum()} and {prediction.sum()} voxels, {options.rounds} rounds, medians")
    print(f"{'':20} {'s':>7} {'MiB':>7}   HD95 mm  ASSD mm  surface Dice")
    rows = []
    for name, found in runs.items():
        seconds, mib = (statistics.median(run[key] for run in found) for key in ("seconds", "mib"))
        hd95, assd, dice = found[0]["figures"]
        print(f"{name:20} {seconds:7.2f} {mib:7.0f}   {hd95:7.4f}  {assd:7.4f}  {dice:12.5f}")
        rows.append({"name": name, "seconds": seconds, "mib": mib, "figures": found[0]["figures"]})
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

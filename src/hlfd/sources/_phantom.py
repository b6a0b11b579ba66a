"""Volumes of the phantom, in memory or on disk in the layout of KiTS19 or LiTS17."""

import gzip
import json
from collections.abc import Callable
from concurrent.futures import as_completed
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np

from hlfd.errors import InputError
from hlfd.io.files import write_atomic, write_json
from hlfd.processes import worker_pool
from hlfd.sources import _anatomy, _lesions
from hlfd.sources._canvas import Canvas
from hlfd.sources._tissue import Scanner, enhancement, pooled, render
from hlfd.sources._tissue import Tissue as T
from hlfd.volume import Volume

Layout = Literal["kits", "lits"]
Organ = Literal["kidney", "liver"]

SUPERSAMPLING = 2
VERSION = 1  # raise it when the same seed gives other voxels
_ORGAN: dict[Layout, Organ] = {"kits": "kidney", "lits": "liver"}
# Both archives mix orientations; KiTS19 keeps the slices on the first axis, LiTS17 on the last.
_AXCODES: dict[Organ, tuple[str, ...]] = {
    "kidney": ("IPL", "SPL", "IPR", "IAL"),
    "liver": ("LPS", "RAS", "LAS", "RPI"),
}
_PARTS: dict[Organ, tuple[tuple[T, ...], tuple[T, ...]]] = {  # the organ without its tumours, the tumours
    "kidney": ((T.CORTEX, T.MEDULLA, T.KIDNEY_CYST), (T.KIDNEY_TUMOR, T.KIDNEY_NECROSIS)),
    "liver": (
        (T.LIVER, T.PORTAL_VEIN, T.HEPATIC_VEIN, T.LIVER_CYST, T.LIVER_VARIANT),
        (T.LIVER_TUMOR, T.LIVER_NECROSIS),
    ),
}


def make_patient(seed: int, index: int, *, organ: Organ, size: int = 160) -> tuple[Volume, Volume]:
    """One patient of the phantom.

    Args:
        seed, index: name the patient; the same two give the same voxels.
        organ: which organ and tumours are labelled. Renal patients have at least one tumour, about 15 % of the
            hepatic patients have none.
        size: pixels along each side of a slice, which is 300 to 420 mm wide.

    Returns:
        The image, int16 HU, and its labels on the same grid, uint8: 1 the organ, 2 its tumours. Cysts count as organ,
        as do the vessels within the liver, while the renal sinus is background. 27 to 40 slices 4 to 6 mm apart, in
        one of four orientations.
    """
    for attempt in range(20):
        rng = np.random.default_rng([seed, index, ("kidney", "liver").index(organ), attempt])
        image, label, wanted = _attempt(rng, organ, size)
        if (label.voxels == 1).any() and (label.voxels == 2).any() == wanted:
            axcodes = _AXCODES[organ][(index + seed) % 4]
            return image.oriented(axcodes), label.oriented(axcodes)
    raise AssertionError(f"no patient with a visible {organ} tumour in 20 attempts: seed {seed}, index {index}")


def _attempt(rng: np.random.Generator, organ: Organ, size: int) -> tuple[Volume, Volume, bool]:
    fov_mm = 300 + 120 * rng.beta(2, 2)
    slice_mm = float(rng.choice([4.0, 5.0, 5.0, 6.0]) if rng.random() < 0.6 else round(rng.uniform(4, 6), 2))
    slices = int(np.clip(round(rng.uniform(165, 205) / slice_mm), 27, 40))
    z0_mm = rng.uniform(-82, -70)
    pixel_mm = fov_mm / size
    fine_mm = pixel_mm / SUPERSAMPLING
    shape = (slices, size * SUPERSAMPLING, size * SUPERSAMPLING)
    canvas = Canvas(shape, (slice_mm, fine_mm, fine_mm), z0_mm, rng)
    phase, table_hu = enhancement(rng)
    body, kidneys = _anatomy.draw(canvas, fov_mm)
    _lesions.liver_distractors(canvas, body, table_hu, phase)
    _lesions.kidney_distractors(canvas, kidneys, table_hu)
    if organ == "kidney":
        count = int(rng.choice([1, 2, 3], p=[0.75, 0.18, 0.07]))
        _lesions.liver_tumors(canvas, table_hu, phase, int(rng.choice([0, 2], p=[0.8, 0.2])))
        _lesions.kidney_tumors(canvas, kidneys, table_hu, count)
    else:
        count = int(rng.choice(7, p=[0.15, 0.25, 0.2, 0.15, 0.1, 0.08, 0.07]))
        _lesions.kidney_tumors(canvas, kidneys, table_hu, int(rng.random() < 0.05))
        _lesions.liver_tumors(canvas, table_hu, phase, count)

    scanner = Scanner(
        noise_hu=rng.uniform(12, 25) * (0.8 + 0.2 * (fov_mm - 300) / 60),
        kernel_mm=rng.uniform(0.9, 1.7),
        slice_blur=rng.uniform(0.25, 0.5),
        beam_hardening_hu=rng.uniform(4, 18),
    )
    hu = render(
        canvas.tissues,
        table_hu,
        pixel_mm,
        rng,
        shift_hu=canvas.shift_hu,
        scanner=scanner,
        supersampling=SUPERSAMPLING,
    )
    whole, lesion = (_share(canvas.tissues, tissues) for tissues in (sum(_PARTS[organ], ()), _PARTS[organ][1]))
    labels = np.where(lesion >= 0.5, 2, whole >= 0.5).astype(np.uint8)
    affine = np.zeros((4, 4))  # axes (Z, Y, X) towards superior, posterior, left; the world's towards right, anterior
    affine[2, 0], affine[1, 1], affine[0, 2] = slice_mm, -pixel_mm, -pixel_mm
    shift_mm = rng.uniform(-10, 10, 3)
    affine[:, 3] = [-canvas.axes_mm[2][0], -canvas.axes_mm[1][0], z0_mm, 1]
    affine[:2, 3] -= pixel_mm * (1 - 1 / SUPERSAMPLING) / 2
    affine[:3, 3] += shift_mm
    return Volume(np.rint(hu).astype(np.int16), affine), Volume(labels, affine), count > 0


def _share(tissues: np.ndarray, chosen: tuple[T, ...]) -> np.ndarray:
    """Share of each voxel of the image that is made of some tissues, 0 to 1."""
    among = np.zeros(len(T), dtype=np.float32)
    among[list(chosen)] = 1
    return pooled(among[tissues], SUPERSAMPLING)


def write_phantom(
    root: Path,
    *,
    patients: int,
    seed: int,
    layout: Layout,
    size: int = 160,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write patients in the layout of KiTS19 (``case_00000/imaging.nii.gz``) or LiTS17 (``volume-0.nii``).

    A case is complete when its image is there: labels are written first, and each file appears under its name only
    when it is whole. Calling again finishes what a killed call left; two calls must not write one folder at once.

    Args:
        root: the folder, made if need be.
        patients: number of cases.
        seed: names the phantom: a case depends on it and on its own index alone.
        size: pixels along each side of a slice.
        workers: processes to use.
        progress: called with the number of complete cases and ``patients``.

    Raises:
        InputError: an argument is out of range, or the folder holds a phantom with another seed, layout or size.
    """
    if layout not in _ORGAN:
        raise InputError(f"layout: expected one of {', '.join(_ORGAN)}, got '{layout}'")
    for name, value, least in (
        ("patients", patients, 1),
        ("seed", seed, 0),
        ("size", size, 32),
        ("workers", workers, 1),
    ):
        if value < least:
            raise InputError(f"{name}: expected at least {least}, got {value}")
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    _claim(root, {"phantom": VERSION, "seed": seed, "layout": layout, "size": size})
    missing = [index for index in range(patients) if not _paths(root, layout, index)[0].exists()]
    done = patients - len(missing)
    if progress is not None:
        progress(done, patients)

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, patients)

    if workers == 1 or len(missing) < 2:
        for index in missing:
            _write_case(root, layout, seed, index, size)
            tell()
        return
    with worker_pool(min(workers, len(missing))) as pool:
        for future in as_completed([pool.submit(_write_case, root, layout, seed, index, size) for index in missing]):
            future.result()
            tell()


def _claim(root: Path, wanted: dict[str, object]) -> None:
    """Note in the folder which phantom it holds, or check that it holds this one."""
    path = root / "phantom.json"
    if not path.exists():
        write_json(path, wanted)
    found = json.loads(path.read_text())
    if found != wanted:
        raise InputError(f"{root} holds another phantom: expected {wanted}, found {found}; choose another folder")


def _paths(root: Path, layout: Layout, index: int) -> tuple[Path, Path]:
    """Image and labels of a case."""
    if layout == "kits":
        folder = root / f"case_{index:05d}"
        return folder / "imaging.nii.gz", folder / "segmentation.nii.gz"
    return root / f"volume-{index}.nii", root / f"segmentation-{index}.nii"


def _write_case(root: Path, layout: Layout, seed: int, index: int, size: int) -> None:
    image, label = make_patient(seed, index, organ=_ORGAN[layout], size=size)
    image_path, label_path = _paths(root, layout, index)
    image_path.parent.mkdir(exist_ok=True)
    write_atomic(label_path, _nifti(label, label_path))
    write_atomic(image_path, _nifti(image, image_path))


def _nifti(volume: Volume, path: Path) -> bytes:
    image = nib.Nifti1Image(np.ascontiguousarray(volume.voxels), volume.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code="scanner")
    image.set_qform(volume.affine, code="scanner")
    data = image.to_bytes()
    # No time stamp: the same patient is the same file.
    return gzip.compress(data, compresslevel=1, mtime=0) if path.suffix == ".gz" else data

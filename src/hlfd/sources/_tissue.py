"""Tissues of the phantom: their HU, their texture, and how a scanner shows a map of them."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from scipy import fft, ndimage

Phase = Literal["arterial", "portal", "nephrographic"]


class Tissue(IntEnum):
    """Value of a voxel in a tissue map."""

    AIR = 0
    COUCH = 1
    SKIN = 2
    FAT = 3
    VISCERAL_FAT = 4
    MUSCLE = 5
    BONE = 6
    MARROW = 7
    DISC = 8
    CORD = 9
    LUNG = 10
    HEART = 11
    AORTA = 12
    VEIN = 13
    ARTERY = 14
    LIVER = 15
    PORTAL_VEIN = 16
    HEPATIC_VEIN = 17
    LIVER_CYST = 18
    LIVER_VARIANT = 19  # focal fat or a perfusion difference: not a lesion
    LIVER_TUMOR = 20
    LIVER_NECROSIS = 21
    SPLEEN = 22
    PANCREAS = 23
    GALLBLADDER = 24
    BOWEL_WALL = 25
    BOWEL_CONTENT = 26
    GAS = 27
    CORTEX = 28
    MEDULLA = 29
    SINUS_FAT = 30
    URINE = 31
    KIDNEY_CYST = 32
    KIDNEY_TUMOR = 33
    KIDNEY_NECROSIS = 34


# Mean in the arterial, portal and nephrographic phase, then the standard deviation of the texture: all in HU.
# The order of magnitude is that of abdominal CT at 120 kV; a patient's own values scatter around it (`enhancement`).
_HU: dict[Tissue, tuple[float, float, float, float]] = {
    Tissue.AIR: (-1000, -1000, -1000, 0),
    Tissue.COUCH: (-120, -120, -120, 10),
    Tissue.SKIN: (30, 30, 30, 10),
    Tissue.FAT: (-105, -105, -105, 7),
    Tissue.VISCERAL_FAT: (-98, -96, -96, 11),
    Tissue.MUSCLE: (55, 60, 60, 12),
    Tissue.BONE: (620, 620, 620, 110),
    Tissue.MARROW: (190, 195, 195, 45),
    Tissue.DISC: (85, 85, 85, 12),
    Tissue.CORD: (30, 30, 30, 8),
    Tissue.LUNG: (-840, -840, -840, 45),
    Tissue.HEART: (190, 140, 125, 12),
    Tissue.AORTA: (310, 165, 140, 4),
    Tissue.VEIN: (110, 150, 135, 8),
    Tissue.ARTERY: (280, 160, 138, 4),
    Tissue.LIVER: (72, 112, 102, 7),
    Tissue.PORTAL_VEIN: (105, 165, 138, 4),
    Tissue.HEPATIC_VEIN: (52, 150, 136, 4),
    Tissue.LIVER_CYST: (8, 8, 8, 2),
    Tissue.LIVER_VARIANT: (72, 112, 102, 7),
    Tissue.LIVER_TUMOR: (60, 80, 76, 13),
    Tissue.LIVER_NECROSIS: (28, 30, 30, 9),
    Tissue.SPLEEN: (130, 122, 110, 6),
    Tissue.PANCREAS: (100, 92, 84, 17),
    Tissue.GALLBLADDER: (10, 10, 10, 2),
    Tissue.BOWEL_WALL: (75, 92, 85, 14),
    Tissue.BOWEL_CONTENT: (28, 28, 28, 22),
    Tissue.GAS: (-960, -960, -960, 8),
    Tissue.CORTEX: (175, 180, 168, 9),
    Tissue.MEDULLA: (92, 150, 164, 10),
    Tissue.SINUS_FAT: (-75, -75, -75, 14),
    Tissue.URINE: (8, 12, 60, 4),
    Tissue.KIDNEY_CYST: (9, 9, 9, 2),
    Tissue.KIDNEY_TUMOR: (120, 120, 120, 15),
    Tissue.KIDNEY_NECROSIS: (30, 32, 32, 10),
}
_PHASES: tuple[Phase, ...] = ("arterial", "portal", "nephrographic")
_ENHANCING = [
    *(Tissue.HEART, Tissue.AORTA, Tissue.VEIN, Tissue.ARTERY, Tissue.PORTAL_VEIN, Tissue.HEPATIC_VEIN),
    *(Tissue.LIVER, Tissue.SPLEEN, Tissue.PANCREAS, Tissue.BOWEL_WALL, Tissue.CORTEX, Tissue.MEDULLA),
]
TEXTURE_HU: np.ndarray = np.array([_HU[tissue][3] for tissue in Tissue], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """What the scanner does to the picture.

    Attributes:
        noise_hu: standard deviation of the noise where the body is thickest, HU.
        kernel_mm: standard deviation of the reconstruction kernel in the slice, mm.
        slice_blur: standard deviation of the slice profile, in slices.
        beam_hardening_hu: depth of the dark bands beside bone, HU; 0 leaves them out.
    """

    noise_hu: float = 18.0
    kernel_mm: float = 1.2
    slice_blur: float = 0.35
    beam_hardening_hu: float = 12.0


def mean_hu(phase: Phase) -> np.ndarray:
    """Mean HU per tissue id in a contrast phase, float32 of shape (number of tissues,)."""
    return np.array([_HU[tissue][_PHASES.index(phase)] for tissue in Tissue], dtype=np.float32)


def enhancement(rng: np.random.Generator) -> tuple[Phase, np.ndarray]:
    """A patient's contrast phase and mean HU per tissue id: the phase's table, scattered as between patients.

    The enhanced part of each tissue scales with the dose per body weight (x 0.85 to 1.15) and drifts towards a
    neighbouring phase, as acquisitions are rarely timed alike. A few livers are fatty and lose up to 45 HU.
    """
    phase = _PHASES[rng.choice(3, p=[0.35, 0.4, 0.25])]
    neighbour = "portal" if phase != "portal" else _PHASES[rng.choice([0, 2])]
    table = mean_hu(phase)
    table += rng.uniform(0, 0.35) * (mean_hu(neighbour) - table)
    enhanced = table[_ENHANCING]
    table[_ENHANCING] = 45 + (enhanced - 45) * rng.uniform(0.85, 1.15) + rng.normal(0, 3, len(_ENHANCING))
    if rng.random() < 0.15:
        fatty = rng.uniform(15, 45)
        table[[Tissue.LIVER, Tissue.LIVER_TUMOR]] -= (fatty, 0.3 * fatty)
    table[Tissue.LIVER_VARIANT] = table[Tissue.LIVER]
    return phase, table


def pooled(values: np.ndarray, factor: int) -> np.ndarray:
    """Mean over blocks of ``factor`` x ``factor`` voxels in the slice: (Z, factor Y, factor X) -> (Z, Y, X) float32."""
    total = np.zeros((values.shape[0], values.shape[1] // factor, values.shape[2] // factor), dtype=np.float32)
    for i in range(factor):
        for j in range(factor):
            total += values[:, i::factor, j::factor]
    return total / factor**2


def render(
    tissues: np.ndarray,
    table_hu: np.ndarray,
    spacing_mm: float,
    rng: np.random.Generator,
    *,
    shift_hu: np.ndarray | None = None,
    scanner: Scanner | None = None,
    supersampling: int = 1,
) -> np.ndarray:
    """The CT image of a map of tissues.

    Args:
        tissues: ids of `Tissue`, shape (Z, S Y, S X): slices first, S the supersampling within the slice.
        table_hu: mean HU per tissue id, from `mean_hu` or `enhancement`.
        spacing_mm: pixel spacing of the image that comes out, mm.
        shift_hu: deviation from the table per voxel, HU, shape of ``tissues``.
        rng: where texture and noise come from.
        scanner: kernel, noise and artefacts; `Scanner()` if not given.
        supersampling: S. Partial volume is exact to 1 / S^2 in the slice; across slices the slice profile makes it.

    Returns:
        HU, float32 of shape (Z, Y, X), from -1024 to 3071.
    """
    scanner = scanner or Scanner()
    fine = table_hu.astype(np.float32)[tissues]
    if shift_hu is not None:
        fine += shift_hu
    image = pooled(fine, supersampling)
    blur = (scanner.slice_blur, scanner.kernel_mm / spacing_mm, scanner.kernel_mm / spacing_mm)
    texture = pooled(TEXTURE_HU[tissues], supersampling)
    grain = _unit(ndimage.gaussian_filter(_white(rng, image.shape), (0.5, 1.7 / spacing_mm, 1.7 / spacing_mm)))
    clumps = _unit(ndimage.gaussian_filter(_white(rng, image.shape), (0.8, 4.5 / spacing_mm, 4.5 / spacing_mm)))
    image += texture * (0.8 * grain + 0.6 * clumps)
    image = ndimage.gaussian_filter(image, blur, truncate=3)

    thickness, bands = _projections(image, spacing_mm)
    image -= scanner.beam_hardening_hu * bands
    image += scanner.noise_hu * thickness * _noise(rng, image.shape, scanner.kernel_mm / spacing_mm)
    return np.clip(image, -1024, 3071)


def _projections(image: np.ndarray, spacing_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Relative noise (0.4 at the skin to 1 in the middle) and relative depth of the dark bands beside bone."""
    step = 4
    padded = np.pad(image, ((0, 0), (0, -image.shape[1] % step), (0, -image.shape[2] % step)), mode="edge")
    coarse, pixel_mm = pooled(padded, step), spacing_mm * step
    body = ndimage.gaussian_filter(np.clip(coarse / 1000 + 1, 0, 1.3), (0, 45 / pixel_mm, 60 / pixel_mm))
    # Low-dose beams see much bone along the lateral direction: the spine shades what lies left and right of it.
    bone = ndimage.gaussian_filter(np.clip(coarse / 400 - 0.4, 0, 2), (0, 9 / pixel_mm, 55 / pixel_mm))
    thickness = 0.4 + 0.6 * np.clip(body / max(float(body.max()), 1e-6), 0, 1) ** 1.5
    bands = bone / max(float(bone.max()), 1e-6)
    return _spread(thickness, step, image.shape), _spread(bands, step, image.shape)


def _spread(coarse: np.ndarray, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Undo `pooled`, smoothly."""
    fine = coarse.repeat(step, axis=1)[:, : shape[1]].repeat(step, axis=2)[:, :, : shape[2]]
    return ndimage.uniform_filter1d(ndimage.uniform_filter1d(fine, step, axis=1), step, axis=2)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], kernel_pixels: float) -> np.ndarray:
    """Noise of unit variance with the spectrum of filtered back-projection: a ramp, rolled off by the kernel."""
    spectrum = np.asarray(fft.rfft2(_white(rng, shape)))
    frequency = np.hypot(fft.fftfreq(shape[1])[:, None], fft.rfftfreq(shape[2])[None])  # cycles per pixel
    roll_off = np.exp(-2 * (np.pi * frequency * max(kernel_pixels, 0.45)) ** 2)
    # NPS of a ramp is proportional to the frequency; the offset is what interpolation between rays leaves at zero.
    spectrum *= (np.sqrt(frequency + 0.02) * roll_off).astype(np.float32)
    noise = fft.irfft2(spectrum, s=shape[1:])
    return _unit(ndimage.gaussian_filter1d(np.asarray(noise, dtype=np.float32), 0.35, axis=0))


def _white(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def _unit(field: np.ndarray) -> np.ndarray:
    return field / field.std()

"""Lesions of a drawn patient: tumours, and what looks like a tumour and is none."""

import numpy as np

from hlfd.sources._anatomy import Kidney
from hlfd.sources._body import BOWEL, Body
from hlfd.sources._canvas import Canvas, Point, Shape, rotation
from hlfd.sources._tissue import Tissue as T

KIDNEY = (T.CORTEX, T.MEDULLA, T.SINUS_FAT, T.URINE, T.KIDNEY_CYST)
LIVER = (T.LIVER, T.PORTAL_VEIN, T.HEPATIC_VEIN, T.LIVER_VARIANT, T.LIVER_CYST)
# What a growing renal mass pushes aside. Muscle, bone and the great vessels hold it up.
GIVES_WAY = (
    *KIDNEY,
    T.VISCERAL_FAT,
    T.LIVER,
    T.SPLEEN,
    T.PANCREAS,
    T.ARTERY,
    T.KIDNEY_TUMOR,
    T.KIDNEY_NECROSIS,
    *BOWEL,
)


def blob(canvas: Canvas, centre: Point, radius_mm: float, roughness: float) -> Shape:
    """A round shape whose surface strays by ``roughness`` times its radius."""
    rng = canvas.rng
    radii = radius_mm * rng.uniform(1 - 0.6 * roughness, 1 + 0.6 * roughness, 3)
    box, q = canvas.ellipsoid(centre, radii, rotation(rng))
    if roughness > 0.05:
        q = q + np.float32(0.45 * roughness) * canvas.noise(box, max(0.8 * radius_mm, 5))
    return box, q


def tumor(
    canvas: Canvas,
    shape: Shape,
    radius_mm: float,
    kinds: tuple[T, T],
    mean_hu: float,
    table_hu: np.ndarray,
    only: tuple[T, ...],
) -> None:
    """Paint a tumour: uneven within, at times with a necrotic core, an enhancing rim or a soft margin.

    Args:
        kinds: the tissues of its solid part and of its core.
        mean_hu: the solid part's mean.
        only: tissues it replaces.
    """
    rng = canvas.rng
    box, q = shape
    inside = (q < 1) & canvas.among(box, only)
    uneven = rng.uniform(3, 16) * canvas.noise(box, float(np.clip(radius_mm * 0.45, 4, 12)))
    rim = rng.uniform(10, 40) * (rng.random() < 0.3) * np.exp(-(((q - 0.88) / 0.14) ** 2))
    canvas.fill(box, inside, kinds[0])
    canvas.shift_hu[box][inside] = (mean_hu - table_hu[kinds[0]] + uneven + rim)[inside]
    if rng.random() < np.clip(radius_mm / 40, 0.1, 0.7):
        core = q + 0.2 * canvas.noise(box, max(0.5 * radius_mm, 4)) < rng.uniform(0.35, 0.75)
        canvas.fill(box, core & inside, kinds[1], shift_hu=float(rng.uniform(-15, 20)))


def kidney_tumors(canvas: Canvas, kidneys: list[Kidney], table_hu: np.ndarray, count: int) -> None:
    """Renal tumours, 7 to 35 mm in radius; some enhance nearly as much as the kidney around them, a few more."""
    rng = canvas.rng
    for _ in range(count):
        kidney = kidneys[rng.integers(2)]
        radius = 7 + 28 * rng.beta(1.4, 2.2)
        centre = _in_kidney(rng, kidney, radius)
        weak, strong, bright = -rng.uniform(15, 45), -rng.uniform(45, 110), rng.uniform(-5, 25)
        contrast = rng.choice([weak, strong, bright], p=[0.38, 0.5, 0.12])
        around = 0.6 * table_hu[T.CORTEX] + 0.4 * table_hu[T.MEDULLA]
        mean = float(np.clip(around + contrast, 35, 230))
        shape = blob(canvas, centre, radius, rng.uniform(0.08, 0.4))
        tumor(canvas, shape, radius, (T.KIDNEY_TUMOR, T.KIDNEY_NECROSIS), mean, table_hu, GIVES_WAY)


def kidney_distractors(canvas: Canvas, kidneys: list[Kidney], table_hu: np.ndarray) -> None:
    """Cysts, simple and dense, and columns of cortex: they count as kidney."""
    rng = canvas.rng
    for kidney in kidneys:
        for _ in range(rng.choice(4, p=[0.35, 0.35, 0.2, 0.1])):
            radius = 4 + 22 * rng.beta(1, 3.5)
            dense = rng.random() < 0.35
            mean = rng.uniform(45, 120) if dense else rng.uniform(0, 18)
            shift = float(mean - table_hu[T.KIDNEY_CYST])
            shape = blob(canvas, _in_kidney(rng, kidney, radius), radius, rng.choice([0.04, 0.12]))
            canvas.paint(shape, T.KIDNEY_CYST, GIVES_WAY, shift_hu=shift)
        if rng.random() < 0.4:  # a bulge of normal cortex
            canvas.paint(blob(canvas, _in_kidney(rng, kidney, 8), rng.uniform(6, 11), 0.1), T.CORTEX, GIVES_WAY)


def liver_tumors(canvas: Canvas, table_hu: np.ndarray, phase: str, count: int) -> None:
    """Hepatic tumours, radius 4 to 35 mm and mostly small: darker than the liver, or brighter if arterial."""
    rng = canvas.rng
    shared = rng.uniform(-45, -14)  # metastases of one patient resemble each other
    for _ in range(count):
        radius = 4 + 31 * rng.beta(1, 2.8)
        centre = _in_tissue(canvas, T.LIVER)
        contrast = shared + rng.uniform(-8, 8)
        if phase == "arterial" and rng.random() < 0.4:
            contrast = rng.uniform(12, 40)
        mean = float(table_hu[T.LIVER] + contrast)
        shape = blob(canvas, centre, radius, rng.uniform(0.08, 0.45))
        tumor(canvas, shape, radius, (T.LIVER_TUMOR, T.LIVER_NECROSIS), mean, table_hu, LIVER)


def liver_distractors(canvas: Canvas, body: Body, table_hu: np.ndarray, phase: str) -> None:
    """Cysts, focal fat beside the falciform ligament, and wedges of uneven perfusion: they count as liver."""
    rng = canvas.rng
    for _ in range(rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])):
        shift = float(rng.uniform(-6, 14))
        shape = blob(canvas, _in_tissue(canvas, T.LIVER), 3 + 17 * rng.beta(1, 4), rng.choice([0.04, 0.12]))
        canvas.paint(shape, T.LIVER_CYST, LIVER, shift_hu=shift)
    if rng.random() < 0.45:
        centre = body.at(-14, -58, 48) + rng.normal(0, 6, 3)
        canvas.paint(
            canvas.ellipsoid(centre, rng.uniform(6, 16, 3)), T.LIVER_VARIANT, (T.LIVER,), shift_hu=-rng.uniform(12, 30)
        )
    for _ in range(rng.integers(1, 3) if phase == "arterial" else 0):
        wedge = canvas.ellipsoid(_in_tissue(canvas, T.LIVER), (rng.uniform(5, 9), 26, 18), rotation(rng))
        canvas.paint(wedge, T.LIVER_VARIANT, (T.LIVER,), shift_hu=rng.uniform(8, 25))


def _in_kidney(rng: np.random.Generator, kidney: Kidney, radius_mm: float) -> np.ndarray:
    """A centre from deep in the kidney to beyond its surface, never towards the spine."""
    while True:
        direction = rng.normal(0, 1, 3)
        direction /= np.linalg.norm(direction)
        if direction[0] * kidney.side > -0.4 and abs(direction[2]) < 0.9:
            break
    beyond = rng.uniform(-0.3, 0.55) * radius_mm / float(kidney.radii.mean())
    depth = rng.uniform(0.45, 0.8) if rng.random() < 0.4 else 0.95 + beyond
    return kidney.centre + kidney.turn.T @ (direction * kidney.radii * depth)


def _in_tissue(canvas: Canvas, tissue: T) -> np.ndarray:
    """Position (x, y, z) of a random voxel of a tissue, mm."""
    where = np.flatnonzero(canvas.tissues == tissue)
    z, y, x = np.unravel_index(canvas.rng.choice(where), canvas.tissues.shape)
    return np.array([canvas.x[z, y, x], canvas.y[z, y, x], canvas.z[z, y, x]])

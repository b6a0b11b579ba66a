"""The body of a random patient as a map of tissues: its measures, its wall, the lungs' base, spine and great vessels.

Things are written down for a cavity of 120 mm half width and 80 mm half depth and scaled to the patient's. Positions
are (x, y, z) in mm towards left, posterior and superior, the origin in the midline at the height of the renal hilum.
"""

from dataclasses import dataclass

import numpy as np

from hlfd.sources._canvas import Canvas
from hlfd.sources._tissue import Tissue as T

BOWEL = (T.BOWEL_WALL, T.BOWEL_CONTENT, T.GAS)
SOFT = (T.VISCERAL_FAT, T.LIVER, T.SPLEEN, T.PANCREAS, T.GALLBLADDER, T.LUNG, *BOWEL)


@dataclass(frozen=True, kw_only=True)
class Body:
    """Measures of a patient, mm; the scales relate the abdominal cavity to the one the organs are written down for."""

    half_width: float
    half_depth: float
    fat: float
    wall: float
    dome: float  # height of the right dome of the diaphragm
    scale_x: float
    scale_y: float
    scale: float

    @classmethod
    def random(cls, rng: np.random.Generator, fov_mm: float, top_mm: float) -> "Body":
        """Measures that fit a field of view and let the lungs show below the topmost slice."""
        half_width = fov_mm * rng.uniform(0.44, 0.47)
        half_depth = half_width * rng.uniform(0.68, 0.78)
        size = (fov_mm - 300) / 120
        fat = rng.uniform(5, 12) + size * rng.uniform(4, 20)
        wall = rng.uniform(9, 13)
        scale_x, scale_y = (half_width - fat - wall) / 120, (half_depth - fat - wall) / 80
        return cls(
            half_width=half_width,
            half_depth=half_depth,
            fat=fat,
            wall=wall,
            dome=min(rng.uniform(88, 112), top_mm - 8),
            scale_x=scale_x,
            scale_y=scale_y,
            scale=float(np.clip(np.sqrt(scale_x * scale_y), 0.88, 1.15) * rng.uniform(0.94, 1.06)),
        )

    def at(self, x: float, y: float, z: float) -> np.ndarray:
        """Where a point of the cavity the organs are written down for lies in this patient."""
        return np.array([x * self.scale_x, y * self.scale_y, z * self.scale])


def torso(canvas: Canvas, body: Body) -> None:
    """Skin, fat, muscle and ribs around a cavity of visceral fat, the lungs above the diaphragm, and the couch."""
    rng = canvas.rng
    pitch = rng.uniform(24, 29)
    slope, phase = rng.uniform(20, 28), rng.uniform(0, pitch)
    # The diaphragm: two domes, flat on top and steep near the wall, joined in the middle.
    heights = (body.dome, body.dome - rng.uniform(4, 14), body.dome - 14)
    domes = list(zip((-56, 56, 0), heights, rng.uniform(36, 48, 3).tolist(), strict=True))
    for k in range(len(canvas.tissues)):  # slice by slice: the temporaries stay in the cache
        x, y, z = canvas.x[k], canvas.y[k], canvas.z[k]
        r = np.hypot(x, y)
        u, v = np.abs(x) / np.float32(body.half_width), np.abs(y) / np.float32(body.half_depth)
        rho = np.maximum((u * u * np.sqrt(u) + v * v * np.sqrt(v)) ** np.float32(0.4), 1e-3)
        depth = r * (1 / rho - 1)  # below the skin, along the radius
        back = y / np.maximum(r, 1)  # -1 in front, 1 behind
        inner = depth - body.fat * (0.75 + 0.5 * back**2 + 0.3 * np.clip(back, 0, 1))
        wall = body.wall * (1 + 0.5 * np.clip(back, 0, 1)) - 0.75 * body.wall * (np.abs(x) < 7) * (
            (back < -0.9) & (z < 30)
        )
        below = np.full(z.shape, -np.inf, dtype=np.float32)  # the diaphragm's height above each voxel
        for middle, height, drop in domes:
            away = ((x - middle * body.scale_x) / (68 * body.scale_x)) ** 2 + ((y - 2) / (84 * body.scale_y)) ** 2
            np.maximum(below, height - drop * away * away - z, out=below)
        # A sheet of fat between the layers of the flank's muscle; ribs that slope down towards the front.
        sheet = (np.abs(inner - 0.55 * wall) < 0.9) & (np.abs(x) > 0.45 * body.half_width) & (z < 15)
        front = np.arccos(np.clip(back, -1, 1))  # 0 behind, pi in front
        height = (z + slope * front + phase) % pitch - pitch / 2
        rib = np.hypot((inner - 0.55 * wall) / 3.8, height / 6.5)
        rib[(z < 38 * (front - 0.75)) | (front > 2.4) | (np.abs(x) < 34)] = 9  # above the costal margin only
        plate = np.abs(y - body.half_depth - 9 + (x / 48) ** 2)  # the couch
        tissues = canvas.tissues[k]
        for inside, tissue in (
            ((plate < 3) & (np.abs(x) < 0.8 * body.half_width), T.COUCH),
            (depth > 0, T.SKIN),
            (depth > 2.2, T.FAT),
            (inner > 0, T.MUSCLE),
            ((inner > 0) & sheet, T.FAT),
            (inner > wall, T.VISCERAL_FAT),
            ((inner > wall) & (below < 1.5), T.MUSCLE),
            ((inner > wall) & (below < 0), T.LUNG),
            ((inner < wall) & (rib < 1), T.BONE),
            ((inner < wall) & (rib < 0.6), T.MARROW),
        ):
            tissues[inside] = tissue


def retroperitoneum(canvas: Canvas, body: Body) -> None:
    """Spine, muscles of the back, adrenals and great vessels."""
    rng, s, at = canvas.rng, body.scale, body.at
    low, high = canvas.bottom_mm - 20, canvas.top_mm + 20
    spine_y = 36 * body.scale_y

    def column(x: float, y: float, rx: float, ry: float, tissue: T, only: tuple[T, ...] = (), level: float = 1) -> None:
        along = np.arange(low, high, 20)
        box = canvas.box(np.stack([np.full_like(along, x), np.full_like(along, y), along], axis=1), (rx, ry, 20))
        q = np.hypot((canvas.x[box] - np.float32(x)) / rx, (canvas.y[box] - np.float32(y)) / ry)
        canvas.fill(box, q < level, tissue, only)

    trunk = (*SOFT, T.MUSCLE, T.HEART)
    for side in (-1, 1):
        column(side * 33 * s, spine_y + 40 * s, 30 * s, 23 * s, T.MUSCLE, trunk)
        psoas = np.array(
            [[side * 26 * s, spine_y + 4, 25], [side * 34 * s, spine_y + 4, -40], [side * 42 * s, spine_y, -110]]
        )
        canvas.paint(canvas.tube(psoas, (7 * s, 17 * s, 21 * s)), T.MUSCLE, SOFT)
        crus = np.array([[side * 14 * s, spine_y - 22 * s, 0], [side * 16 * s, spine_y - 24 * s, 100]])
        canvas.paint(canvas.tube(crus, (4, 6)), T.MUSCLE, SOFT)
        adrenal = at(side * 40, 26, 50 if side > 0 else 58)
        for tip in ((8, 14, -8), (-6, 16, -8)):
            limb = np.stack([adrenal, adrenal + np.array(tip) * s])
            canvas.paint(canvas.tube(limb, (3, 2)), T.PANCREAS, (T.VISCERAL_FAT,))
    column(0, spine_y, 25 * s, 19 * s, T.BONE, (*trunk, T.FAT))
    column(0, spine_y, 25 * s, 19 * s, T.MARROW, (T.BONE,), level=0.9)
    pitch = 35 * s
    height = (canvas.z + rng.uniform(0, pitch)) % pitch
    vertebra = canvas.box(np.array([[0, spine_y, low], [0, spine_y, 0], [0, spine_y, high]]), (27 * s, 22 * s, 20))
    q = np.hypot(canvas.x[vertebra] / (25 * s), (canvas.y[vertebra] - np.float32(spine_y)) / (19 * s))
    canvas.fill(vertebra, (height[vertebra] < 8 * s) & (q < 0.97), T.DISC, (T.BONE, T.MARROW))
    plate = (np.abs(height[vertebra] - 4 * s) < 6.5 * s) & (q < 1)
    canvas.fill(vertebra, plate, T.BONE, (T.MARROW,))
    canal_y = spine_y + 26 * s
    column(0, canal_y, 16 * s, 12 * s, T.BONE, trunk)
    for tip, radius in (((0, 34), 5), ((34, 6), 4.5), ((-34, 6), 4.5)):  # spinous and transverse processes
        for z in np.arange(low, high, pitch):
            path = np.array([[np.sign(tip[0]) * 12 * s, canal_y, z], [tip[0] * s, canal_y + tip[1] * s, z - 9 * s]])
            process = canvas.tube(path, (radius * s * 1.5, radius * s))
            canvas.paint(process, T.BONE, (*trunk, T.FAT))
            canvas.paint(process, T.MARROW, (T.BONE,), level=0.55)
    column(0, canal_y, 10 * s, 8 * s, T.CORD)

    aorta = np.array(
        [
            [rng.uniform(2, 8), spine_y - 31 * s, high],
            [rng.uniform(8, 16), spine_y - 31 * s, 30],
            [6, spine_y - 30 * s, low],
        ]
    )
    cava = np.array(
        [[-26 * s, spine_y - 48 * s, high], [-25 * s, spine_y - 36 * s, 45], [-20 * s, spine_y - 28 * s, low]]
    )
    radius = rng.uniform(9, 12) * s
    ring = canvas.tube(aorta, (radius * 1.15, radius, radius * 0.9))
    canvas.paint(ring, T.AORTA, (*trunk, T.FAT))
    if rng.random() < 0.4:  # calcified plaques
        plaque = (np.abs(ring[1] - 0.97) < 0.12) & (canvas.noise(ring[0], 9) > 1.6)
        canvas.fill(ring[0], plaque, T.BONE, (T.AORTA, T.VISCERAL_FAT))
    canvas.paint(canvas.tube(cava, np.array([12, 11, 10]) * s * rng.uniform(0.8, 1.15)), T.VEIN, trunk)
    trunk_root = at(10, 2, 18)
    canvas.paint(canvas.tube(np.stack([trunk_root, at(8, -16, 6), at(4, -24, -60)]), (4, 3.5, 3)), T.ARTERY, SOFT)
    canvas.paint(canvas.tube(np.stack([at(-8, -22, -60), at(-4, -16, 2)]), (5, 6)), T.VEIN, SOFT)
    splenic = np.stack([at(-4, -14, 6), at(24, -10, 18), at(52, 22, 30), at(70, 26, 38)])
    canvas.paint(canvas.tube(splenic, (5, 4.5, 4, 3.5)), T.VEIN, SOFT)

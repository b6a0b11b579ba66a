"""A random patient's abdomen as a map of tissues: its organs and their vessels.

The body around them is in `_body`, with the convention for positions; lesions are in `_lesions`.
"""

from dataclasses import dataclass

import numpy as np

from hlfd.sources._body import BOWEL, SOFT, Body, retroperitoneum, torso
from hlfd.sources._canvas import Canvas, Point, rotation, winding
from hlfd.sources._tissue import Tissue as T


@dataclass(frozen=True, kw_only=True)
class Kidney:
    """Where a kidney lies: ``turn`` takes offsets from the centre to its axes (lateral, posterior, superior)."""

    centre: np.ndarray
    radii: np.ndarray
    turn: np.ndarray
    side: int  # -1 right, 1 left


def draw(canvas: Canvas, fov_mm: float) -> tuple[Body, list[Kidney]]:
    """Draw a patient without lesions on an empty canvas."""
    rng = canvas.rng
    body = Body.random(rng, fov_mm, float(canvas.axes_mm[0][-1]))
    torso(canvas, body)
    _upper_organs(canvas, body)
    _bowel(canvas, body)
    kidneys = [_kidney(canvas, body, side) for side in (-1, 1)]
    retroperitoneum(canvas, body)
    for kidney in kidneys:
        _renal_vessels(canvas, body, kidney)
    _liver_vessels(canvas, body)
    return body, kidneys


def _upper_organs(canvas: Canvas, body: Body) -> None:
    rng, s, at = canvas.rng, body.scale, body.at
    for _ in range(45):  # the lung's vessels
        start = at(rng.uniform(-110, 110), rng.uniform(-60, 75), 0)
        start[2] = rng.uniform(20, canvas.top_mm)
        canvas.paint(
            canvas.tube(winding(rng, start, start + rng.normal(0, 20, 3), 3, 2), (2.2, 1.6, 1)), T.VEIN, (T.LUNG,)
        )
    # Right and left lobe; the dome of the right lobe is cut by the diaphragm, hence centred high.
    only = (T.VISCERAL_FAT,)
    low = rng.uniform(-12, 12)
    right = canvas.ellipsoid(at(-68, -2, 38 + low / 2), (60 * body.scale_x, 82 * body.scale_y, (84 - low / 2) * s))
    left = canvas.ellipsoid(
        at(2, -46, 62), (rng.uniform(50, 85) * body.scale_x, 34 * body.scale_y, 38 * s), rotation(rng, 0.12)
    )
    dent = canvas.ellipsoid(
        at(-20, 14, -6), (44 * s, 40 * s, 46 * s)
    )  # the visceral surface, hollowed by its neighbours
    hollow = np.zeros(canvas.tissues.shape, dtype=bool)
    hollow[dent[0]] = dent[1] < 1
    behind = canvas.ellipsoid(at(-8, 48, -14), (42 * s, 36 * s, 50 * s))  # the space of spine and psoas
    hollow[behind[0]] |= behind[1] < 1
    for box, q in (right, left):
        canvas.fill(box, (q < 1) & ~hollow[box], T.LIVER, only)
    canvas.paint(canvas.tube(np.stack([at(-14, -80, 70), at(-14, -52, 40)]), (4, 1.5)), T.VISCERAL_FAT, (T.LIVER,))
    gallbladder = canvas.ellipsoid(at(-46, -34, 2), (15 * s, 21 * s, 25 * s), rotation(rng, 0.3))
    if rng.random() < 0.8:
        canvas.paint(gallbladder, T.BOWEL_WALL, (*only, T.LIVER), level=1.1)
        canvas.paint(gallbladder, T.GALLBLADDER, (T.BOWEL_WALL,))

    spleen = canvas.ellipsoid(
        at(84, 32, 46), (36 * s, rng.uniform(42, 54) * s, rng.uniform(42, 56) * s), rotation(rng, 0.15)
    )
    bite = canvas.ellipsoid(at(44, 8, 40), (36 * s, 42 * s, 62 * s))
    free = np.ones(canvas.tissues.shape, dtype=bool)
    free[bite[0]] = bite[1] > 1
    canvas.fill(spleen[0], (spleen[1] < 1) & free[spleen[0]], T.SPLEEN, only)

    stomach = np.stack([at(56, 12, 74), at(58, -22, 50), at(40, -46, 26), at(4, -46, 14), at(-26, -28, 10)])
    gut(
        canvas,
        stomach + rng.normal(0, 4, stomach.shape),
        np.array([30, 30, 25, 17, 12]) * s * rng.uniform(0.75, 1.1),
        3.5,
    )
    pancreas = np.stack([at(-24, -10, -8), at(-8, -22, 6), at(18, -22, 16), at(46, 4, 26), at(66, 18, 32)])
    canvas.paint(
        canvas.tube(pancreas + rng.normal(0, 3, pancreas.shape), np.array([13, 9, 9, 10, 7]) * s), T.PANCREAS, only
    )

    middle = at(18, -35, 0)
    middle[2] = body.dome + 22
    heart = canvas.ellipsoid(middle, (52 * s, 42 * s, 38 * s), rotation(rng, 0.15))
    canvas.paint(heart, T.VISCERAL_FAT, (T.LUNG, T.MUSCLE), level=1.06)
    canvas.paint(heart, T.HEART, (T.VISCERAL_FAT,), level=0.97)


def gut(
    canvas: Canvas, points: np.ndarray, radii: Point, wall_mm: float, only: tuple[T, ...] = (T.VISCERAL_FAT,)
) -> None:
    """A piece of gut: wall, content that differs from piece to piece, and gas that rises to the front."""
    rng, radii = canvas.rng, np.asarray(radii)
    box, q = canvas.tube(points, radii)
    lumen = 1 - wall_mm / float(radii.mean())
    free = canvas.among(box, only)
    canvas.fill(box, (q < 1) & free, T.BOWEL_WALL)
    content = rng.choice([rng.uniform(-25, 15), rng.uniform(15, 60), rng.uniform(120, 260)], p=[0.5, 0.38, 0.12])
    canvas.fill(box, (q < lumen) & free, T.BOWEL_CONTENT, shift_hu=float(content))
    gassy = rng.random() < 0.55
    level = float(points[:, 1].mean()) + float(radii.mean()) * (rng.uniform(-0.9, 0.5) if gassy else -2)
    canvas.fill(box, (q < lumen) & free & (canvas.y[box] < level), T.GAS)


def _bowel(canvas: Canvas, body: Body) -> None:
    rng, s, at = canvas.rng, body.scale, body.at
    duodenum = np.stack([at(-28, -26, 8), at(-40, -14, 2), at(-38, -6, -22), at(-24, -4, -42)])
    gut(canvas, duodenum + rng.normal(0, 4, duodenum.shape), np.full(4, 11 * s), 2.5)
    ascending = np.stack([at(-84, 18, -95), at(-88, 14, -50), at(-80, -14, -22)])
    descending = np.stack([at(92, 30, -95), at(94, 30, -45), at(92, 20, 0), at(84, -6, 18)])
    transverse = np.stack([at(-76, -30, -26), at(-40, -58, -34), at(0, -62, -42), at(40, -58, -24), at(80, -24, 10)])
    for course, radius in ((ascending, 22), (descending, 14), (transverse, 18)):
        points = course + rng.normal(0, 5, course.shape)
        radii = radius * s * rng.uniform(0.75, 1.15) * rng.uniform(0.8, 1.2, len(points))
        for i in range(len(points) - 1):  # haustra: each piece with its own content
            gut(canvas, winding(rng, points[i], points[i + 1], 4, 2), np.linspace(radii[i], radii[i + 1], 3), 2.5)
    for _ in range(60):
        start = at(rng.uniform(-78, 86), rng.uniform(-64, 18), rng.uniform(-105, 4))
        step = rng.normal(0, 1, 3) * (24, 14, 12)
        gut(canvas, winding(rng, start, start + step, 6, 3), rng.uniform(8, 15) * s * rng.uniform(0.8, 1.1, 4), 2.2)
    for _ in range(22):  # mesenteric vessels
        start = at(rng.uniform(-12, 14), rng.uniform(-12, 4), rng.uniform(-80, 0))
        path = winding(rng, start, start + rng.normal(0, 30, 3) - (0, 22, 0), 5, 3)
        canvas.paint(canvas.tube(path, (3.5, 3, 2.2, 1.5)), T.VEIN, (T.VISCERAL_FAT,))


def _kidney(canvas: Canvas, body: Body, side: int) -> Kidney:
    rng, s = canvas.rng, body.scale
    centre = body.at(side * rng.uniform(56, 64), 40, 4 * side) + rng.normal(0, (2, 3, 6))
    radii = np.array([rng.uniform(24, 30), rng.uniform(21, 26), rng.uniform(45, 56)]) * s
    lean, roll = side * rng.uniform(0.1, 0.3), side * rng.uniform(0.3, 0.7)
    tilt = np.array([[np.cos(lean), 0, np.sin(lean)], [0, 1, 0], [-np.sin(lean), 0, np.cos(lean)]])
    hilum = np.array([[np.cos(roll), np.sin(roll), 0], [-np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    turn = hilum @ tilt @ rotation(rng, 0.06)
    kidney = Kidney(centre=centre, radii=radii, turn=turn, side=side)
    halo = canvas.ellipsoid(centre, radii + 4 + 0.5 * body.fat * rng.uniform(0.5, 1), turn)
    canvas.paint(halo, T.VISCERAL_FAT, SOFT)
    for _ in range(2):  # loops that lean on the kidney and look like masses of it
        on = rng.normal(0, 1, 3) * (0.6, 0.5, 0.8) + (side * 0.2, -0.8, 0)
        start = centre + turn.T @ (on / np.linalg.norm(on) * (radii + 11 * s))
        path = winding(rng, start, start + rng.normal(0, 1, 3) * (14, 6, 16), 4, 2)
        gut(canvas, path, rng.uniform(7, 13) * s * np.ones(3), 2.2)

    box, q = canvas.ellipsoid(centre, radii, turn)
    pyramids = canvas.noise(box, 11 * s)
    q = q + 0.035 * canvas.noise(box, 16)
    canvas.fill(box, q < 1, T.CORTEX, (T.VISCERAL_FAT, *BOWEL))
    inner = rng.uniform(0.72, 0.8)
    canvas.fill(box, (q < inner) & (pyramids > -0.35), T.MEDULLA, (T.CORTEX,))
    inside = (T.CORTEX, T.MEDULLA)
    sinus_centre = centre - turn.T @ np.array([side * 0.6 * radii[0], 0, 0])
    sinus_radii = radii * np.array([0.7, 0.32, 0.45]) * rng.uniform(0.85, 1.15)
    sinus_box, sinus = canvas.ellipsoid(sinus_centre, sinus_radii, turn)
    calyces = canvas.noise(sinus_box, 8 * s)
    canvas.fill(sinus_box, sinus + 0.12 * calyces < 1, T.SINUS_FAT, inside)
    canvas.fill(sinus_box, (sinus < 0.9) & (calyces > rng.uniform(0.7, 1.3)), T.URINE, (T.SINUS_FAT,))
    pelvis = canvas.ellipsoid(
        sinus_centre - turn.T @ np.array([side * 5, 0, 4]), sinus_radii * rng.uniform(0.3, 0.55), turn
    )
    canvas.paint(pelvis, T.URINE, (T.SINUS_FAT, T.VISCERAL_FAT))
    return kidney


def _renal_vessels(canvas: Canvas, body: Body, kidney: Kidney) -> None:
    rng, s = canvas.rng, body.scale
    gate = kidney.centre - kidney.turn.T @ np.array([kidney.side * 0.75 * kidney.radii[0], 0, 0])
    roots = {
        T.ARTERY: body.at(8, 6, kidney.centre[2] / body.scale + 8),
        T.VEIN: body.at(-14, 2, kidney.centre[2] / body.scale),
    }
    fat = (T.VISCERAL_FAT, T.SINUS_FAT, T.PANCREAS, *BOWEL)
    for tissue, root in roots.items():
        wide = (5.5, 5, 4) if tissue is T.VEIN else (3.2, 2.8, 2.2)
        canvas.paint(canvas.tube(winding(rng, root, gate, 3, 2), wide), tissue, fat)
        for _ in range(3):
            inward = gate + kidney.turn.T @ (np.array([kidney.side * 0.7, *rng.normal(0, 0.25, 2)]) * kidney.radii)
            canvas.paint(
                canvas.tube(winding(rng, gate, inward, 2, 2), np.array([3, 2.2, 1.2]) * s), tissue, (T.SINUS_FAT,)
            )


def _liver_vessels(canvas: Canvas, body: Body) -> None:
    """Portal and hepatic veins: they branch, and cut across they look like small lesions."""
    rng, at = canvas.rng, body.at
    gate, cava = at(-26, -14, 26), at(-24, -8, 84)
    trunk = canvas.tube(np.stack([at(-4, -16, 2), gate]), (6, 6))
    canvas.paint(trunk, T.PORTAL_VEIN, (T.LIVER,))
    canvas.paint(trunk, T.VEIN, SOFT)

    def branch(start: np.ndarray, end: np.ndarray, radius: float, tissue: T, order: int) -> None:
        path = winding(rng, start, end, 5, 4)
        canvas.paint(canvas.tube(path, np.linspace(radius, radius * 0.55, 5)), tissue, (T.LIVER,))
        for node in path[1:4] if order else ():
            sideways = (rng.normal(0, 1, 3) * (24, 24, 18) + 0.35 * (end - start)) * (0.5 + 0.25 * order)
            branch(node, node + sideways, radius * 0.6, tissue, order - 1)

    for end in (at(-95, 20, 45), at(-90, -35, 35), at(-100, 10, 5), at(-55, -55, 50), at(20, -55, 62), at(-60, 35, 70)):
        branch(gate, end + rng.normal(0, 8, 3), rng.uniform(4, 5.5), T.PORTAL_VEIN, 2)
    for end in (at(-105, 15, 40), at(-65, -60, 40), at(10, -60, 60)):
        branch(cava, end + rng.normal(0, 8, 3), rng.uniform(4.5, 6), T.HEPATIC_VEIN, 2)

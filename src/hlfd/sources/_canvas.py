"""Drawing a map of tissues: ellipsoids and tubes in smoothly bent coordinates.

Axes are (Z, Y, X), pointing superior, posterior and left. World positions are mm in the same directions, the origin in
the midline at the height of the renal hilum. Everything is drawn in coordinates bent by a smooth random field, so that
no two organs are the same ellipsoid; later strokes cover earlier ones.
"""

from collections.abc import Sequence

import numpy as np

from hlfd.sources._tissue import Tissue as T

Box = tuple[slice, slice, slice]
Shape = tuple[Box, np.ndarray]  # a box, and in it the distance relative to the radius: below 1 inside
Point = Sequence[float] | np.ndarray  # (x, y, z), mm


class Canvas:
    """A map of tissues being drawn.

    Attributes:
        tissues: ids of `Tissue`, uint8 (Z, Y, X).
        shift_hu: deviation from the mean of the tissue, float32 (Z, Y, X).
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        spacing_mm: tuple[float, float, float],
        z0_mm: float,
        rng: np.random.Generator,
    ) -> None:
        self.rng = rng
        self.tissues = np.zeros(shape, dtype=np.uint8)
        self.shift_hu = np.zeros(shape, dtype=np.float32)
        nominal = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
        nominal[0] += z0_mm - nominal[0][0]
        self.axes_mm = [axis.astype(np.float32) for axis in nominal]
        self.bottom_mm, self.top_mm = float(self.axes_mm[0][0]), float(self.axes_mm[0][-1])
        self.spacing_mm = spacing_mm
        angle, offset = rng.normal(0, 0.035), rng.uniform(-4, 4, 3).astype(np.float32)
        z, y, x = np.meshgrid(*self.axes_mm, indexing="ij", sparse=True)
        fields = []
        for amplitude in (5, 4, 5):
            field = 2.6 * smooth_noise(shape, spacing_mm, (60, 45, 45), rng)
            field += amplitude * smooth_noise(shape, spacing_mm, (150, 120, 120), rng)
            fields.append(np.clip(field, -12, 12, out=field))
        self.z, self.y, self.x = fields
        self.z += z + offset[0]
        self.y += (y * np.cos(angle) - x * np.sin(angle)).astype(np.float32) + offset[1]
        self.x += (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32) + offset[2]

    def box(self, points: np.ndarray, reach_mm: Point | float) -> Box:
        """The voxels that lie within a distance (along x, y, z) of any of some points (N, 3) or between them."""
        at = points.astype(float)
        for _ in range(4):  # where on the straight grid a bent position lies
            where = [
                np.clip(np.searchsorted(axis, along), 0, len(axis) - 1)
                for axis, along in zip(self.axes_mm, at.T[::-1], strict=True)
            ]
            bent = np.stack([field[tuple(where)] for field in (self.x, self.y, self.z)], axis=1)
            straight = np.stack([axis[i] for axis, i in zip(self.axes_mm, where, strict=True)][::-1], axis=1)
            at = points - (bent - straight)
        low, high = at.min(axis=0), at.max(axis=0)
        reach = 1.25 * np.asarray(reach_mm) + 3 + np.array([0, 0, self.spacing_mm[0]])
        bounds = [
            slice(*np.searchsorted(axis, (a, b)).tolist())
            for axis, a, b in zip(self.axes_mm, (low - reach)[::-1], (high + reach)[::-1], strict=True)
        ]
        return bounds[0], bounds[1], bounds[2]

    def ellipsoid(self, centre: Point, radii: Point, turn: np.ndarray | None = None) -> Shape:
        """An ellipsoid; ``turn`` takes offsets (x, y, z) from its centre to its axes."""
        turn = np.eye(3) if turn is None else turn
        extent = 1.2 * np.sqrt(turn.T**2 @ np.square(radii))
        box = self.box(np.array([centre]), extent)
        offsets = [c[box] - np.float32(m) for c, m in zip((self.x, self.y, self.z), centre, strict=True)]
        squared = np.zeros(offsets[0].shape, dtype=np.float32)
        for row, radius in zip(turn, radii, strict=True):
            along = sum((np.float32(w / radius) * o for w, o in zip(row, offsets, strict=True) if w), np.float32(0))
            squared += along * along
        return box, np.sqrt(squared)

    def tube(self, points: np.ndarray, radii: Point) -> Shape:
        """A tube along a polyline (N, 3), its radius given at each point."""
        box = self.box(np.concatenate([points, (points[:-1] + points[1:]) / 2]), 1.05 * float(np.max(radii)))
        x, y, z = self.x[box], self.y[box], self.z[box]
        nearest = np.full(x.shape, np.inf, dtype=np.float32)
        for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            v = (b - a).astype(np.float32)
            px, py, pz = x - np.float32(a[0]), y - np.float32(a[1]), z - np.float32(a[2])
            t = np.clip((px * v[0] + py * v[1] + pz * v[2]) / max(float(v @ v), 1e-3), 0, 1)
            d = (px - t * v[0]) ** 2 + (py - t * v[1]) ** 2 + (pz - t * v[2]) ** 2
            np.minimum(nearest, np.sqrt(d) / (np.float32(ra) + t * np.float32(rb - ra)), out=nearest)
        return box, nearest

    def fill(self, box: Box, inside: np.ndarray, tissue: T, only: Sequence[T] = (), shift_hu: float = 0) -> None:
        """Give ``inside`` of a box a tissue, where it now is one of ``only`` if that is given."""
        if only:
            inside = inside & self.among(box, only)
        self.tissues[box][inside] = tissue
        self.shift_hu[box][inside] = shift_hu

    def paint(self, shape: Shape, tissue: T, only: Sequence[T] = (), level: float = 1, shift_hu: float = 0) -> None:
        """`fill` a shape up to ``level`` times its radius."""
        self.fill(shape[0], shape[1] < level, tissue, only, shift_hu)

    def among(self, box: Box, tissues: Sequence[T]) -> np.ndarray:
        chosen = np.zeros(len(T), dtype=bool)
        chosen[list(tissues)] = True
        return chosen[self.tissues[box]]

    def noise(self, box: Box, cell_mm: float) -> np.ndarray:
        """Smooth noise of about unit variance in a box."""
        shape = self.tissues[box].shape
        return smooth_noise((shape[0], shape[1], shape[2]), self.spacing_mm, (cell_mm, cell_mm, cell_mm), self.rng)


def smooth_noise(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    cell_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Noise of about unit variance that changes over ``cell_mm``: random values blended by cubic B-splines, float32."""
    weights = []
    for n, spacing, cell in zip(shape, spacing_mm, cell_mm, strict=True):
        at = np.arange(n) * spacing / cell + rng.random()
        knots = np.arange(-1, int(at[-1]) + 3 if n else 1)
        d = np.abs(at[:, None] - knots[None])
        w = np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.clip(2 - d, 0, None) ** 3 / 6)
        weights.append((w / np.sqrt((w**2).sum(axis=1, keepdims=True))).astype(np.float32))
    wz, wy, wx = weights
    values = rng.standard_normal((wz.shape[1], wy.shape[1], wx.shape[1]), dtype=np.float32)
    # einsum's own loops: BLAS may sum in another order with another number of threads.
    values = np.einsum("zk,kyx->zyx", wz, values)
    values = np.einsum("yk,zkx->zyx", wy, values)
    return np.einsum("zyk,kx->zyx", values, np.ascontiguousarray(wx.T))


def rotation(rng: np.random.Generator, spread: float = 9.0) -> np.ndarray:
    """A random rotation about each axis in turn by angles of standard deviation ``spread``, rad."""
    turn = np.eye(3)
    for i, angle in enumerate(rng.normal(0, spread, 3)):
        c, s = np.cos(angle), np.sin(angle)
        one = np.eye(3)
        j, k = (i + 1) % 3, (i + 2) % 3
        one[j, j], one[j, k], one[k, j], one[k, k] = c, -s, s, c
        turn = one @ turn
    return turn


def winding(rng: np.random.Generator, start: Point, end: Point, wobble_mm: float, pieces: int = 4) -> np.ndarray:
    """A polyline from one point to another that strays by about ``wobble_mm``, shape (pieces + 1, 3)."""
    t = np.linspace(0, 1, pieces + 1)[:, None]
    stray = rng.normal(0, wobble_mm, (pieces + 1, 3)) * np.sqrt(t * (1 - t)) * 2
    return np.asarray(start) + (np.asarray(end, dtype=float) - np.asarray(start)) * t + stray

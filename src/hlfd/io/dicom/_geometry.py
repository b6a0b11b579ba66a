"""Slices put in order along their normal, the affine they lie on, and whether they do."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hlfd.io.dicom._header import Frame

APART_MM = 0.01  # two slices closer than this are at one place
OFF_MM, OFF = 0.1, 0.05  # how far from the affine a slice may lie: mm, and parts of the distance between slices
TILT_DEGREES = 0.1
LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])


@dataclass(frozen=True)
class Problem:
    """Something about a series: a code, what it is in words, and whether the series can't be read for it."""

    code: str
    text: str
    error: bool


def ordered(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """Sorted by position along the normal of the first one's plane; as they are where any has no position."""
    if any(frame.position_mm is None or frame.directions is None for frame in frames):
        return tuple(frames)
    along = _positions(frames) @ _normal(frames[0])
    return tuple(frames[k] for k in np.argsort(along, kind="stable"))


def affine(frames: Sequence[Frame]) -> np.ndarray:
    """Index (column, row, slice) to world position in mm (RAS+) of slices in order, from first and last position.

    A gantry that was tilted shows as a shear: the slices' step is not along their normal. Without positions: spacing
    alone, from the origin.
    """
    first = frames[0]
    result = np.eye(4)
    between_rows, between_columns = first.pixel_mm or (1.0, 1.0)
    directions = np.array(first.directions or (1.0, 0, 0, 0, 1, 0)).reshape(2, 3)
    result[:3, 0] = directions[0] * between_columns
    result[:3, 1] = directions[1] * between_rows
    result[:3, 2] = np.cross(directions[0], directions[1]) * (first.thickness_mm or 1.0)
    if all(frame.position_mm is not None for frame in frames):
        positions = _positions(frames)
        result[:3, 3] = positions[0]
        step = (positions[-1] - positions[0]) / max(len(frames) - 1, 1)
        if np.linalg.norm(step) > APART_MM / 10:
            result[:3, 2] = step
    return LPS_TO_RAS @ result


def problems(frames: Sequence[Frame]) -> list[Problem]:
    """What is wrong or worth knowing about slices in order."""
    for frame in frames:
        for value, name in ((frame.position_mm, "ImagePositionPatient"), (frame.pixel_mm, "PixelSpacing")):
            if value is None or not np.isfinite(value).all():
                return [Problem("no-position", f"expected {name} in every slice, {frame.item} has none", True)]
        if frame.directions is None or not _orthonormal(frame.directions):
            what = "expected ImageOrientationPatient with two perpendicular unit vectors in every slice"
            return [Problem("no-position", f"{what}, {frame.item} has none", True)]
        if min(frame.pixel_mm or (0,)) <= 0:
            return [
                Problem("no-position", f"expected a positive PixelSpacing, {frame.item} has {frame.pixel_mm}", True)
            ]
    if len(frames) == 1:
        text = "one slice: its thickness stands for the distance between slices"
        return [Problem("single-slice", text, False)]
    found = _places(frames)
    if not found:
        found = _tilt(frames)
    numbers = [frame.number for frame in frames if frame.number is not None]
    if numbers not in (sorted(numbers), sorted(numbers, reverse=True)):
        text = "InstanceNumber doesn't follow the positions: slices are ordered by position"
        found.append(Problem("instance-order", text, False))
    return found


def _places(frames: Sequence[Frame]) -> list[Problem]:
    """Whether each slice lies where the affine says."""
    gaps = np.diff(_positions(frames) @ _normal(frames[0]))
    same = np.flatnonzero(gaps < APART_MM)
    if len(same):
        pair = f"{frames[same[0]].item} and {_where(frames[same[0]], frames[same[0] + 1])}"
        more = f" ({len(same)} such pairs)" if len(same) > 1 else ""
        return [Problem("duplicate-position", f"expected one slice at each position, {pair} share theirs{more}", True)]
    matrix = LPS_TO_RAS @ affine(frames)
    first = frames[0]
    corners = np.array([[0, 0], [first.columns - 1, 0], [0, first.rows - 1], [first.columns - 1, first.rows - 1]])
    index = np.array([[*corner, k, 1] for k in range(len(frames)) for corner in corners.tolist()], dtype=float)
    expected = (index @ matrix.T)[:, :3].reshape(len(frames), 4, 3)
    off = np.linalg.norm(_corners(frames, corners) - expected, axis=2).max(axis=1)
    usual = float(np.median(gaps))
    if off.max() <= max(min(OFF_MM, OFF * usual), APART_MM):
        return []
    k = int(gaps.argmax())
    where = f"between {frames[k].item} and {_where(frames[k], frames[k + 1])}"
    uneven = np.abs(gaps - usual) > max(APART_MM, OFF * usual)
    wide = gaps > 1.5 * usual
    if wide.any() and np.array_equal(wide, uneven):
        missing = int((np.rint(gaps[wide] / usual) - 1).sum())
        text = f"{missing} missing slice{'s' * (missing > 1)}: {gaps[k]:.2f} mm {where}, {usual:.2f} mm elsewhere"
        return [Problem("missing-slices", text, True)]
    if uneven.any():
        text = f"expected equal distances between slices, got {gaps.min():.2f} to {gaps.max():.2f} mm (widest {where})"
        return [Problem("unequal-spacing", text, True)]
    worst = int(off.argmax())
    text = f"expected slices on one grid, {frames[worst].item} lies {off[worst]:.2f} mm off the line of the others"
    return [Problem("off-grid", text, True)]


def _tilt(frames: Sequence[Frame]) -> list[Problem]:
    normal, step = _normal(frames[0]), (LPS_TO_RAS @ affine(frames))[:3, 2]
    sine = np.linalg.norm(np.cross(normal, step)) / np.linalg.norm(step)
    degrees = float(np.degrees(np.arcsin(min(sine, 1.0))))
    if degrees < TILT_DEGREES:
        said = max((abs(frame.tilt) for frame in frames), default=0.0)
        text = f"GantryDetectorTilt says {said:g} degrees, the positions show none: positions count"
        return [Problem("gantry-tilt", text, False)] if said >= 0.5 else []
    text = f"slices are stacked {degrees:.1f} degrees off their normal (gantry tilt): kept as a sheared affine"
    return [Problem("gantry-tilt", text, False)]


def _where(one: Frame, other: Frame) -> str:
    return f"frame {other.index + 1}" if one.item == other.item else str(other.item)


def _positions(frames: Sequence[Frame]) -> np.ndarray:
    return np.array([frame.position_mm for frame in frames], dtype=float)


def _normal(frame: Frame) -> np.ndarray:
    row, column = np.array(frame.directions).reshape(2, 3)
    return np.cross(row, column)


def _corners(frames: Sequence[Frame], corners: np.ndarray) -> np.ndarray:
    """World positions (frame, corner, 3) of (column, row) pairs by each slice's own header, in DICOM's axes."""
    directions = np.array([frame.directions for frame in frames]).reshape(-1, 2, 3)
    spacing = np.array([frame.pixel_mm for frame in frames])[:, ::-1]  # along a row is between columns
    steps = directions * spacing[:, :, None]
    return _positions(frames)[:, None] + np.einsum("cd,kdx->kcx", corners.astype(float), steps)


def _orthonormal(directions: Sequence[float]) -> bool:
    along = np.array(directions).reshape(2, 3)
    return bool(np.isfinite(along).all() and np.abs(along @ along.T - np.eye(2)).max() < 1e-2)

"""Fingerprint: what a data set's training patients say about window and spacing, and the plan made from it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hlfd.cases import Case, DataSource
from hlfd.data.preprocess import AXCODES, GridOptions
from hlfd.errors import InputError, unreadable
from hlfd.io.files import jsonable, write_json

PERCENTILES = (0.5, 99.5)
SAMPLES = 10_000
"""Foreground voxels of a case that are looked at: as many of each, of a small foreground some more than once, so that
no large tumour outweighs the others (nnU-Net's way)."""

ANISOTROPIC = 3.0
COARSE_PERCENTILE = 10.0


@dataclass(frozen=True)
class CaseFacts:
    """One case: grid of the upright volume, and HU of some foreground voxels."""

    case: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    foreground_hu: np.ndarray


@dataclass(frozen=True)
class Fingerprint:
    """Statistics of the training patients' cases (Isensee et al., nnU-Net, Nature Methods 2021).

    Attributes:
        cases: ids of those looked at.
        percentiles_hu: of the foreground, 0.5 and 99.5.
        mean_hu, std_hu: of the foreground; for the record.
        median_spacing_mm, coarse_spacing_mm: of slices, rows and columns: the median, and the 10th percentile.
        median_shape: slices, rows, columns.
    """

    cases: tuple[str, ...]
    percentiles_hu: tuple[float, float]
    mean_hu: float
    std_hu: float
    median_spacing_mm: tuple[float, float, float]
    coarse_spacing_mm: tuple[float, float, float]
    median_shape: tuple[float, float, float]

    @property
    def anisotropic(self) -> bool:
        """Whether slices are much farther apart than pixels, and much fewer, in the median."""
        slice_mm, *pixel_mm = self.median_spacing_mm
        slices, *plane = self.median_shape
        return slice_mm > ANISOTROPIC * max(pixel_mm) and slices * ANISOTROPIC < min(plane)


def case_facts(source: DataSource, case: Case) -> CaseFacts:
    """Read a labelled case. The voxels looked at are the same each time.

    Raises:
        InputError: image and label lie on different grids.
    """
    label = source.read_label(case)
    image = source.read_image(case)
    image.require_same_grid(label, f"case {case.id}: image and label")
    upright = image.oriented(AXCODES)
    foreground = image.voxels[label.voxels > 0]
    if len(foreground):
        foreground = np.random.default_rng(0).choice(foreground, SAMPLES, replace=len(foreground) < SAMPLES)
    return CaseFacts(case.id, upright.shape, upright.spacing_mm, foreground.astype(np.float32))


def fingerprint(cases: Sequence[CaseFacts], where: str) -> Fingerprint:
    """Put cases together; each that has any foreground counts alike, whatever its size.

    Raises:
        InputError: not one of them has any foreground; starts with ``where``.
    """
    voxels = np.concatenate([np.zeros(0, np.float32), *(c.foreground_hu for c in cases)]).astype(np.float64)
    if not len(voxels):
        raise InputError(f"{where}: fingerprint: none of the {len(cases)} training cases shows a labelled voxel")
    spacing = np.array([c.spacing_mm for c in cases])
    low, high = np.percentile(voxels, PERCENTILES)
    return Fingerprint(
        tuple(sorted(c.case for c in cases)),
        (float(f"{low:.4g}"), float(f"{high:.4g}")),
        float(voxels.mean()),
        float(voxels.std()),
        _three(np.median(spacing, axis=0)),
        _three(np.percentile(spacing, COARSE_PERCENTILE, axis=0)),
        _three(np.median([c.shape for c in cases], axis=0)),
    )


def planned(found: Fingerprint, given: GridOptions, window_hu: tuple[float, float] | None) -> dict[str, Any]:
    """The options of `Preprocess`, with what was not ``given`` taken from the fingerprint, as nnU-Net does.

    The window is the foreground's 0.5 and 99.5 percentiles. The in-plane spacing is the median of the two axes'.
    Only a patch of three axes asks for a distance of slices: the median, or, where slices are much farther apart than
    pixels, the 10th percentile, but never finer than the pixels.
    """
    options = given.model_dump(include=set(GridOptions.model_fields))
    options["window_hu"] = window_hu or found.percentiles_hu
    slice_mm, *plane_mm = found.median_spacing_mm
    if options["spacing_mm"] is None and options["size"] is None:
        options["spacing_mm"] = round(sum(plane_mm) / 2, 4)
    if options["slice_mm"] is None and given.dims == 3:
        if found.anisotropic:
            slice_mm = max(found.coarse_spacing_mm[0], *plane_mm)
        options["slice_mm"] = round(slice_mm, 4)
    return options


def plan_on_record(
    path: Path,
    made_from: Mapping[str, Any],
    facts: Callable[[], Sequence[CaseFacts]],
    given: GridOptions,
    window_hu: tuple[float, float] | None,
) -> dict[str, Any]:
    """The plan in a file, made and written now if there is none, or one made from something else.

    Args:
        made_from: what decides the plan, as JSON; kept beside it.
        facts: of the training cases.
        given, window_hu: what the recipe sets.

    Returns:
        ``{"fingerprint": {...}, "preprocess": {...}}``.
    """
    wanted = json.loads(json.dumps(jsonable(made_from)))
    if path.exists():
        try:
            kept = json.loads(path.read_text())
            if kept["made_from"] == wanted:
                return {key: kept[key] for key in ("fingerprint", "preprocess")}
        except (ValueError, KeyError, TypeError) as error:
            raise unreadable(path, "a plan", error) from None
    found = fingerprint(facts(), str(path))
    plan = {
        "fingerprint": {**asdict(found), "anisotropic": found.anisotropic},
        "preprocess": planned(found, given, window_hu),
    }
    write_json(path, {**plan, "made_from": wanted})
    return json.loads(json.dumps(plan))


def _three(values: np.ndarray) -> tuple[float, float, float]:
    first, second, third = (float(v) for v in values)
    return first, second, third

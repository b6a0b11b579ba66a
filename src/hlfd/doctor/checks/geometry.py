"""Geometry: what the headers say about where voxels lie."""

from collections.abc import Iterator

import numpy as np
from nibabel.affines import obliquity

from hlfd.doctor.anatomy import axes
from hlfd.doctor.checks.files import REFUSED
from hlfd.doctor.facts import CaseFacts, Grid, wrong_axes
from hlfd.doctor.registry import DataSet, Found, check, check_case
from hlfd.errors import InputError
from hlfd.io import nifti
from hlfd.volume import Volume

RIGHT_ANGLE = 2e-3  # cosine up to which an angle is one
Headers = Iterator[tuple[str, nifti.Header]]


def _headers(facts: CaseFacts) -> Headers:
    if facts.image is not None:
        yield "image", facts.image
    if facts.label is not None:
        yield "label", facts.label


def _pair(facts: CaseFacts) -> tuple[nifti.Header | Grid, nifti.Header | Grid] | None:
    """Image and label map, if both say where they lie; a label map of a DICOM series with the series' axes."""
    image, label = facts.image or facts.grid, facts.label
    if image is None or label is None:
        return None
    if facts.image is None and len(label.shape) >= 3:
        try:
            turned = _grid(label).with_axes_of(_grid(image))
        except InputError:
            return None
        return image, Grid(turned.shape, turned.affine)
    return image, label


def _grid(header: nifti.Header | Grid) -> Volume:
    return Volume(np.broadcast_to(np.zeros((), np.uint8), header.shape[:3]), header.affine)


def _spacing(header: nifti.Header | Grid) -> np.ndarray:
    return np.linalg.norm(header.affine[:3, :3], axis=0)


def _invertible(header: nifti.Header | Grid) -> bool:
    linear = header.affine[:3, :3]
    return len(header.shape) >= 3 and bool(np.isfinite(header.affine).all()) and abs(np.linalg.det(linear)) > 1e-9


def _largest_cosine(header: nifti.Header | Grid) -> float:
    """Of the angles between array axes: 0 for right angles."""
    unit = header.affine[:3, :3] / _spacing(header)
    return float(np.abs(unit.T @ unit - np.eye(3)).max())


def _mm(values: np.ndarray | tuple[float, ...]) -> str:
    return " x ".join(f"{value:.4g}" for value in values[:3]) + " mm"


@check_case("shape-mismatch", "error", REFUSED)
def shape_mismatch(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """Image and label of different shapes."""
    if (pair := _pair(facts)) and pair[0].shape[:3] != pair[1].shape[:3]:
        image, label = (" x ".join(map(str, header.shape[:3])) for header in pair)
        yield f"image of {image} voxels, label of {label}"


@check_case("affine-mismatch", "error", REFUSED)
def affine_mismatch(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """Image and label that don't lie in the same place."""
    pair = _pair(facts)
    if pair is None or pair[0].shape[:3] != pair[1].shape[:3]:
        return
    try:
        grids = [_grid(header) for header in pair]
    except InputError:
        return
    try:
        grids[0].require_same_grid(grids[1], "")
    except InputError as error:
        said = str(error).split("the affines differ, ")[-1].split(" (")[0]
        at = [f"{axes(header.affine)} {_mm(_spacing(header))}" for header in pair]
        yield f"image and label lie apart, {said}: image {at[0]}, label {at[1]}"


@check_case("axes-missing", "error", REFUSED, "source msd splits a fourth axis into channels")
def axes_missing(facts: CaseFacts, data: DataSet) -> Iterator[str]:
    """Two axes, or four."""
    for what, header in _headers(facts):
        if wrong_axes(header, data.source):
            yield f"{what} has {len(header.shape)} axes, expected 3: {' x '.join(map(str, header.shape))}"


@check_case("not-numbers", "error", REFUSED)
def not_numbers(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """Colours, complex numbers."""
    for what, header in _headers(facts):
        if header.dtype.kind not in "iuf":
            yield f"{what} holds {'colours' if header.dtype.names else header.dtype}, expected one real number a voxel"


@check_case("singular-affine", "error", REFUSED)
def singular_affine(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """An affine that can't be inverted."""
    for what, header in _headers(facts):
        if len(header.shape) >= 3:
            try:
                _grid(header)
            except InputError:
                yield f"{what}: the affine places all voxels on one plane, or is not finite"


@check_case("two-affines", "error", REFUSED, "set the code of the wrong one to 0")
def two_affines(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """The sform and the qform of a file disagree about spacing or orientation."""
    for what, header in _headers(facts):
        if apart := nifti.disagreement(header):
            yield f"{what}: {apart}"


@check_case("two-origins", "note", "the sform counts")
def two_origins(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """They agree about these, and place the image elsewhere."""
    for what, header in _headers(facts):
        if header.sform is None or header.qform is None or nifti.disagreement(header) or len(header.shape) < 3:
            continue
        ends = np.array([[0, 0, 0, 1], [*(n - 1 for n in header.shape[:3]), 1]]).T
        apart_mm = float(np.abs((header.sform - header.qform)[:3] @ ends).max())
        if apart_mm > 0.1:
            yield f"{what}: sform and qform place a corner {apart_mm:.3g} mm apart"


@check_case(
    "identity-affine",
    "warning",
    "believed: pixels of 1 mm, so distances and volumes are wrong",
    lits=("volumes 28 to 47 are left out, others believed", "source.unknown_spacing=keep, source.spacing_mm"),
)
def identity_affine(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """The affine is an identity, as of LiTS volumes 28 to 47: the spacing was lost."""
    image = facts.image
    if image is not None and image.sform is None and image.qform is None:
        return  # `no_affine` says so
    if image is not None and np.array_equal(image.affine[:3, :3], np.eye(3)):
        yield "the affine is an identity: the spacing was lost"


@check_case(
    "no-affine",
    "warning",
    "the axes are taken to run to the left, to the front and up, as nibabel does; the spacing is pixdim's",
    lits=(
        "volumes 28 to 47 are left out if their pixels are 1 mm, others believed",
        "source.unknown_spacing=keep, source.spacing_mm",
    ),
)
def no_affine(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """Neither sform nor qform counts: the header doesn't say how the axes run."""
    for what, header in _headers(facts):
        if header.sform is None and header.qform is None:
            yield f"{what}: sform and qform code 0, so orientation and position are not known"


@check_case("kits19-affine", "note", "the sform counts; what we write has both")
def kits19_affine(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """KiTS19's headers: an anti-diagonal sform, and a qform code of 0."""
    header = facts.image
    if header is None or header.sform is None or header.qform is not None:
        return
    if header.affine[:3, :3][(0, 1, 2), (2, 1, 0)].all() and np.count_nonzero(header.affine[:3, :3]) == 3:
        yield f"anti-diagonal sform, qform code 0: slices on the first axis ({axes(header.affine)})"


@check_case("sheared-axes", "warning", "the shear stays in the affine; slices are cut along the array")
def sheared_axes(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """Axes that aren't perpendicular, as after a gantry tilt."""
    for what, header in _headers(facts):
        if _invertible(header):
            cosine = _largest_cosine(header)
            if cosine > RIGHT_ANGLE:
                yield f"{what}: axes are {90 - np.degrees(np.arcsin(min(cosine, 1))):.1f} degrees apart, expected 90"


@check_case("oblique-axes", "note", "slices are cut along the array, on the axis nearest to the patient's")
def oblique_axes(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """Axes that aren't the patient's: by more than 3 degrees."""
    header = facts.image or facts.grid
    if header is not None and _invertible(header) and _largest_cosine(header) <= RIGHT_ANGLE:
        degrees = float(np.degrees(obliquity(header.affine)).max())
        if degrees > 3:
            yield f"axes are turned {degrees:.0f} degrees from the patient's"


@check_case("pixdim", "warning", "the affine counts; evaluate refuses such a file among predictions and references")
def pixdim(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """The header's spacing field says something else than the affine."""
    for what, header in _headers(facts):
        if not _invertible(header) or nifti.disagreement(header):
            continue
        if not np.allclose(header.pixdim_mm[:3], _spacing(header), rtol=1e-3):
            yield f"{what}: pixdim says {_mm(header.pixdim_mm)}, the affine {_mm(_spacing(header))}"


@check_case("unit", "warning", "taken as mm")
def unit(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """A header whose spacing is not in mm."""
    for what, header in _headers(facts):
        if header.unit not in ("mm", "unknown"):
            yield f"{what}: the header says its spacing is in {header.unit}"


@check_case("implausible-spacing", "warning", "kept as it is", "preprocess.spacing_mm, preprocess.slice_mm")
def implausible_spacing(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """Pixels or distances between slices that no CT has."""
    header = facts.image or facts.grid
    if header is not None and _invertible(header):
        spacing = _spacing(header)
        if spacing.min() < 0.2 or np.sort(spacing)[1] > 6 or spacing.max() > 12:
            yield f"{_mm(spacing)}: CT has pixels of 0.2 to 6 mm and slices up to 12 mm apart"


@check("spacing-outlier", "note", "kept as it is", "preprocess.spacing_mm, preprocess.slice_mm")
def spacing_outlier(data: DataSet) -> Found:
    """A spacing far from the others': beyond Tukey's outer fences, of at least 8 cases."""
    read = [(facts.case.id, grid) for facts in data.cases if (grid := facts.image or facts.grid) and _invertible(grid)]
    if len(read) < 8:
        return
    logs = np.log([_ordered(grid) for _, grid in read])
    low, high = np.percentile(logs, (25, 75), axis=0)
    reach = np.maximum(3 * (high - low), np.log(1.5))  # where all are alike, a factor of 1.5 is none
    for (case, _), row in zip(read, logs, strict=True):
        for place, name in enumerate(("between slices", "in the slice")):
            if not low[place] - reach[place] <= row[place] <= high[place] + reach[place]:
                usual = np.exp([low[place], high[place]])
                yield case, f"{np.exp(row[place]):.3g} mm {name}, mostly {usual[0]:.3g} to {usual[1]:.3g}"


def _ordered(grid: nifti.Header | Grid) -> tuple[float, float]:
    """Spacing along the body's axis, and the mean of the others, mm."""
    spacing = _spacing(grid)
    axial = int(np.abs(grid.affine[2, :3]).argmax())
    return float(spacing[axial]), float(np.delete(spacing, axial).mean())

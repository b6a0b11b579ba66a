"""Surfaces and distances: against brute force, analytic shapes, MONAI, and, where it is installed, surface-distance."""

import itertools
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy.spatial.distance import cdist

from hlfd.evaluation.distances import SurfaceDistances, surface_distances
from hlfd.evaluation.surfaces import bounding_box, element_surface, voxel_surface

pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call

SPACING = (0.7, 1.3, 2.5)


def slow_surface(mask: np.ndarray, connectivity: int) -> list[tuple[int, ...]]:
    """Voxels with a neighbour that isn't in the mask, one by one."""
    found = []
    for index in zip(*np.nonzero(mask), strict=True):
        for step in itertools.product((-1, 0, 1), repeat=3):
            beside = tuple(i + s for i, s in zip(index, step, strict=True))
            inside = all(0 <= b < n for b, n in zip(beside, mask.shape, strict=True)) and mask[beside]
            if 0 < sum(map(abs, step)) <= connectivity and not inside:
                found.append(index)
                break
    return found


masks = hnp.arrays(bool, (5, 6, 4), elements=st.booleans(), fill=st.sampled_from([False, True]))


@given(masks, st.sampled_from([1, 2, 3]))
def test_border_voxels(mask: np.ndarray, connectivity: int):
    expected = np.array(slow_surface(mask, connectivity), dtype=float).reshape(-1, 3) * SPACING
    assert np.array_equal(voxel_surface(mask, SPACING, connectivity).points_mm, expected)


@given(masks, masks)
def test_every_reading_against_brute_force(prediction: np.ndarray, reference: np.ndarray):
    got = surface_distances(prediction, reference, SPACING)
    if not prediction.any() or not reference.any():
        assert got is None
        return
    p, r = (np.array(slow_surface(m, 1)) * SPACING for m in (prediction, reference))
    between = cdist(p, r)
    there, back = sorted(between.min(1)), sorted(between.min(0))
    both = [*there, *back]
    assert got.assd_mm == pytest.approx(sum(both) / len(both))
    assert got.rmsd_mm == pytest.approx(math.sqrt(sum(d * d for d in both) / len(both)))
    assert got.hd_mm == pytest.approx(max(both))
    for tolerance in (0.0, 0.75, 1.5):
        assert got.surface_dice(tolerance) == pytest.approx(sum(d <= tolerance + 1e-12 for d in both) / len(both))

    def percentile(values: list[float]) -> float:  # linear between the two nearest
        place = 0.95 * (len(values) - 1)
        low = int(place)
        return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])

    assert got.hd95_mm == pytest.approx(max(percentile(there), percentile(back)))


@given(masks, masks, st.integers(0, 3))
def test_neither_the_order_nor_what_lies_around_matters(prediction: np.ndarray, reference: np.ndarray, around: int):
    one = surface_distances(prediction, reference, SPACING)
    other = surface_distances(
        *(np.pad(m, ((around, 1), (0, around), (2, 0))) for m in (reference, prediction)), SPACING
    )
    if one is None or other is None:
        assert one is None
        assert other is None
        return
    for reading in ("assd_mm", "rmsd_mm", "hd_mm", "hd95_mm"):
        assert getattr(one, reading) == pytest.approx(getattr(other, reading))


@given(masks)
def test_bounding_box(mask: np.ndarray):
    box = bounding_box(mask, np.zeros_like(mask))
    where = np.argwhere(mask)
    if not len(where):
        assert box is None
    else:
        assert box == tuple(slice(a, b + 1) for a, b in zip(where.min(0), where.max(0), strict=True))


def ball(radius_mm: float, centre_mm: tuple[float, float, float], spacing: tuple[float, float, float]) -> np.ndarray:
    shape = tuple(math.ceil(40 / s) for s in spacing)
    axes = [np.arange(n) * s - c for n, s, c in zip(shape, spacing, centre_mm, strict=True)]
    return sum(a**2 for a in np.meshgrid(*axes, indexing="ij")) <= radius_mm**2


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.6, 0.6, 2.0)])
def test_concentric_balls_are_as_far_apart_as_their_radii(spacing):
    got = surface_distances(ball(15, (20, 20, 20), spacing), ball(10, (20, 20, 20), spacing), spacing)
    assert got is not None
    voxel = math.hypot(*spacing)
    for reading in (got.assd_mm, got.rmsd_mm, got.hd_mm, got.hd95_mm):
        assert reading == pytest.approx(5, abs=voxel)
    assert got.assd_mm == pytest.approx(5, abs=0.3 * voxel)
    assert (got.surface_dice(5 - voxel), got.surface_dice(5 + voxel)) == (0.0, 1.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_moved_along_an_axis(axis: int):
    reference = np.zeros((20, 20, 20), bool)
    reference[4:12, 4:12, 4:12] = True
    got = surface_distances(np.roll(reference, 3, axis), reference, SPACING)
    assert got is not None
    assert got.hd_mm == pytest.approx(3 * SPACING[axis])
    near, far = got.prediction_mm, got.reference_mm
    assert near.size == far.size == 8**3 - 6**3
    assert (near == 0).sum() == 28 * 5  # the sides' rings of 28 voxels on the 5 layers that both have


def test_a_distance_that_is_the_tolerance_is_within_it():
    """3 x 0.7 is 2.0999999999999996 or 2.1000000000000005, as it comes, and a header has 0.7 as a float32."""
    reference = np.zeros((20, 20, 20), bool)
    reference[4:12, 4:12, 4:12] = True
    prediction = np.roll(reference, 3, 0)
    both = [torch.from_numpy(m)[None, None].float() for m in (prediction, reference)]
    spacing = (0.7, 1.3, 2.5)
    expected = compute_surface_dice(*both, [2.1], include_background=True, spacing=spacing).item()
    for first in (0.7, float(np.float32(0.7)), float(np.nextafter(np.float32(0.7), np.float32(1)))):
        got = surface_distances(prediction, reference, (first, 1.3, 2.5))
        assert got is not None
        assert got.hd_mm == pytest.approx(2.1)
        assert got.surface_dice(2.1) == expected == 1.0
        assert got.surface_dice(2.0999) < 1


SHEAR = np.array([[0.8, 0, 0], [0, 0.8, 1.0], [0, 0, 2.5]])  # a gantry tilt: 1 mm along rows a slice


@given(masks, masks)
def test_sheared_axes_against_brute_force(prediction: np.ndarray, reference: np.ndarray):
    got = surface_distances(prediction, reference, SHEAR)
    if got is None:
        return
    p, r = (np.array(slow_surface(m, 1)) @ SHEAR.T for m in (prediction, reference))
    between = cdist(p, r)
    assert got.assd_mm == pytest.approx(np.concatenate([between.min(1), between.min(0)]).mean())
    assert got.hd_mm == pytest.approx(max(between.min(1).max(), between.min(0).max()))


def box_area(n: int, matrix: np.ndarray) -> float:
    """Area of the surface elements of n x n x n voxels: a parallelogram in faces, cut off along edges and at corners.

    Marching cubes cuts an edge half a voxel beside it, and a corner by the triangle of three such points.
    """

    def area(u: np.ndarray, v: np.ndarray) -> float:
        return float(np.linalg.norm(np.cross(u, v)))

    a, b, c = matrix.T
    pairs = ((a, b, c), (b, c, a), (c, a, b))
    faces = sum(2 * (n - 1) ** 2 * area(u, v) for u, v, _ in pairs)
    edges = sum(2 * (n - 1) * area(w, (u + sign * v) / 2) for u, v, w in pairs for sign in (1, -1))
    signs = itertools.product((1, -1), repeat=2)
    corners = sum(2 * area((b * s - a) / 2, (c * t - a) / 2) / 2 for s, t in signs)
    return faces + edges + corners


@pytest.mark.parametrize("matrix", [np.diag(SPACING), SHEAR], ids=["spacing", "sheared"])
def test_areas_of_a_box_are_exact(matrix: np.ndarray):
    n = 6
    box = np.zeros((10, 10, 10), bool)
    box[2 : 2 + n, 2 : 2 + n, 2 : 2 + n] = True
    spacing = np.diag(matrix) if np.array_equal(matrix, np.diag(np.diag(matrix))) else matrix
    areas = element_surface(box, spacing).areas_mm2
    assert areas is not None
    assert len(areas) == (n + 1) ** 3 - (n - 1) ** 3
    assert areas.sum() == pytest.approx(box_area(n, matrix), rel=1e-6)


def test_surface_dice_of_surface_elements_of_a_moved_box_is_exact():
    """A box moved by one voxel: the elements of its sides stay where they are but for one layer, the ends don't.

    In closed form, from the areas that Nikolov et al. give a flat, an edge and a corner element.
    """
    n, (a, b, c) = 6, SPACING
    reference = np.zeros((12, 12, 12), bool)
    reference[2 : 2 + n, 2 : 2 + n, 2 : 2 + n] = True
    got = surface_distances(np.roll(reference, 1, 0), reference, SPACING, element_surface)
    assert got is not None
    edge = {"a": a * math.hypot(b, c) / 2, "b": b * math.hypot(a, c) / 2, "c": c * math.hypot(a, b) / 2}
    corner = math.sqrt((a * b) ** 2 + (b * c) ** 2 + (a * c) ** 2) / 8
    side = 2 * (n - 1) * (a * b + a * c) + 4 * edge["a"]  # the elements of a layer on the box's sides, of n - 1 layers
    ring = 2 * (n - 1) * (edge["b"] + edge["c"]) + 4 * corner  # those on an end's rim
    end = (n - 1) ** 2 * b * c
    total = (n - 1) * side + 2 * (ring + end)
    # In place: n - 1 side layers, and the one rim that lies on the other box's sides.
    assert got.surface_dice(0.5 * a) == pytest.approx(((n - 1) * side + ring) / total, rel=1e-6)
    assert got.surface_dice(a) == 1.0


def test_areas_of_surface_elements_add_up_to_the_surface():
    radius, spacing = 15.0, (0.8, 0.8, 1.0)
    surface = element_surface(ball(radius, (20, 20, 20), spacing), spacing)
    assert surface.areas_mm2 is not None
    assert surface.areas_mm2.sum() == pytest.approx(4 * math.pi * radius**2, rel=0.1)  # a staircase, cut at its corners
    box = np.zeros((14, 16, 18), bool)
    box[2:12, 3:13, 4:14] = True
    areas = element_surface(box, SPACING).areas_mm2
    assert areas is not None
    faces = 200 * (0.7 * 1.3 + 1.3 * 2.5 + 0.7 * 2.5)
    assert 0.85 * faces < areas.sum() < faces  # edges and corners are cut off


def test_weights_count():
    got = SurfaceDistances(np.array([0.0, 4.0]), np.array([2.0]), np.array([3.0, 1.0]), np.array([4.0]))
    assert got.assd_mm == pytest.approx((0 * 3 + 4 * 1 + 2 * 4) / 8)
    assert got.rmsd_mm == pytest.approx(math.sqrt((16 + 4 * 4) / 8))
    assert got.surface_dice(2.0) == pytest.approx(7 / 8)


def blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    centre = random.uniform(14, 26, 3)
    a = ball(8, tuple(centre), (1.1, 1.1, 2.2))
    b = ball(7, tuple(centre + random.uniform(-3, 3, 3)), (1.1, 1.1, 2.2))
    b[2, 2, 2] = True  # a false positive far away
    return a, b


@pytest.mark.parametrize("seed", range(3))
def test_as_monai(seed: int):
    prediction, reference = blobs(seed)
    spacing = (1.1, 1.1, 2.2)
    got = surface_distances(prediction, reference, spacing)
    assert got is not None
    both = [torch.from_numpy(m)[None, None].float() for m in (prediction, reference)]
    options = {"include_background": True, "spacing": spacing}
    assert got.hd_mm == pytest.approx(compute_hausdorff_distance(*both, **options).item(), rel=1e-5)
    assert got.hd95_mm == pytest.approx(compute_hausdorff_distance(*both, percentile=95, **options).item(), rel=1e-5)
    assert got.assd_mm == pytest.approx(
        compute_average_surface_distance(*both, symmetric=True, **options).item(), rel=1e-5
    )
    assert got.surface_dice(1.5) == pytest.approx(compute_surface_dice(*both, [1.5], **options).item(), rel=1e-5)
    elements = surface_distances(prediction, reference, spacing, element_surface)
    assert elements is not None
    assert elements.surface_dice(1.5) == pytest.approx(
        compute_surface_dice(*both, [1.5], use_subvoxels=True, **options).item(), rel=1e-4
    )


@pytest.mark.parametrize("seed", range(3))
def test_surface_elements_as_surface_distance(seed: int):
    theirs = pytest.importorskip("surface_distance", reason="surface-distance is not installed")
    prediction, reference = blobs(seed)
    spacing = (1.1, 1.1, 2.2)
    got = surface_distances(prediction, reference, spacing, element_surface)
    assert got is not None
    found = theirs.compute_surface_distances(reference, prediction, spacing)
    for tolerance in (0.5, 1.0331, 2.1781):
        assert got.surface_dice(tolerance) == pytest.approx(
            theirs.compute_surface_dice_at_tolerance(found, tolerance), rel=1e-5
        )


def test_a_real_liver_and_its_tumours(shared_data: Path):
    image = nib.load(shared_data / "ircad01_p01" / "segmentation.nii.gz")
    voxels = np.asarray(image.dataobj)[::2, ::2, 20:60]
    spacing = (2 * 0.57, 2 * 0.57, 1.6)
    for reference in (np.isin(voxels, (1, 2)), voxels == 2):
        prediction = np.roll(reference, (2, -1, 1), (0, 1, 2))
        got = surface_distances(prediction, reference, spacing)
        assert got is not None
        both = [torch.from_numpy(np.ascontiguousarray(m))[None, None].float() for m in (prediction, reference)]
        options = {"include_background": True, "spacing": spacing}
        expected = compute_hausdorff_distance(*both, percentile=95, **options).item()
        assert got.hd95_mm == pytest.approx(expected, rel=1e-5)
        expected = compute_average_surface_distance(*both, symmetric=True, **options).item()
        assert got.assd_mm == pytest.approx(expected, rel=1e-5)

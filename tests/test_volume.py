"""Volume: turning it moves no voxel in the patient and loses none."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hlfd.errors import InputError
from hlfd.volume import Volume

AXCODES = ["".join(p) for a in permutations(("LR", "PA", "IS")) for p in product(*a)]
VOXELS = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)  # every voxel has its own value

shapes = st.tuples(*[st.integers(1, 6)] * 3)


def world_mm(volume: Volume) -> dict[int, np.ndarray]:
    """Voxel value -> where it lies."""
    return {int(volume.voxels[i]): volume.affine[:3, :3] @ i + volume.affine[:3, 3] for i in np.ndindex(volume.shape)}


@given(data=st.data(), axcodes=st.sampled_from(AXCODES), shape=shapes)
def test_turning_leaves_every_voxel_where_it_is_and_goes_back_exactly(affines, data, axcodes, shape):
    volume = Volume(np.arange(np.prod(shape)).reshape(shape), data.draw(affines))
    turned = volume.oriented(axcodes)
    assert turned.axcodes == axcodes
    before, after = world_mm(volume), world_mm(turned)
    assert before.keys() == after.keys()
    np.testing.assert_allclose([after[v] for v in before], list(before.values()), atol=1e-9)
    for back in (turned.oriented(volume.axcodes), volume.restored(turned.voxels, axcodes)):
        np.testing.assert_array_equal(back.voxels, volume.voxels)
        np.testing.assert_allclose(back.affine, volume.affine, atol=1e-9)


@pytest.mark.parametrize("angles", list(product((0, 45, 90, 135), repeat=3)), ids=str)
def test_voxels_come_back_also_where_an_axis_lies_between_two_directions(angles: tuple[int, int, int]):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * (0.7, 0.7, 3.0)
    volume = Volume(VOXELS, affine)
    restored = volume.restored(volume.oriented("SPL").voxels, "SPL")
    np.testing.assert_array_equal(restored.voxels, VOXELS)
    np.testing.assert_array_equal(restored.affine, affine)


@given(data=st.data())
def test_spacing_is_the_distance_between_neighbours(affines, data):
    volume = Volume(VOXELS, data.draw(affines))
    at = world_mm(volume)
    for axis, mm in enumerate(volume.spacing_mm):
        neighbour = VOXELS[tuple(np.eye(3, dtype=int)[axis])]
        assert mm == pytest.approx(float(np.linalg.norm(at[int(neighbour)] - at[0])))


@pytest.mark.parametrize(
    ("voxels", "affine", "message"),
    [
        (VOXELS[0], np.eye(4), r"3 axes, this array has 2: shape \(3, 4\)"),
        (VOXELS[None], np.eye(4), r"3 axes, this array has 4: shape \(1, 2, 3, 4\)"),
        (VOXELS, np.eye(3), "4 x 4"),
        (VOXELS, np.diag([1.0, 0, 1, 1]), "invertible"),
        (VOXELS, np.diag([1.0, np.nan, 1, 1]), "finite"),
    ],
)
def test_what_is_no_volume(voxels: np.ndarray, affine: np.ndarray, message: str):
    with pytest.raises(InputError, match=message):
        Volume(voxels, affine)


def test_voxels_of_another_shape_are_not_alike():
    with pytest.raises(InputError, match=r"expected voxels of shape \(2, 3, 4\), got \(2, 3, 5\)"):
        Volume(VOXELS, np.eye(4)).like(np.zeros((2, 3, 5)))


def tilted(degrees: float) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
    return affine


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Volume(np.zeros((2, 4, 3)), np.eye(4)), r"mask: expected shape \(2, 3, 4\), got \(2, 4, 3\)"),
        (Volume(VOXELS, np.diag([1, 1, 1.1, 1])), "mask: the affines differ, a corner lies 0.3 mm away"),
        (Volume(VOXELS, tilted(1)), "a corner lies 0.05"),
        (Volume(VOXELS, np.eye(4) + np.eye(4, k=3) * 5), "a corner lies 5 mm away"),
    ],
)
def test_another_grid_is_told(other: Volume, message: str):
    with pytest.raises(InputError, match=message):
        Volume(VOXELS, np.eye(4)).require_same_grid(other, "mask")


def test_rounding_of_an_affine_is_no_other_grid():
    Volume(VOXELS, np.eye(4)).require_same_grid(Volume(VOXELS, np.eye(4) + np.eye(4, k=3) * 5e-3), "mask")

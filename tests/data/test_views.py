"""Views: each cut holds what it says, whatever the sizes."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hlfd.data import views


@given(count=st.integers(1, 9), neighbours=st.integers(0, 4), data=st.data())
def test_neighbours_are_those_of_the_whole_stack_with_its_ends_repeated(count, neighbours, data):
    stack = torch.arange(float(count))[:, None, None].expand(count, 2, 3)
    first = data.draw(st.integers(0, count - 1))
    wanted = slice(first, data.draw(st.integers(first + 1, count)))
    needed = views.reach(wanted, count, neighbours)
    seen = views.with_neighbours(stack[needed], needed.start, wanted, count, neighbours)
    assert tuple(seen.shape) == (wanted.stop - wanted.start, 2 * neighbours + 1, 2, 3)
    padded = np.pad(np.arange(count), neighbours, mode="edge")
    for row, k in enumerate(range(wanted.start, wanted.stop)):
        np.testing.assert_array_equal(seen[row, :, 0, 0], padded[k : k + 2 * neighbours + 1])


@given(
    shape=st.tuples(*[st.integers(1, 30)] * 3), window=st.tuples(*[st.integers(1, 12)] * 3), overlap=st.floats(0, 0.9)
)
def test_windows_cover_every_voxel(shape, window, overlap):
    covered, tiled = np.zeros(shape, int), np.zeros(shape, int)
    for start in views.overlapping(shape, window, overlap):
        assert all(i + size <= n or (i == 0 and n < size) for i, size, n in zip(start, window, shape, strict=True))
        covered[tuple(slice(i, i + size) for i, size in zip(start, window, strict=True))] += 1
    assert covered.min() >= 1
    for start in views.tiles(shape, window):
        tiled[tuple(slice(i, i + size) for i, size in zip(start, window, strict=True))] += 1
    assert (tiled == 1).all()


@given(shape=st.tuples(*[st.integers(1, 9)] * 3), window=st.tuples(*[st.integers(1, 6)] * 3))
def test_tiles_put_together_are_the_stack(shape, window):
    stack = np.random.default_rng(0).integers(1, 99, shape)
    whole = np.full([n + 6 for n in shape], -1)
    for start in views.tiles(shape, window):
        part = views.cut(stack, start, window, 0)
        assert part.shape == window
        whole[tuple(slice(i, i + size) for i, size in zip(start, window, strict=True))] = part
    np.testing.assert_array_equal(whole[tuple(slice(0, n) for n in shape)], stack)
    assert (np.delete(whole.ravel(), np.flatnonzero(whole.ravel() > 0)) <= 0).all()
    assert (whole > 0).sum() == stack.size


def test_importance_is_highest_in_the_middle_and_positive():
    weights = views.importance((8, 16, 16))
    assert weights.shape == (8, 16, 16) and weights.dtype == torch.float32
    assert weights.min() > 0 and weights.max() <= 1
    assert weights[4, 8, 8] > weights[4, 8, 2] > weights[0, 0, 0]
    torch.testing.assert_close(weights, weights.transpose(1, 2))

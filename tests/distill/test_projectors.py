"""Several taps as one, and the learned heads."""

import numpy as np
import pytest
import torch

from hlfd.distill.projectors import Head, fuse

both_dims = pytest.mark.parametrize("dims", [2, 3])


def features(dims: int) -> dict[str, torch.Tensor]:
    sizes = {"e2": (2, 8), "e3": (3, 4), "e4": (5, 2)}  # channels, pixels an axis
    g = torch.Generator().manual_seed(0)
    return {role: torch.randn(2, channels, *[size] * dims, generator=g) for role, (channels, size) in sizes.items()}


def halved(a: np.ndarray) -> np.ndarray:
    """Linear resizing to half the size is the mean of each two neighbours."""
    for axis in range(2, a.ndim):
        even, odd = [np.take(a, range(first, a.shape[axis], 2), axis) for first in (0, 1)]
        a = (even + odd) / 2
    return a


@both_dims
@pytest.mark.parametrize("order", [("e2", "e3"), ("e3", "e2")])
def test_fuse_resizes_to_the_smallest_and_keeps_the_order(dims, order):
    given = features(dims)
    parts = {"e2": halved(given["e2"].numpy()), "e3": given["e3"].numpy()}
    expected = np.concatenate([parts[role] for role in order], 1)
    np.testing.assert_allclose(fuse(given, order).numpy(), expected, atol=1e-6)


@both_dims
def test_fuse_of_three_has_all_channels_at_the_smallest_size(dims):
    fused = fuse(features(dims), ("e2", "e3", "e4"))
    assert fused.shape == (2, 10, *[2] * dims)
    assert torch.equal(fused[:, 5:], features(dims)["e4"])


def test_fuse_of_one_tap_is_the_tap():
    given = features(2)
    assert fuse(given, ("e3",)) is given["e3"]


def test_fuse_passes_gradient_to_every_tap():
    given = {role: f.requires_grad_() for role, f in features(2).items()}
    fuse(given, ("e2", "e3", "e4")).square().sum().backward()
    assert all(f.grad is not None and f.grad.abs().sum() > 0 for f in given.values())


@both_dims
def test_head_is_a_matrix_at_each_pixel(dims):
    head = Head(3, 4)
    torch.nn.init.normal_(head.bias)
    x = features(dims)["e3"]
    result = head(x).detach().numpy()
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    for n, *where in np.ndindex(2, *x.shape[2:]):
        expected = weight @ x[(n, slice(None), *where)].numpy() + bias
        np.testing.assert_allclose(result[(n, slice(None), *where)], expected, atol=1e-5)


def test_head_starts_differently_each_time_and_near_the_scale_of_a_convolution():
    torch.manual_seed(0)
    first, second = Head(64, 3), Head(64, 3)
    assert not torch.equal(first.weight, second.weight)
    assert 0 < float(first.weight.detach().abs().max()) <= 1 / 64**0.5
    assert not first.bias.any()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@both_dims
def test_head_of_large_half_precision_features_is_finite(dims, dtype, autocast):
    head = Head(64, 3)
    torch.nn.init.constant_(head.weight, 0.125)
    large = torch.full((1, 64, *[2] * dims), 1e4, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype, enabled=autocast):
        scores = head(large)
    assert scores.isfinite().all()  # 8e4 and more is beyond half precision
    assert float(scores.detach().max()) == pytest.approx(8 * float(large.detach().max()), rel=1e-3)
    scores.sum().backward()
    assert large.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()

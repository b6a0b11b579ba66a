"""Augmentation of a batch: the eight symmetries of a square (HLFD paper), and what nnU-Net changes beside them."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlfd.data.views import AIR

ORIENTATIONS = 8
"""Symmetries by number: quarter turns counter-clockwise, then, from 4 on, a flip of the columns."""

ROTATION, SCALES, SPATIAL_SHARE = math.radians(30), (0.7, 1.4), 0.2
"""Largest angle; smallest and largest scale; the share of samples that each is applied to."""


def orientations(plane: tuple[int, int], *, turns: bool = True) -> tuple[int, ...]:
    """Those that a sample of this plane can be in: quarter turns only if rows = columns; without ``turns`` none."""
    if not turns:
        return (0,)
    return tuple(range(ORIENTATIONS)) if plane[0] == plane[1] else tuple(range(0, ORIENTATIONS, 2))


def draw_orientations(count: int, plane: tuple[int, int]) -> Tensor:
    """A random orientation for each of ``count`` samples; without quarter turns unless rows = columns."""
    turns, flips = torch.randint(4, (count,)), torch.randint(2, (count,))
    return (turns if plane[0] == plane[1] else turns // 2 * 2) + 4 * flips


def oriented(a: Tensor, orientations: Tensor) -> Tensor:
    """Each sample of ``a`` (N x ... x H x W) in its orientation. Exact: no pixel is interpolated."""
    result = torch.empty_like(a)
    for orientation in orientations.unique().tolist():
        rows = orientations == orientation
        turned = torch.rot90(a[rows], orientation % 4, (-2, -1))
        result[rows] = turned.flip(-1) if orientation >= 4 else turned
    return result


def moved(images: Tensor, targets: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Each sample rotated in plane by up to `ROTATION` and scaled by `SCALES`, some of them by neither.

    Around it is air, which is background. The target takes the nearest pixel; one without labels keeps its -1.

    Args:
        images: N x C x spatial in [-1, 1].
        targets: N x spatial.
        seeds: of each sample.
    """
    image_rows: list[Tensor] = []
    target_rows: list[Tensor] = []
    for image, target, seed in zip(images, targets, seeds, strict=True):
        random = np.random.default_rng((seed, 0))
        turns, scales = random.random(2) < SPATIAL_SHARE
        angle, scale = random.uniform(-ROTATION, ROTATION) * turns, float(random.uniform(*SCALES)) if scales else 1.0
        image_rows.append(image)
        target_rows.append(target)
        if angle or scale != 1:
            image_rows[-1] = _affine(image - AIR, angle, scale, "bilinear") + AIR  # it is 0 that comes in at the edges
            if int(target.min()) >= 0:
                target_rows[-1] = _affine(target[None].float(), angle, scale, "nearest")[0].to(target.dtype)
    return torch.stack(image_rows), torch.stack(target_rows)


def _affine(image: Tensor, angle: float, scale: float, mode: str) -> Tensor:
    """C x spatial, turned in the plane of its last two axes."""
    from monai.transforms.spatial.array import Affine  # not above: it takes seconds, and most runs don't need it

    flat = image.ndim == 3
    transform = Affine(
        rotate_params=angle if flat else (angle, 0.0, 0.0),
        scale_params=(1 / scale, 1 / scale) if flat else (1.0, 1 / scale, 1 / scale),  # of the grid it is read at
        mode=mode,
        padding_mode="zeros",
        image_only=True,
    )
    return _plain(transform(image))


@lru_cache(maxsize=2)
def _intensity(dims: int) -> tuple[Any, ...]:
    """nnU-Net's, in its order; amounts are for images in [-1, 1], where soft tissue spreads by about 0.3."""
    from monai.transforms.intensity.array import (
        RandAdjustContrast,
        RandGaussianNoise,
        RandGaussianSmooth,
        RandScaleIntensity,
        RandScaleIntensityFixedMean,
    )
    from monai.transforms.spatial.array import RandSimulateLowResolution

    return (
        RandGaussianNoise(prob=0.1, std=0.1),
        RandGaussianSmooth((0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=0.2),
        RandScaleIntensity(0.25, prob=0.15),
        RandScaleIntensityFixedMean(prob=0.15, factors=0.25, fixed_mean=True, preserve_range=True),
        RandSimulateLowResolution(
            prob=0.25, upsample_mode="bilinear" if dims == 2 else "trilinear", zoom_range=(0.5, 1.0)
        ),
        RandAdjustContrast(prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
        RandAdjustContrast(prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
    )


def perturbed(images: Tensor, seeds: Sequence[int]) -> Tensor:
    """Each sample (C x spatial) with noise, blur, brightness, contrast, a lower resolution, gamma; each some times.

    Args:
        seeds: of each sample; the same seed does the same.
    """
    rows: list[Tensor] = []
    for image, seed in zip(images, seeds, strict=True):
        random, changed = np.random.RandomState(seed % 2**32), image
        for transform in _intensity(image.ndim - 1):
            transform.set_random_state(state=random)
            changed = _plain(transform(changed))
        rows.append(changed.to(image.dtype))
    return torch.stack(rows)


def _plain(image: Any) -> Tensor:
    from monai.data.meta_tensor import MetaTensor

    return image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)

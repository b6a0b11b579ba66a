"""Augmentation: the eight symmetries of a square, rotation and scaling, intensities; image and target together."""

import numpy as np
import pytest
import torch
from scipy.ndimage import rotate

from hlfd.data.augment import ORIENTATIONS, _affine, draw_orientations, moved, oriented, perturbed


def augmented(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """As a training step does it."""
    drawn = draw_orientations(len(tensors[0]), tuple(tensors[0].shape[-2:]))
    return [oriented(t, drawn) for t in tensors]


def symmetries(square: torch.Tensor) -> set[bytes]:
    turned = [torch.rot90(square, turns) for turns in range(4)]
    return {t.contiguous().numpy().tobytes() for t in (*turned, *(t.T for t in turned))}


def test_all_eight_symmetries_of_a_square_and_the_target_moves_along():
    torch.manual_seed(0)
    one = torch.arange(9.0).reshape(3, 3)
    image = one.expand(200, 2, 3, 3).clone()
    kept = image.clone()
    images, targets = augmented(image, image[:, 0].long())
    assert torch.equal(image, kept)
    assert {i[0].contiguous().numpy().tobytes() for i in images} == symmetries(one)
    assert len(symmetries(one)) == 8
    assert torch.equal(images[:, 0].long(), targets)
    assert torch.equal(images[:, 0], images[:, 1])
    assert targets.dtype == torch.int64


def test_a_rectangle_keeps_its_shape():
    torch.manual_seed(0)
    image = torch.arange(6.0).reshape(1, 1, 2, 3).expand(100, 1, 2, 3)
    images, targets = augmented(image, image[:, 0])
    assert images.shape == image.shape
    assert len({i.numpy().tobytes() for i in targets}) == 4
    assert torch.equal(images[:, 0], targets)


def test_the_seed_decides():
    image = torch.arange(9.0).reshape(1, 1, 3, 3).expand(20, 1, 3, 3)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(augmented(image, image[:, 0])[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_each_number_is_one_symmetry():
    one = torch.arange(9.0).reshape(1, 3, 3)
    turned = oriented(one.expand(ORIENTATIONS, 3, 3), torch.arange(ORIENTATIONS))
    assert torch.equal(turned[0], one[0])
    assert {t.contiguous().numpy().tobytes() for t in turned} == symmetries(one[0])
    assert torch.equal(turned[1], torch.rot90(one[0]))
    assert torch.equal(turned[4], one[0].flip(-1))


def smooth(count: int, *shape: int) -> torch.Tensor:
    torch.manual_seed(1)
    noise = torch.rand(count, 1, *shape)
    pool = torch.nn.functional.avg_pool2d if len(shape) == 2 else torch.nn.functional.avg_pool3d
    return pool(noise, 5, 1, 2) * 2 - 1


@pytest.mark.parametrize("shape", [(40, 40), (8, 24, 24)], ids=str)
def test_the_seed_of_each_sample_decides_its_changes(shape):
    images, seeds = smooth(60, *shape), list(range(60))
    kept = images.clone()
    changed = perturbed(images, seeds)
    assert torch.equal(images, kept)
    assert type(changed) is torch.Tensor and changed.dtype == torch.float32 and changed.shape == images.shape
    assert torch.equal(changed, perturbed(images, seeds))
    assert torch.equal(changed[3:5], perturbed(images[3:5], seeds[3:5]))  # whatever else is in the batch
    same = [torch.equal(a, b) for a, b in zip(changed, images, strict=True)]
    assert 5 < sum(same) < 30  # each of seven changes comes now and then: none of them to 27 % of samples
    assert (changed - images).abs().mean() < 0.3


@pytest.mark.parametrize("shape", [(40, 40), (8, 24, 24)], ids=str)
def test_image_and_labels_move_together(shape):
    labels = torch.zeros(80, *shape, dtype=torch.int64)
    labels[..., 12:20, 8:14] = 2
    images = (labels > 0).float()[:, None] * 2 - 1
    moved_images, moved_labels = moved(images, labels, list(range(80)))
    assert type(moved_images) is torch.Tensor and moved_labels.dtype == torch.int64
    assert set(moved_labels.unique().tolist()) == {0, 2}
    changed = [i for i in range(80) if not torch.equal(moved_labels[i], labels[i])]
    assert 15 < len(changed) < 45  # of 36 %
    agree = ((moved_images[:, 0] > 0) == (moved_labels > 0)).float().mean()
    assert agree > 0.99
    assert moved_images.min() >= -1.0001  # what comes in is air
    areas = (moved_labels > 0).flatten(1).sum(1) / (labels[0] > 0).sum()
    assert 0.4 < areas.min() < 0.95 and 1.05 < areas.max() < 2.1
    again = moved(images[5:9], labels[5:9], [5, 6, 7, 8])
    assert torch.equal(again[0], moved_images[5:9])
    unlabelled = moved(images, torch.full_like(labels, -1), list(range(80)))[1]
    assert (unlabelled == -1).all()
    if len(shape) == 3:  # in plane: each slice is moved alike
        assert torch.equal(moved_labels[:, 0], moved_labels[:, -1])


def test_a_quarter_of_a_turn_is_that_of_the_plane():
    """Against an independent rotation."""
    image = smooth(1, 41, 41)[0]
    turned = _affine(image, np.pi / 6, 1.0, "bilinear")[0].numpy()
    one, other = (rotate(image[0].numpy(), angle, reshape=False, order=1) for angle in (30, -30))
    inside = np.hypot(*(np.indices((41, 41)) - 20)) < 18
    assert min(np.abs(turned - one)[inside].max(), np.abs(turned - other)[inside].max()) < 0.05
    larger = _affine((torch.arange(81.0) - 40).expand(1, 81, 81), 0.0, 2.0, "bilinear")[0, 40]
    torch.testing.assert_close(larger[20:61], (torch.arange(41.0) - 20) / 2, atol=1e-3, rtol=0)

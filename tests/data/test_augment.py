"""Augmentation: the eight symmetries of a square, image and target together."""

import torch

from hlfd.data.augment import ORIENTATIONS, draw_orientations, oriented


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

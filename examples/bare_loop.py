"""HLFD in one's own PyTorch loop: any two modules, no recipe, no Lightning. Run: python examples/bare_loop.py"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Adam

from hlfd import Distiller, FrozenTeacher, SegmentationLoss, Tapped, plugins

LOSSES: list[float] = []


def batches(count: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Bright discs on noise, 8 x 1 x 32 x 32, and which pixels they are."""
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    for _ in range(count):
        centre = torch.randint(8, 24, (8, 2, 1, 1), generator=generator)
        target = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < 36).long()
        yield torch.randn(8, 1, 32, 32, generator=generator) + 2 * target[:, None], target


def distil(student: Tapped, teacher: Tapped, loader: list[tuple[Tensor, Tensor]]) -> None:
    """Train ``student``. What is yours to write:"""
    # begin
    frozen = FrozenTeacher(teacher)
    distiller = Distiller.of("hlfd", student, frozen, beta=0.1)
    distiller.fit_heads((frozen(image), target) for image, target in loader[:10])
    optimizer = Adam(distiller.trainable(student), lr=1e-2)
    task = SegmentationLoss()
    for image, target in loader:
        features = student(image)
        terms = distiller(features, frozen(image), target)
        loss = task(features["logits"], target) + sum(terms.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # end
        LOSSES.append(loss.item())


def main(steps: int = 20) -> list[float]:
    """Train a student for some steps with an untrained teacher; the total loss of each step."""
    torch.manual_seed(0)
    LOSSES.clear()
    shape = {"in_channels": 1, "classes": 2, "dims": 2}
    teacher = plugins.load("networks", "unet", width=8, **shape)
    student = plugins.load("networks", "unet", width=2, **shape)
    distil(student, teacher, list(batches(steps, torch.Generator().manual_seed(0))))
    return LOSSES


if __name__ == "__main__":
    losses = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")

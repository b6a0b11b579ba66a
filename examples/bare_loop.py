"""HLFD in one's own training loop: no recipe, no Lightning. Run: python examples/bare_loop.py"""

import torch

from hlfd import Distiller, FrozenTeacher, SegmentationLoss, plugins


def batches(count: int, generator: torch.Generator):
    """Bright discs on noise, 8 x 1 x 32 x 32, and which pixels they are."""
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    for _ in range(count):
        centre = torch.randint(8, 24, (8, 2, 1, 1), generator=generator)
        target = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < 36).long()
        yield torch.randn(8, 1, 32, 32, generator=generator) + 2 * target[:, None], target


def main(steps: int = 20) -> list[float]:
    """Train a student for some steps with an untrained teacher; the total loss of each step."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    shape = {"in_channels": 1, "classes": 2, "dims": 2}
    teacher = FrozenTeacher(plugins.load("networks", "unet", width=8, **shape))
    student = plugins.load("networks", "unet", width=2, **shape)

    distiller = Distiller(plugins.load("methods", "hlfd", student.info(), teacher.tapped.info(), classes=2))
    distiller.fit_heads((teacher(image), target) for image, target in batches(10, generator))
    task = SegmentationLoss()
    trainable = [p for p in (*student.parameters(), *distiller.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=1e-2)
    history: list[float] = []
    for image, target in batches(steps, generator):
        features = student(image)
        terms = distiller(features, teacher(image), target)
        loss = task(features["logits"], target) + sum(terms.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


if __name__ == "__main__":
    losses = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")

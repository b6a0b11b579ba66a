"""HLFD between MONAI networks, in a loop as MONAI's tutorials write it. Run: python examples/monai_loop.py"""

import numpy as np
import torch
from monai.data import DataLoader, Dataset, create_test_image_2d
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet, DynUNet
from monai.transforms import Compose, EnsureChannelFirstd, RandFlipd, ScaleIntensityd, ToTensord

from hlfd import Distiller, FrozenTeacher, tapped

LOSSES: list[float] = []
KEYS = ["image", "label"]


def loader(images: int) -> DataLoader:
    """MONAI's test images, 64 x 64, as dictionaries through its transforms."""
    random = np.random.RandomState(0)
    pairs = [create_test_image_2d(64, 64, num_seg_classes=1, random_state=random) for _ in range(images)]
    transforms = Compose(
        [
            EnsureChannelFirstd(KEYS, channel_dim="no_channel"),
            ScaleIntensityd("image"),
            RandFlipd(KEYS, prob=0.5, spatial_axis=0),
            ToTensord(KEYS),
        ]
    )
    return DataLoader(Dataset([dict(zip(KEYS, pair, strict=True)) for pair in pairs], transforms), batch_size=4)


def distil(student_net: torch.nn.Module, teacher_net: torch.nn.Module, train_loader: DataLoader, epochs: int) -> None:
    """Train ``student_net``. What is yours to write:"""
    # begin
    student, teacher = (tapped(net, in_channels=1, classes=2, dims=2) for net in (student_net, teacher_net))
    frozen = FrozenTeacher(teacher)
    distiller = Distiller.of("hlfd", student, frozen, beta=0.1)
    distiller.fit_heads((frozen(batch["image"]), batch["label"][:, 0].long()) for batch in train_loader)
    optimizer = torch.optim.Adam(distiller.trainable(student), 1e-2)
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
    for _ in range(epochs):
        for batch_data in train_loader:
            inputs, labels = batch_data["image"], batch_data["label"]
            optimizer.zero_grad()
            features = student(inputs)
            terms = distiller(features, frozen(inputs), labels[:, 0].long())
            loss = loss_function(features["logits"], labels) + sum(terms.values())
            loss.backward()
            optimizer.step()
            # end
            LOSSES.append(loss.item())


def main(epochs: int = 6) -> list[float]:
    """Distil an untrained BasicUNet into a small DynUNet; the total loss of each step."""
    torch.manual_seed(0)
    LOSSES.clear()
    teacher = BasicUNet(2, 1, 2, (16, 16, 32, 64, 128, 16))
    student = DynUNet(2, 1, 2, [3] * 5, [1, 2, 2, 2, 2], [2] * 4, filters=[4, 8, 16, 32, 32])
    distil(student, teacher, loader(16), epochs)
    return LOSSES


if __name__ == "__main__":
    losses = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")

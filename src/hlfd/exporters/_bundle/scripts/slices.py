"""A CT volume as a stack of axial slices for a 2D network, and the network's logits back on the volume's grid.

Images are channel x slices x rows x columns, axes to superior, posterior, left (Orientationd "SPL").
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor
from torch.nn import functional as F

PLANES = "slice_planes"
"""In the image's meta: rows and columns as they were, and after `ResizeSlicesd`."""


def resize(images: Tensor, plane: Sequence[int]) -> Tensor:
    """(N, C, rows, columns) to another plane: bilinear, with PyTorch's antialiasing filter where it shrinks.

    MONAI's Resized filters by a Gaussian, or not at all.
    """
    size = [int(n) for n in plane]
    if list(images.shape[2:]) == size:
        return images
    shrinks = size[0] < images.shape[2] or size[1] < images.shape[3]
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=shrinks)


class ResizeSlicesd(MapTransform):
    """Resize every slice to ``size``, or to the whole pixels nearest to ``spacing_mm``; or leave it."""

    def __init__(
        self, keys: KeysCollection, size: Sequence[int] | None = None, spacing_mm: float | None = None
    ) -> None:
        super().__init__(keys)
        self.size, self.spacing_mm = size, spacing_mm

    def __call__(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """The slices, resized; the planes are kept for `RestoreSlicesd`."""
        data = dict(data)
        for key in self.keys:
            image = data[key]
            rows, columns = image.shape[2:]
            plane = [rows, columns]
            if self.size is not None:
                plane = [int(n) for n in self.size]
            elif self.spacing_mm is not None:
                sides_mm = torch.linalg.norm(torch.as_tensor(image.affine)[:3, :3].double(), dim=0).tolist()[1:]
                plane = [
                    max(round(n * mm / self.spacing_mm), 1) for n, mm in zip((rows, columns), sides_mm, strict=True)
                ]
            pixels = resize(image.as_tensor().float().permute(1, 0, 2, 3), plane).permute(1, 0, 2, 3)
            meta = {**image.meta, PLANES: [[rows, columns], plane]}
            data[key] = MetaTensor(pixels, meta=meta, applied_operations=image.applied_operations)
        return data


class CropSlicesd(MapTransform):
    """The central ``crop`` of every slice, padded where it is smaller; then padded below and to the right.

    Args:
        multiple: what rows and columns must be multiples of.
        value: of the padding.
    """

    def __init__(
        self, keys: KeysCollection, multiple: Sequence[int], crop: Sequence[int] | None = None, value: float = -1.0
    ) -> None:
        super().__init__(keys)
        self.multiple, self.crop, self.value = multiple, crop, value

    def __call__(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """The slices as the network takes them."""
        data = dict(data)
        for key in self.keys:
            image, operations = data[key], data[key].applied_operations
            pixels = image.as_tensor()
            if self.crop is not None:
                inside, within = overlap(pixels.shape[2:], self.crop)
                cropped = pixels.new_full((*pixels.shape[:2], *self.crop), self.value)
                cropped[:, :, within[0], within[1]] = pixels[:, :, inside[0], inside[1]]
                pixels = cropped
            below, right = (-n % m for n, m in zip(pixels.shape[2:], self.multiple, strict=True))
            pixels = F.pad(pixels, (0, right, 0, below), value=self.value)
            data[key] = MetaTensor(pixels, meta=image.meta, applied_operations=operations)
        return data


class Neighboursd(MapTransform):
    """The slices on either side as further channels, the slice itself in the middle; at an end, the last one again."""

    def __init__(self, keys: KeysCollection, neighbours: int) -> None:
        super().__init__(keys)
        self.neighbours = neighbours

    def __call__(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """One channel -> 2 * neighbours + 1."""
        data = dict(data)
        for key in self.keys:
            image = data[key]
            pixels, count = image.as_tensor()[0], image.shape[1]
            offsets = range(-self.neighbours, self.neighbours + 1)
            channels = [pixels[(torch.arange(count) + offset).clamp(0, count - 1)] for offset in offsets]
            data[key] = MetaTensor(torch.stack(channels), meta=image.meta, applied_operations=image.applied_operations)
        return data


class RestoreSlicesd(MapTransform):
    """Logits of the slices -> class indices on the grid that Orientationd gave.

    Probabilities are resized before the class is chosen; outside the crop is background.

    Args:
        keys: of the logits, classes x slices x rows x columns.
        image: key of the image.
        crop: as `CropSlicesd`.
    """

    def __init__(self, keys: KeysCollection, image: str = "image", crop: Sequence[int] | None = None) -> None:
        super().__init__(keys)
        self.image, self.crop = image, crop

    def __call__(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Labels, 1 x slices x rows x columns, uint8."""
        data = dict(data)
        image = data[self.image]
        native, plane = image.meta[PLANES]
        for key in self.keys:
            logits = torch.as_tensor(data[key])
            logits = logits.as_tensor() if isinstance(logits, MetaTensor) else logits
            labels = [self._restore(one[None], native, plane) for one in logits.permute(1, 0, 2, 3)]
            meta = {name: value for name, value in image.meta.items() if name != PLANES}
            data[key] = MetaTensor(torch.cat(labels)[None], meta=meta, applied_operations=image.applied_operations)
        return data

    def _restore(self, logits: Tensor, native: Sequence[int], plane: Sequence[int]) -> Tensor:
        rows, columns = self.crop if self.crop is not None else plane
        scores = logits[:, :, :rows, :columns].float().softmax(1)
        if self.crop is not None:
            inside, within = overlap(plane, self.crop)
            whole = scores.new_zeros((*scores.shape[:2], *plane))
            whole[:, 0] = 1
            whole[:, :, inside[0], inside[1]] = scores[:, :, within[0], within[1]]
            scores = whole
        return resize(scores, native).argmax(1).to(torch.uint8)


def overlap(plane: Sequence[int], crop: Sequence[int]) -> tuple[list[slice], list[slice]]:
    """Where a plane and its central crop overlap, for each axis: in the plane, and in the crop."""
    inside: list[slice] = []
    within: list[slice] = []
    for have, wanted in zip(plane, crop, strict=True):
        common = min(have, wanted)
        inside.append(slice((have - common) // 2, (have - common) // 2 + common))
        within.append(slice((wanted - common) // 2, (wanted - common) // 2 + common))
    return inside, within


def files(path: str) -> list[dict[str, str]]:
    """A NIfTI file, or those of a folder."""
    root = Path(path)
    found = [root] if root.is_file() else sorted(p for p in root.glob("*") if p.name.endswith((".nii", ".nii.gz")))
    if not found:
        raise FileNotFoundError(f"{path}: expected a NIfTI file, or a folder of them; set --dataset_dir")
    return [{"image": str(p)} for p in found]


def segment(
    dataset: Sequence[dict[str, Any]],
    preprocessing: Callable[[Any], Any],
    inferer: Callable[..., Tensor],
    network: torch.nn.Module,
    postprocessing: Callable[[Any], Any],
    device: torch.device,
) -> None:
    """Every case of ``dataset``, one after another; the last of ``postprocessing`` writes it."""
    network.eval()
    with torch.inference_mode():
        for case in dataset:
            data = preprocessing(case)
            data["pred"] = inferer(data["image"].as_tensor()[None].to(device), network)[0].cpu()
            postprocessing(data)

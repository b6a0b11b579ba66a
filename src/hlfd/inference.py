"""predict: a CT volume in, a label map out on the same grid."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hlfd.data.preprocess import AXCODES, resize
from hlfd.progress import Advance
from hlfd.segmenter import Segmenter
from hlfd.volume import Volume


def most_probable(scores: Tensor) -> Tensor:
    """Class of the highest score (N, K, rows, columns) as uint8, the first of equals; `argmax`, many times faster."""
    best, labels = scores[:, 0].clone(), torch.zeros_like(scores[:, 0], dtype=torch.uint8)
    for index in range(1, scores.shape[1]):
        labels[scores[:, index] > best] = index
        best = torch.maximum(best, scores[:, index])
    return labels


@torch.inference_mode()
def predict(model: Segmenter, image: Volume, *, batch_size: int = 4, advance: Advance | None = None) -> Volume:
    """Segment a volume.

    Args:
        model: the network with its preprocessing.
        image: HU on any grid: any orientation, spacing and size.
        batch_size: slices at a time.
        advance: called with the number of slices done.

    Returns:
        class indices (uint8) with the shape and affine of ``image``. Class probabilities are resized to the native
        plane before argmax, so borders are as fine as the image. Outside the crop, if there is one, is background.
    """
    upright = image.oriented(AXCODES)
    native_plane = upright.shape[1:]
    prepared = model.preprocess.image(image).voxels
    plane = (prepared.shape[1], prepared.shape[2])
    prepared = model.preprocess.to_crop(prepared, -1.0)
    rows_multiple, columns_multiple = model.multiple
    network = model.network.network
    device = model.device
    labels = np.empty(upright.shape, dtype=np.uint8)
    for start in range(0, len(prepared), batch_size):
        slices = torch.from_numpy(prepared[start : start + batch_size])[:, None].to(device)
        rows, columns = slices.shape[2:]
        padding = (0, -columns % columns_multiple, 0, -rows % rows_multiple)
        padded = F.pad(slices, padding, value=-1.0).contiguous(memory_format=torch.channels_last)
        scores = network(padded)[..., :rows, :columns].float().softmax(1)
        whole = model.preprocess.from_crop(scores, plane)
        labels[start : start + batch_size] = most_probable(resize(whole, native_plane)).cpu().numpy()
        if advance is not None:
            advance(len(slices))
    return image.restored(labels, AXCODES)

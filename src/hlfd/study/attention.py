"""Where models look: importance maps and Grad-CAM of a slice, and the share of their mass inside a region."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from hlfd.distill.losses import importance_map
from hlfd.segmenter import Segmenter

ROLES = ("e1", "e2", "e3", "e4", "e5")
CAM_ROLES = ("e5", "d2")


def attention_maps(
    model: Segmenter, pixels: np.ndarray, target: np.ndarray, members: Sequence[int], place: int = 0
) -> dict[str, np.ndarray]:
    """Map name -> map of one prepared slice: importance maps of the encoder, Grad-CAM at its end and the decoder's.

    Grad-CAM for segmentation (Selvaraju et al., ICCV 2017; Vinogradova et al., AAAI 2020): the gradient of the region's
    class scores, summed over the pixels of the region in the reference, averaged over each channel, weighs the
    channels; what is negative of their sum is cut off. The pixels are the reference's so that all models are asked
    about the same place. Without the region in the slice there is no Grad-CAM.

    Args:
        pixels: C x spatial, as the network is given them; H x W where there is one channel.
        target: class indices, spatial.
        members: class indices of the region.
        place: the slice of a patch of three axes whose maps are wanted.
    """
    image = torch.from_numpy(np.ascontiguousarray(pixels)).float()[None]
    image = image[None] if pixels.ndim == 2 else image
    inside = torch.from_numpy(np.isin(target, members))
    with torch.enable_grad():
        # The image too wants a gradient, so that every tap has one although the weights are frozen.
        features = model.network.eval()(image.requires_grad_())
        maps = {
            role: importance_map(features[role].detach()).reshape(features[role].shape[2:]).numpy()
            for role in ROLES
            if role in features
        }
        score = features["logits"][0, list(members)].sum(0)[inside].sum()
        for role in CAM_ROLES if bool(inside.any()) else ():
            if role in features:
                (gradient,) = torch.autograd.grad(score, features[role], retain_graph=True, materialize_grads=True)
                weights = gradient.flatten(2).mean(2).reshape(*gradient.shape[:2], *[1] * (gradient.ndim - 2))
                cam = F.relu((weights * features[role].detach()).sum(1))[0]
                maps[f"Grad-CAM {role}"] = cam.numpy()
    if target.ndim == 3:
        return {name: found[int((place + 0.5) * len(found) / len(target))] for name, found in maps.items()}
    return maps


def share_inside(attention: np.ndarray, mask: np.ndarray) -> float:
    """Share of a map's mass inside a mask, in [0, 1]; the mask's share of the slice for a map without any mass.

    Args:
        attention: h x w, not negative; resized to the mask's size, bilinearly.
        mask: H x W boolean.
    """
    given = torch.from_numpy(np.ascontiguousarray(attention)).double()[None, None]
    whole = F.interpolate(given, mask.shape, mode="bilinear", align_corners=False)[0, 0].numpy()
    total = float(whole.sum())
    return float(whole[mask].sum()) / total if total > 0 else float(mask.mean())


def mean_shares(found: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean over patients of map -> region -> share."""
    names = dict.fromkeys(name for one in found for name in one)
    return {
        name: {
            region: float(np.mean([one[name][region] for one in found if name in one]))
            for region in next(one[name] for one in found if name in one)
        }
        for name in names
    }

"""Predictor: a segmenter made ready for one device, and predict: a CT volume in, a label map out on the same grid."""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlfd.data.postprocess import Postprocess
from hlfd.data.views import AIR, OVERLAP
from hlfd.distill.features import logits_of
from hlfd.distill.folding import fold_batch_norms
from hlfd.errors import InputError
from hlfd.inference.canvas import Canvas
from hlfd.inference.inputs import by_slices
from hlfd.inference.orientations import Tta, averaged, turns
from hlfd.inference.plausible import doubts
from hlfd.inference.stages import Stages
from hlfd.inference.windows import answers
from hlfd.progress import Advance
from hlfd.segmenter import Segmenter
from hlfd.volume import AXCODES, Volume

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says of a volume.

    Attributes:
        labels: class indices (uint8) with the shape and affine of the image.
        probabilities: I x J x K x classes, uint16 in steps of 1 / 65535, if they were asked for; as the network gives
            them, before post-processing.
        warnings: what looks odd about the image, with figures.
    """

    labels: Volume
    probabilities: np.ndarray | None = None
    warnings: list[str] = field(default_factory=list[str])


class NotFiniteError(InputError):
    """A network whose answer is no number: damaged, or its training diverged, or its precision is too low."""


class Predictor:
    """A segmenter, ready to predict.

    Batch norms are folded into the convolutions, in a copy: the same to rounding.

    Args:
        model: the network with its preprocessing.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None: where the network is.
        batch_size: slices or windows at a time.
        step_size: from a window to the next, as a share of it, for a network that is shown patches.
        tta: test-time augmentation: class probabilities are the mean over all ``flips``, or over ``all`` eight
            orientations in the plane of the slices.
        postprocess: in place of the model's own.
        strict: whether a network that gives NaN is an error. If not, NaN is background and ``gave_nan`` becomes true: a
            training that diverged counts as one that finds nothing, and ends no study.

    Raises:
        InputError: a device that is not there, preprocessing that the network isn't made for.
    """

    def __init__(
        self,
        model: Segmenter,
        *,
        device: str | None = None,
        batch_size: int = 4,
        step_size: float = 1 - OVERLAP,
        tta: Tta = "none",
        postprocess: Postprocess | None = None,
        strict: bool = True,
    ):
        self.strict, self.gave_nan = strict, False
        self.model, self.batch_size, self.overlap = model, batch_size, 1 - step_size
        tapped, shown = model.network, model.preprocess
        if (tapped.dims, tapped.in_channels) != (shown.dims, shown.channels):
            raise InputError(
                f"the network takes {tapped.in_channels} channel(s) in {tapped.dims}D, "
                f"its preprocessing gives {shown.channels} in {shown.dims}D"
            )
        self.postprocess = model.postprocess if postprocess is None else postprocess
        self.postprocess.require_fits(model.labels)
        if any(isinstance(module, _NORMS) for module in tapped.network.modules()):
            tapped = copy.deepcopy(tapped)
            fold_batch_norms(tapped)
        self.multiple = model.multiple
        self.device = require_device(device) if device else model.device
        if tapped.cpu_only and self.device.type != "cpu":
            raise InputError(f"device: an exported file is computed on the cpu here; expected cpu, got '{device}'")
        self.layout = torch.channels_last if tapped.dims == 2 else torch.channels_last_3d
        network = tapped.network.eval().to(self.device)
        self.network = network.to(memory_format=self.layout)  # pyright: ignore[reportCallIssue]
        self.turns = turns(tta, tapped.dims)

    def predict(self, image: Volume, *, advance: Advance | None = None) -> Volume:
        """Segment a volume: class indices (uint8) on its own grid; see `predict`."""
        return self.run(image, advance=advance).labels

    def slices(self, image: Volume) -> int:
        """How many slices of the prepared image the network is shown."""
        return self.model.preprocess.geometry(image).shape[0]

    @torch.inference_mode()
    def run(
        self,
        image: Volume,
        *,
        probabilities: bool = False,
        stages: Stages | None = None,
        advance: Advance | None = None,
    ) -> Prediction:
        """Segment a volume.

        Args:
            image: HU on any grid: any orientation, spacing and size.
            probabilities: whether to keep those of every class.
            stages: takes the seconds of each stage.
            advance: called with the number of prepared slices done.

        Raises:
            NotFiniteError: as `probabilities`.
        """
        stages, preprocess = stages or Stages(), self.model.preprocess
        with stages("prepare"):
            image = by_slices(image)
            geometry = preprocess.geometry(image)
            upright = image.oriented(AXCODES).voxels
        canvas = Canvas(image, geometry, self.model.labels.classes, probabilities=probabilities)

        def prepare(slices: slice) -> Tensor:
            with stages("prepare"):
                return preprocess.image_slab(upright, geometry, slices)

        def ask(batch: Tensor) -> Tensor:
            with stages("network"):
                return self.probabilities(batch)

        for found in answers(ask, prepare, preprocess, geometry, batch_size=self.batch_size, overlap=self.overlap):
            with stages("labels"):
                canvas.paint(found)
            if advance is not None:
                advance(len(found))
        labels = canvas.labels
        if self.postprocess:
            with stages("postprocess"):
                labels = labels.like(self.postprocess.apply(labels.voxels, image.voxel_mm3, self.model.labels))
        return Prediction(labels, canvas.probabilities, doubts(image, self.model))

    def probabilities(self, batch: Tensor) -> Tensor:
        """Class probabilities (N x K x spatial, float32) of prepared images (N x C x spatial) of any size.

        Raises:
            NotFiniteError: if ``strict``: the network gives NaN or infinity, of which a label map would show nothing.
        """
        size = batch.shape[2:]
        multiple = self.multiple
        if any(exchanged for _, exchanged in self.turns):
            multiple = (*multiple[:-2], *[max(multiple[-2:])] * 2)
        padding = [pad for n, m in reversed([*zip(size, multiple, strict=True)]) for pad in (0, -n % m)]
        padded = F.pad(batch.to(self.device), padding, value=AIR).contiguous(memory_format=self.layout)
        found = averaged(self._one, padded, self.turns)[(..., *(slice(n) for n in size))]
        if not found.sum().isfinite():
            self.gave_nan = True
            if self.strict:
                raise NotFiniteError("expected finite logits of the network, it gives NaN or infinity")
        return found

    def _one(self, batch: Tensor) -> Tensor:
        return logits_of(self.network(batch), batch.ndim - 2).float().softmax(1)


def require_device(name: str) -> torch.device:
    """The device of this name. Raises `InputError` if it is none, or is not there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device: expected cpu, cuda, cuda:1 or mps, got '{name}'") from None
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device.type not in there:
        raise InputError(f"device: expected cpu, cuda, cuda:1 or mps, got '{name}'")
    if (device.index or 0) >= there[device.type]:
        found = ", ".join(f"{kind} ({count})" for kind, count in there.items() if count)
        raise InputError(f"device: there is no {name} here; PyTorch sees {found}")
    return device


def predict(model: Segmenter, image: Volume, *, advance: Advance | None = None, **options: Any) -> Volume:
    """Segment a volume.

    Args:
        model: the network with its preprocessing. For several volumes make one `Predictor` of it.
        image: HU on any grid: any orientation, spacing and size.
        advance: called with the number of prepared slices done.
        options: of `Predictor`: ``batch_size``, ``device``, ``tta``, ...

    Returns:
        class indices (uint8) with the shape and affine of ``image``. Class probabilities are resized to the native
        grid before argmax, so borders are as fine as the image. Outside the crop, if there is one, is background.
    """
    return Predictor(model, **options).predict(image, advance=advance)

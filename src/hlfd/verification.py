"""verify: does an exported file segment as PyTorch does, on which volumes, and how far apart are they."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlfd.cases import Case, DataSource
from hlfd.errors import InputError
from hlfd.evaluation.overlap import overlap
from hlfd.exporters._exported import Exported
from hlfd.exporters._graph import Run
from hlfd.inference import predict
from hlfd.progress import progress
from hlfd.segmenter import Segmenter
from hlfd.sources._phantom import make_patient
from hlfd.volume import Volume

Pair = tuple[Volume, Volume | None]
BATCHES_COMPARED = 8
"""Batches of each case whose logits are compared number by number; the labels of all are."""


@dataclass(frozen=True)
class Evidence:
    """Volumes that an export is calibrated and judged on.

    Attributes:
        said: what they are, for people.
        calibration: gives volumes whose intensities int8 is fitted to.
        validation: gives volumes to judge on, with the reference labels where there are any.
        calibrations, validations: how many they give.
    """

    said: str
    calibration: Callable[[], Iterable[Volume]]
    validation: Callable[[], Iterable[Pair]]
    calibrations: int
    validations: int


@dataclass(frozen=True)
class Verified:
    """How far an exported model is from PyTorch.

    Attributes:
        said: on what, for people.
        volumes: how many.
        max_difference: of a logit, on the batches compared; None: they weren't.
        largest_logit: the largest absolute value of PyTorch's, beside which to read it.
        changed: share of the voxels whose label is another.
        agreement: class -> Dice of the two label maps, all volumes together; 1 where neither has the class.
        dice: region -> mean Dice over volumes against the reference, by PyTorch and by the file; empty without
            references.
        foreground: whether PyTorch finds any; if not, the labels' agreement says little.
    """

    said: str
    volumes: int
    max_difference: float | None
    largest_logit: float
    changed: float
    agreement: dict[str, float]
    dice: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    foreground: bool = True

    @property
    def dice_loss(self) -> float | None:
        """The most that a region's mean Dice falls; None without references."""
        return max((ours - theirs for ours, theirs in self.dice.values()), default=None)

    @property
    def disagreement(self) -> float:
        """The largest of 1 - the lowest agreement of a class, and the Dice that is lost: 0 is the same.

        Where there is no foreground to agree on, or a logit is not finite, at least the difference of logits as a share
        of the largest.
        """
        said = max(1 - min(self.agreement.values()), self.dice_loss or 0.0, 0.0)
        apart = self.max_difference
        if apart is None or (self.foreground and np.isfinite(apart)):
            return said
        return max(said, apart / max(self.largest_logit, 1e-30))

    @property
    def summary(self) -> str:
        """A line for people."""
        logits = f"logits differ by at most {self.max_difference:.2g} " if self.max_difference is not None else ""
        logits += f"(largest {self.largest_logit:.3g}), " if logits else ""
        dice = ", ".join(f"{name} {ours:.4f} -> {theirs:.4f}" for name, (ours, theirs) in self.dice.items())
        agree = ", ".join(f"{name} {value:.6f}" for name, value in self.agreement.items())
        none = "" if self.foreground else "; PyTorch finds no foreground there, so the labels say little"
        return (
            f"{self.said}: {logits}{self.changed:.2g} of the labels change, Dice with PyTorch's labels {agree}"
            + (f"; Dice {dice}" if dice else "")
            + none
        )

    def as_json(self) -> dict[str, Any]:
        """For the description beside the file."""
        return dataclasses.asdict(self) | {"dice_loss": self.dice_loss, "disagreement": self.disagreement}


def phantom(model: Segmenter, patients: int = 2) -> Evidence:
    """Evidence where there is no data: generated patients, to compare two runtimes on, not to measure Dice."""
    organ = "kidney" if "kidney" in model.labels.names else "liver"

    def image(index: int) -> Volume:
        return make_patient(0, index, organ=organ, size=256)[0]

    return Evidence(
        f"{patients} generated phantom patients, no real CT",
        lambda: (image(patients + i) for i in range(patients)),
        lambda: ((image(i), None) for i in range(patients)),
        patients,
        patients,
    )


def of_cases(
    model: Segmenter, source: DataSource, train: Sequence[Case], validation: Sequence[Case], limit: int = 8
) -> Evidence:
    """Evidence from a data set: calibration on cases it was trained with, judged on those it was chosen by.

    Args:
        limit: cases of each at most, spread over the list.

    Raises:
        InputError: the model's classes are others than the data's, or there is no case.
    """
    if model.labels.names != source.labels.names:
        raise InputError(f"the model's classes are {model.labels.names}, those of the data {source.labels.names}")
    if not train or not validation:
        raise InputError("expected cases to train and to validate, got a split without one of them")
    fit, judge = _spread(train, limit), _spread(validation, limit)
    some = f"{len(judge)} of " if len(judge) < len(validation) else ""
    return Evidence(
        f"{some}{len(validation)} validation cases",
        lambda: (source.read_image(case) for case in fit),
        lambda: ((source.read_image(case), source.read_label(case) if case.label else None) for case in judge),
        len(fit),
        len(judge),
    )


def verify(model: Segmenter, segment: Callable[[Volume], Volume], evidence: Evidence, run: Run | None) -> Verified:
    """Compare an exported file with the model it came from.

    Args:
        segment: volume -> labels, by the file.
        run: its network alone.
    """
    names, regions = model.labels.names, model.labels.regions
    both, either = np.zeros(len(names)), np.zeros(len(names))
    changed = voxels = 0
    dice: dict[str, list[tuple[float, float]]] = {name: [] for name in regions}
    spy = _Spy(model, run)
    with progress("comparing with PyTorch", evidence.validations) as advance:
        for image, reference in evidence.validation():
            spy.left = BATCHES_COMPARED
            ours, theirs = predict(spy.model, image).voxels, segment(image).voxels
            changed += int(np.count_nonzero(ours != theirs))
            voxels += ours.size
            for index in range(len(names)):
                a, b = ours == index + 1, theirs == index + 1
                both[index] += 2 * np.count_nonzero(a & b)
                either[index] += np.count_nonzero(a) + np.count_nonzero(b)
            if reference is not None:
                for name in regions:
                    mask = model.labels.region(reference.voxels, name)
                    pair = [overlap(model.labels.region(labels, name), mask).dice for labels in (ours, theirs)]
                    dice[name].append((pair[0], pair[1]))
            advance()
    agreement = np.divide(both, either, out=np.ones_like(both), where=either > 0)
    means = {name: np.mean(pairs, axis=0) for name, pairs in dice.items() if pairs}
    return Verified(
        evidence.said,
        evidence.validations,
        spy.difference if run else None,
        spy.largest,
        changed / max(voxels, 1),
        dict(zip(names, agreement.tolist(), strict=True)),
        {name: (float(mean[0]), float(mean[1])) for name, mean in means.items()},
        bool(either.any()),
    )


def watched(model: Segmenter, run: Run) -> Segmenter:
    """The model with another function in its network's place."""
    network = Exported(
        run,
        classes=model.labels.classes,
        in_channels=model.network.in_channels,
        dims=model.network.dims,
        multiple=model.multiple,
        size=model.network.size,
    )
    return dataclasses.replace(model, network=network)


class _Spy:
    """A model in PyTorch whose logits are compared, batch by batch, with what ``run`` makes of the same images."""

    def __init__(self, model: Segmenter, run: Run | None):
        self.network, self.run = model.network, run
        self.left, self.difference, self.largest = 0, 0.0, 0.0
        self.model = watched(model, self._forward)

    @torch.inference_mode()
    def _forward(self, images: np.ndarray) -> np.ndarray:
        logits: Tensor = self.network(torch.from_numpy(images), frozenset({"logits"}))["logits"]
        array = logits.float().numpy()
        if self.run is not None and self.left:
            self.left -= 1
            apart = float(np.abs(array - self.run(images)).max())
            self.difference = max(self.difference, apart if np.isfinite(apart) else float("inf"))
            self.largest = max(self.largest, float(np.abs(array).max()))
        return array


def _spread(cases: Sequence[Case], limit: int) -> list[Case]:
    places = np.linspace(0, len(cases) - 1, min(limit, len(cases))).round().astype(int)
    return [cases[i] for i in places]

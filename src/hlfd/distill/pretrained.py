"""Pretrained: a trained network from anywhere, with what must be known to teach with it."""

from dataclasses import dataclass

from hlfd.distill.features import Tapped


@dataclass(frozen=True)
class Intensity:
    """From HU to what a network sees: clip to [low_hu, high_hu], then (hu - center_hu) / scale_hu."""

    low_hu: float
    high_hu: float
    center_hu: float
    scale_hu: float


@dataclass(frozen=True)
class Pretrained:
    """What a teacher plug-in builds from a model folder.

    Attributes:
        tapped: the network with its taps, in eval mode.
        intensity: how HU became its input.
        names: its foreground classes, class index - 1 -> name.
        description: one line for people: architecture and where it is from.
        spacing_mm: the in-plane pixel size it was trained at, mm; None: it isn't tied to one.
        slice_mm: the distance of slices that a 3D network was trained at, mm; None: it isn't tied to one.
        size: rows and columns that whole slices were resized to, whatever their pixel size; None: they weren't.
        crop: rows and columns of the central crop it was trained on; None: whole slices, or patches anywhere.
        learned_from: `hlfd.segmenter.patient_keys` of the patients it learned from; None: the model doesn't say.
    """

    tapped: Tapped
    intensity: Intensity
    names: tuple[str, ...]
    description: str
    spacing_mm: float | None = None
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    learned_from: frozenset[str] | None = None
    slice_mm: float | None = None

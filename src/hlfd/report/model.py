"""What a report is made from. Plain numbers and arrays: no file is read and no network is run to draw it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hlfd.evaluation.results import Calibration
from hlfd.report.arrows import Arrow

Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
RESEARCH_NOTICE = "Research use only; not a medical device."


@dataclass(frozen=True, eq=False)
class PatientPicture:
    """One axial slice of a test patient, with what every model made of it.

    Attributes:
        patient: the patient's id.
        rank: the patient's place among all test patients: ``worst``, ``2nd worst``, ..., ``median``, ``best``.
        image: H x W, HU; rows run to posterior, columns to the patient's left.
        window_hu: HU shown as black and as white.
        spacing_mm: distance between rows, between columns.
        reference: H x W class indices.
        predictions: model -> H x W class indices.
        scores: model -> region -> Dice of the whole patient, not of this slice.
    """

    patient: str
    rank: str
    image: np.ndarray
    window_hu: tuple[float, float]
    spacing_mm: tuple[float, float]
    reference: np.ndarray
    predictions: Mapping[str, np.ndarray]
    scores: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class ImportancePicture:
    """Where the models look in one axial slice.

    Attributes:
        patient: the patient's id.
        image: H x W, in any unit (HU, or what the network is given); as in `PatientPicture`.
        reference: H x W class indices.
        maps: model -> role (``e1``, ..., ``d2``) -> importance map h x w, not negative, at its own resolution, covering
            the same field as the image.
        window: values of the image shown as black and as white; its 1st and 99th percentile if None.
        spacing_mm: distance between rows, between columns.
    """

    patient: str
    image: np.ndarray
    reference: np.ndarray
    maps: Mapping[str, Mapping[str, np.ndarray]]
    window: tuple[float, float] | None = None
    spacing_mm: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Attention:
    """Where the models look, in numbers, averaged over cases.

    Attributes:
        cases: how many.
        area: region -> its share of the slice: what a map has that looks everywhere alike.
        shares: model -> map (``e1``, ``Grad-CAM e5``) -> region -> share of the map's mass inside the region, in [0,
            1]; a map that is zero everywhere counts as looking everywhere alike.
    """

    cases: int
    area: Mapping[str, float]
    shares: Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class ViewerCase:
    """A case to scroll through: the files are gzipped NIfTI of 8 bits, all on one grid.

    Attributes:
        title: what to call it.
        image: the cropped CT, window to 0 to 255.
        masks: ``reference`` and models -> class indices.
        coarser: by how much it was made coarser along each axis.
    """

    title: str
    image: bytes
    masks: Mapping[str, bytes]
    coarser: tuple[int, int, int] = (1, 1, 1)


@dataclass(frozen=True, eq=False)
class ReportData:
    """A report's content.

    Attributes:
        title, intro: plain text; blank lines in the intro part paragraphs.
        results: ``{"models": [{"name", "network", "method", "seed", "parameters", "multiply_adds" (per slice),
            "ms_per_slice", "file_mib", "train_seconds", "labels": {region: {metric: Summary as a dict}}}], "seconds",
            "versions"}``. Only a model's name is required: what is missing or None shows as a dash. The model named
            ``teacher`` is what the others are measured against.
        curves: model -> column (``val/dice``, ``loss/seg``, ``loss/flfd.e1``) -> (step, value) in the order of steps.
        patients, importance: the pictures.
        facts: what a reader needs to repeat the run (data, split sizes, hardware, seeds, versions).
        research_notice: shown at the top and at the end.
        regions: region -> its class indices, `hlfd.labels.Labels.regions`. Without it the first region of the results
            is taken to hold every class, and each further one to be one class.
        terms: model -> its terms, for the drawing of who teaches whom.
        dice: model -> region -> patient -> Dice, the mean over seeds.
        volumes_ml: model -> region -> (reference, prediction) of each case by one training, ml.
        lesions: model -> (diameter in mm, share of the seeds that found it) of each reference lesion.
        calibration: model -> its reliability in the foreground of reference or prediction.
        attention: shares of the maps of ``importance``.
        viewer: cases to scroll through.
        findings: plain sentences on each comparison.
        ranks: region -> model -> the fields of `hlfd.evaluation.stability.Rank`.
        variances: region -> model -> the fields of `hlfd.evaluation.stability.Variances`.
        benchmark: contents of a ``benchmark.json``, empty without one; models of the results' names have their colours.
        ranking: what the patients were ranked by, for example ``tumor Dice of student-hlfd``.
    """

    title: str
    intro: str
    results: Mapping[str, Any]
    curves: Curves = field(default_factory=dict[str, Mapping[str, Sequence[tuple[int, float]]]])
    patients: Sequence[PatientPicture] = ()
    importance: Sequence[ImportancePicture] = ()
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    research_notice: str = RESEARCH_NOTICE
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    terms: Mapping[str, Mapping[str, Arrow]] = field(default_factory=dict[str, Mapping[str, Arrow]])
    dice: Mapping[str, Mapping[str, Mapping[str, float]]] = field(
        default_factory=dict[str, Mapping[str, Mapping[str, float]]]
    )
    volumes_ml: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]] = field(
        default_factory=dict[str, Mapping[str, Sequence[tuple[float, float]]]]
    )
    lesions: Mapping[str, Sequence[tuple[float, float]]] = field(
        default_factory=dict[str, Sequence[tuple[float, float]]]
    )
    calibration: Mapping[str, Calibration] = field(default_factory=dict[str, Calibration])
    attention: Attention | None = None
    viewer: Sequence[ViewerCase] = ()
    findings: Sequence[str] = ()
    ranks: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(
        default_factory=dict[str, Mapping[str, Mapping[str, Any]]]
    )
    variances: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(
        default_factory=dict[str, Mapping[str, Mapping[str, Any]]]
    )
    benchmark: Mapping[str, Any] = field(default_factory=dict[str, Any])
    ranking: str = ""

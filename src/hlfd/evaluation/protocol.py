"""Protocol: what is measured, on which regions, and what an empty mask gives; `evaluate_case` applies one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hlfd.evaluation.overlap import Counts
from hlfd.evaluation.pairs import Pair, Regions, make_pair
from hlfd.evaluation.results import Calibration, CaseResult, Lesion, Scores
from hlfd.labels import Labels
from hlfd.volume import Volume

Totals = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Measured:
    """What a protocol finds in one case: region -> scores, voxels, lesions."""

    regions: Mapping[str, Scores]
    voxels: Mapping[str, Counts]
    lesions: Mapping[str, Sequence[Lesion]] = field(default_factory=dict[str, Sequence[Lesion]])


@dataclass(frozen=True)
class Protocol:
    """How predictions are judged. A module in `hlfd.evaluation.protocols` builds one.

    Attributes:
        name: the module's.
        metrics: those that a table shows, of all that are measured.
        empty_policy: what empty masks give, in a sentence or two; it stands in every result.
        regions: labels -> region -> class indices. Raises `InputError` for labels that the protocol is not made for.
        measure: one case.
        totals: region -> figure -> value, over all cases together.
        labels: what its label files hold; None: whatever the user says.
        options: what it was built with.
    """

    name: str
    metrics: tuple[str, ...]
    empty_policy: str
    regions: Callable[[Labels], Regions]
    measure: Callable[[Pair], Measured]
    totals: Callable[[Sequence[CaseResult]], Totals]
    labels: Labels | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


def evaluate_case(
    prediction: Volume,
    reference: Volume,
    labels: Labels,
    case: str,
    *,
    protocol: Protocol,
    patient: str | None = None,
    calibration: Mapping[str, Calibration] | None = None,
) -> CaseResult:
    """Measure one case.

    Args:
        prediction: class indices, on the grid of the reference.
        reference: class indices.
        labels: what the class indices mean.
        case: the case's id.
        patient: the patient's; None: the case is the patient.
        calibration: to go with the result.

    Raises:
        InputError: if the grids differ, a volume holds anything but the class indices of ``labels``, or the protocol
            is not made for these labels.
    """
    pair = make_pair(prediction, reference, labels, protocol.regions(labels), case)
    found = protocol.measure(pair)
    return CaseResult(case, patient or case, found.regions, found.voxels, found.lesions, calibration or {})

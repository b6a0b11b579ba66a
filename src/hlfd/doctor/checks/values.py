"""Values: HU that are none, labels that were not declared. Needs the voxels."""

import math
from collections.abc import Iterator

from hlfd.doctor.checks.files import REFUSED
from hlfd.doctor.facts import CaseFacts
from hlfd.doctor.registry import DataSet, check_case
from hlfd.doctor.voxels import ImageValues

AS_HU = "taken as HU: the window cuts off what it leaves out"


@check_case("not-finite", "error", REFUSED, "replace them in the file")
def not_finite(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """NaN or infinite voxels."""
    if facts.values and facts.values.not_finite:
        yield f"{facts.values.not_finite} of {math.prod(facts.values.shape)} voxels are NaN or infinite"


@check_case("constant-image", "error", REFUSED)
def constant_image(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """An image of one value."""
    if facts.values and _constant(facts.values):
        yield f"every voxel is {facts.values.minimum:g}"


@check_case("byte-order", "error", "taken as HU, which they are not", "save the file with the other byte order")
def byte_order(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """Values that are HU only with the bytes of each in reverse: header and voxels are in two byte orders."""
    if facts.values and facts.values.swapped:
        low, high = facts.values.minimum, facts.values.maximum
        yield f"values from {low:g} to {high:g}, which look like HU once the bytes of each voxel are swapped"


@check_case("not-rescaled", "warning", AS_HU, "set slope and intercept in the file")
def not_rescaled(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """Values as stored by the scanner: HU + 1024."""
    if facts.values and _shifted(facts.values):
        low, high = facts.values.percentile(1), facts.values.percentile(99)
        yield f"1 to 99 % lie from {low:g} to {high:g}: looks like HU + 1024, the rescale intercept was lost"


@check_case("rescaled-twice", "warning", AS_HU, "set slope and intercept in the file")
def rescaled_twice(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """HU - 1024."""
    if facts.values and _sunken(facts.values):
        low, high = facts.values.percentile(1), facts.values.percentile(99)
        yield f"1 to 99 % lie from {low:g} to {high:g}: looks like HU - 1024, the rescale intercept was added twice"


@check_case("not-hu", "warning", AS_HU, "preprocess.window_hu, or HU in the file")
def not_hu(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """Values that can't be HU: scaled, standardised, or without soft tissue."""
    values = facts.values
    if values is None or values.swapped or values.minimum >= values.maximum:
        return
    if _shifted(values) or _sunken(values) or _grey(values):
        return
    found = f"values from {values.minimum:g} to {values.maximum:g}"
    if values.maximum - values.minimum < 100:
        yield f"{found}: too few for HU (scaled to 0..1, or standardised?)"
    elif values.share(-200, 250) < 0.02:
        yield f"{found}, {100 * values.share(-200, 250):.1f} % of them from -200 to 250: no soft tissue"


@check_case("grey-values", "note", AS_HU, "preprocess.window_hu")
def grey_values(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """Values from 0 to 255."""
    if facts.values and _grey(facts.values):
        yield "grey values from 0 to 255, no air: HU that were cut off, or none"


@check_case("padding", "note", "the window cuts it off", "preprocess.window_hu")
def padding(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """Values below air."""
    values = facts.values
    if values is None or values.swapped or _sunken(values) or _constant(values):
        return
    if values.share(-3072, -1100) > 1e-3:
        share = 100 * values.share(-3072, -1100)
        yield f"{share:.1f} % of the voxels lie below -1100 HU, down to {values.minimum:g}: padding around the image"


def _constant(values: ImageValues) -> bool:
    return values.minimum == values.maximum


def _grey(values: ImageValues) -> bool:
    return values.minimum >= 0 and 100 <= values.maximum <= 255


def _shifted(values: ImageValues) -> bool:
    """Soft tissue around 1060 and no air: dense bone is never that much of a body."""
    return values.percentile(0.5) > -300 and values.share(880, 1250) > 0.05 and values.maximum > 300


def _sunken(values: ImageValues) -> bool:
    """Soft tissue around -990, air around -2020, and no fat nor tissue where they belong."""
    few = values.share(-200, 250) < 0.02
    return few and values.share(-1224, -850) > 0.05 and values.share(-3072, -1800) > 0.05


@check_case(
    "unknown-labels",
    "error",
    REFUSED,
    "source.labels",
    kits=(REFUSED, "source.year (from 2021 there are cysts), source.labels, source.ignore"),
    slices=(REFUSED, "source.tumor_value, source.labels"),
    dicom=(REFUSED, "source.organ, source.segments, source.labels, source.tumor_value, source.ignore"),
)
def unknown_labels(facts: CaseFacts, data: DataSet) -> Iterator[str]:
    """Label values, or segments, that the source doesn't declare."""
    if facts.undeclared:
        yield facts.undeclared
    if facts.counts is None or not facts.counts.whole or facts.label is None:
        return
    unknown = {v: n for v, n in facts.counts.counts.items() if v not in data.labels.raw}
    if unknown:
        shown = ", ".join(f"{v:g} ({n} voxels)" for v, n in list(unknown.items())[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        yield f"unknown label values {shown}{more}; expected {', '.join(map(str, sorted(data.labels.raw)))}"


@check_case("fractional-labels", "error", REFUSED)
def fractional_labels(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """Labels that aren't whole numbers."""
    if facts.counts is not None and not facts.counts.whole:
        yield "label values are fractions or NaN, expected whole numbers"


@check_case("empty-label", "warning", "kept: a case without any organ", "a split file (split.file) without it")
def empty_label(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """A label map of background alone."""
    if facts.counts is not None and set(facts.counts.counts) == {0}:
        yield "the label is background alone"

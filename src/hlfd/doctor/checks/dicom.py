"""DICOM: what `hlfd.io.dicom` finds in the headers of series."""

from collections.abc import Callable

from hlfd.doctor.registry import WHOLE, DataSet, Found, Severity, check

REFUSED = "refused: the series is not read"
_KINDS: dict[str, tuple[Severity, str, str, str]] = {
    "damaged-file": ("error", "Objects that can't be read.", REFUSED, "mend or remove the file"),
    "no-position": ("error", "Slices without position, orientation or pixel size.", REFUSED, ""),
    "duplicate-position": ("error", "Different slices in one place.", REFUSED, "remove one of each"),
    "missing-slices": ("error", "Gaps between slices.", REFUSED, "complete the series"),
    "unequal-spacing": ("error", "Slices that aren't equally far apart.", REFUSED, ""),
    "off-grid": ("error", "Slices beside the line of the others.", REFUSED, ""),
    "no-rescale": ("error", "Slices without slope and intercept.", REFUSED, ""),
    "not-hu": ("error", "Rescaled values that are no HU.", REFUSED, ""),
    "gantry-tilt": ("warning", "Slices stacked askew.", "kept as a sheared affine", ""),
    "single-slice": ("warning", "A series of one slice.", "its thickness is the distance between slices", ""),
    "rescale-differs": ("note", "Slope and intercept change from slice to slice.", "each slice has its own", ""),
    "instance-order": ("note", "InstanceNumber in another order than the positions.", "positions count", ""),
    "several-segs": (
        "note",
        "Several segmentation objects of one series.",
        "read together; refused where two of them mark the same voxels with one label",
        "source.several_segs",
    ),
    "copies": ("note", "Slices that are there twice.", "one of each is read", ""),
    "several-series": ("note", "Series beside each other, or mixed in a folder.", "each is a case", ""),
    "set-aside": ("note", "Objects that are no CT slices.", "set aside", ""),
}


def _finder(code: str, about: str) -> Callable[[DataSet], Found]:
    def find(data: DataSet) -> Found:
        for known, series, text in data.dicom:
            if known == code:
                case = next((f.case.id for f in data.cases if series and f.case.id.endswith(f"_{series}")), WHOLE)
                yield case, text if case != WHOLE or not series else f"series {series}: {text}"

    find.__doc__ = about
    return find


for _code, (_severity, _about, _by_default, _option) in _KINDS.items():
    check(f"dicom-{_code}", _severity, _by_default, _option)(_finder(_code, _about))

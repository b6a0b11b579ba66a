"""What a doctor of data sets says about DICOM: plain facts, worst first."""

from dataclasses import dataclass
from pathlib import Path

from hlfd.io.dicom.pixels import problems
from hlfd.io.dicom.seg import referring
from hlfd.io.dicom.series import Tree, scan


@dataclass(frozen=True)
class Finding:
    """One fact about a series or the tree it lies in.

    Attributes:
        code: ``damaged-file``, ``no-position``, ``duplicate-position``, ``missing-slices``, ``unequal-spacing``,
            ``off-grid``, ``no-rescale``, ``not-hu`` (errors); ``gantry-tilt``, ``instance-order``, ``rescale-differs``,
            ``single-slice``, ``copies``, ``several-segs``, ``several-series``, ``set-aside`` (read all the same).
        series: the series' key; empty for the tree as a whole.
        text: what was found, where, and what is done about it.
        error: the series can't be read.
    """

    code: str
    series: str
    text: str
    error: bool


def findings(path: str | Path, tree: Tree | None = None) -> list[Finding]:
    """What is wrong or worth knowing about the DICOM objects in a folder, a zip or a file, by headers; errors first.

    Args:
        path: folder, zip or file.
        tree: what `scan` found there, if it has been read already.

    Raises:
        InputError: as `scan`.
    """
    tree = scan(path) if tree is None else tree
    objects, found = referring(tree), list[Finding]()
    for series in tree.series:
        found += [Finding(problem.code, series.key, problem.text, problem.error) for problem in problems(series)]
        if series.copies:
            text = f"{series.copies} slices are there twice: one of each is read"
            found.append(Finding("copies", series.key, text, False))
        if len(objects.get(series, ())) > 1:
            text = f"{len(objects[series])} SEG objects refer to it: their segments are read together"
            found.append(Finding("several-segs", series.key, text, False))
    belonging = {text for series in tree.series for text in series.damaged}
    found += [Finding("damaged-file", "", text, True) for text in tree.damaged if text not in belonging]
    if len(tree.series) > 1:
        keys = ", ".join(series.key for series in tree.series[:8]) + (", ..." if len(tree.series) > 8 else "")
        found.append(Finding("several-series", "", f"{len(tree.series)} CT series: {keys}", False))
    for what, count in sorted(tree.aside.items()):
        found.append(Finding("set-aside", "", f"{count} {what}: set aside", False))
    return sorted(found, key=lambda finding: not finding.error)

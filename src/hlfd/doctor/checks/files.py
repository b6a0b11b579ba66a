"""Files: missing, left over, not readable."""

from collections.abc import Iterator

from hlfd.doctor.facts import CaseFacts
from hlfd.doctor.registry import WHOLE, DataSet, Found, check, check_case
from hlfd.sources.slices import gaps

REFUSED = "refused: prepare does the others, names it and stops"


@check("unpaired", "error", "refused: every command that reads the folder names it", "complete it or move it away")
def unpaired(data: DataSet) -> Found:
    """Files without their counterpart, or whose names fit no case."""
    for text in data.complaints:
        yield WHOLE, text


@check_case("unreadable", "error", REFUSED, "mend the file or take the case out")
def unreadable(facts: CaseFacts, data: DataSet) -> Iterator[str]:
    """Damaged, truncated or missing files; headers that say more than the file holds."""
    for problem in facts.problems:
        if not any(text in problem for _, series, text in data.dicom if series):  # a finding of its own
            yield problem


@check(
    "no-label",
    "note",
    "left out, unless a recipe distils on scans without labels",
    "student_training.unlabelled_share",
)
def no_label(data: DataSet) -> Found:
    """Cases without a label."""
    for facts in data.cases:
        if facts.case.label is None:
            yield facts.case.id, "has no label"


@check_case("slice-gaps", "warning", "those beside a gap count as neighbours", "complete them")
def slice_gaps(facts: CaseFacts, data: DataSet) -> Iterator[str]:
    """Numbers missing among the slices of a case, in source slices."""
    found = gaps(facts.case) if data.source == "slices" else []
    if found:
        shown = ", ".join(f"{first} to {next_}" for first, next_ in found[:3]) + (", ..." if len(found) > 3 else "")
        yield f"{len(found)} gaps in the slices' numbers: {shown}"


@check("unused-file", "note", "ignored", "--source NAME and its options, if they belong to the data")
def unused_file(data: DataSet) -> Found:
    """NIfTI files below the root that belong to no case."""
    shown = ", ".join(str(path.relative_to(data.root)) for path in data.unused[:3])
    if data.unused:
        more = f" and {len(data.unused) - 3} more" if len(data.unused) > 3 else ""
        yield WHOLE, f"{len(data.unused)} NIfTI files belong to no case: {shown}{more}"

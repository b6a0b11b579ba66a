"""How a result is told from other files: it may be replaced by another, and is no image to segment."""

import gzip
import json
import zlib
from pathlib import Path

from hlfd.io import nifti

DESCRIP = slice(148, 228)
PREVIEW = b"tEXtSoftware\0hlfd"
SEG = b"1.2.840.10008.5.1.4.1.1.66.4"
MANUFACTURER = b"\x08\0\x70\0LO\x04\0hlfd"
HEAD = 1 << 14


def is_result(path: Path) -> bool:
    """Whether a file is one that `hlfd predict` wrote.

    Label maps and probabilities say so in their ``descrip``, a SEG as its manufacturer, a preview as its software,
    statistics by their keys.
    """
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        if path.suffix.lower() == ".json":
            known = json.loads(path.read_text())
            return isinstance(known, dict) and {"case", "regions"} <= known.keys()
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            head = file.read(HEAD)
    except (OSError, ValueError, EOFError, zlib.error):
        return False
    if nifti.suffix_of(path):
        return head[DESCRIP].startswith(b"hlfd ")
    return PREVIEW in head or (SEG in head and MANUFACTURER in head)

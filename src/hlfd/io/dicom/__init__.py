"""DICOM in and out: CT series as volumes in HU, segmentation objects (SEG) read and written.

Needs ``pip install hlfd[dicom]``. Nothing that names the patient leaves this package: series, cases and findings go by
keys that are hashes. Only a SEG that is written holds what its source holds, as DICOM asks.
"""

from hlfd.io.dicom._header import SUFFIXES, Header, begins_as_dicom
from hlfd.io.dicom._tree import Item, items
from hlfd.io.dicom.finding import Finding, findings
from hlfd.io.dicom.pixels import DicomImage, problems, read_series, read_volume, require_readable
from hlfd.io.dicom.seg import Segment, Segmentation, read_seg, read_segmentation, referring
from hlfd.io.dicom.seg_writing import write_seg
from hlfd.io.dicom.series import Series, Tree, choose, list_series, scan

__all__ = [
    "SUFFIXES",
    "DicomImage",
    "Finding",
    "Header",
    "Item",
    "Segment",
    "Segmentation",
    "Series",
    "Tree",
    "begins_as_dicom",
    "choose",
    "findings",
    "items",
    "list_series",
    "problems",
    "read_seg",
    "read_segmentation",
    "read_series",
    "read_volume",
    "referring",
    "require_readable",
    "scan",
    "write_seg",
]

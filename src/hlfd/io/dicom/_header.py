"""What the header of one DICOM object says, as far as images and segmentations need it, without its identifiers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

from hlfd.io.dicom._library import hashed, library, quiet
from hlfd.io.dicom._tree import Item

CT = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "legacy converted enhanced CT",
}
SEG = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}  # segmentation, label map segmentation
DIRECTORY = "1.2.840.10008.1.3.10"
MAX_FRAMES, MAX_SIDE = 2**16, 2**14
SUFFIXES = (".dcm", ".dicom", ".ima")
EMPTY = "is empty or begins with zeros"
DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
DENSEST = {DEFLATED: 1032, RLE: 64}
"""Compressions that make a byte out of at most so many."""
TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "ImageType",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SpacingBetweenSlices",
    "SliceThickness",
    "GantryDetectorTilt",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsAllocated",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ReferencedSeriesSequence",
    "FrameOfReferenceUID",
]

Kind = Literal["image", "seg", "aside", "damaged", "foreign"]

_BARE = tuple(bytes((8, 0, element, 0)) for element in (0x00, 0x05, 0x08, 0x16))
"""How files begin that leave out preamble and magic number: group 8, in little endian."""


def begins_as_dicom(start: bytes) -> bool:
    """Whether a file's first 132 bytes are those of a DICOM file, with its magic number or bare."""
    return start[128:132] == b"DICM" or start[:4] in _BARE


@dataclass(frozen=True, slots=True, repr=False)
class Frame:
    """One slice as its header describes it: positions in DICOM's own axes (left, posterior, superior).

    Attributes:
        item: where it is.
        index: which frame of its object.
        uid: hash of the SOP instance UID.
        number: InstanceNumber, or the position in the stack of a multi-frame object.
        stack: what tells apart slices at one place: acquisition, time, stack id.
        position_mm: of the first pixel.
        directions: unit vectors along a row, then along a column.
        pixel_mm: distance between rows, between columns.
        thickness_mm: distance to the next slice as the header states it; for a single slice only.
        rescale: slope and intercept; None: not given.
        units: RescaleType.
        tilt: GantryDetectorTilt, degrees; what counts is the positions.
        pixel_bytes: what the object's pixels take at least, 0 where a compression knows no such bound; what there is.
    """

    item: Item
    index: int
    uid: str
    number: int | None
    stack: tuple[str, ...]
    position_mm: tuple[float, ...] | None
    directions: tuple[float, ...] | None
    pixel_mm: tuple[float, ...] | None
    thickness_mm: float | None
    rows: int
    columns: int
    rescale: tuple[float, float] | None
    units: str
    tilt: float
    pixel_bytes: tuple[int, int]
    localizer: bool

    @property
    def overclaim(self) -> str:
        """How its header claims more than the file can hold or than is read; empty if it doesn't."""
        if max(self.rows, self.columns) > MAX_SIDE:
            return f"{self.item} claims {self.columns} x {self.rows} pixels, refused above {MAX_SIDE} a side"
        least, found = self.pixel_bytes
        if found < least:
            return f"{self.item} is cut off: expected {least} bytes of pixels, got {found}"
        return ""


@dataclass(frozen=True, slots=True, repr=False)
class Header:
    """One object.

    Attributes:
        kind: a CT image, a segmentation, something to set aside (``what`` says what), damaged (and why), or foreign: no
            DICOM by name and content.
        series: hash of the series' UID, empty if it has none.
        study: hash of the study's UID, or of what else tells that images belong together; empty if nothing does.
        patient: hash of the patient's ID, empty if it has none.
        uid: of a segmentation: hash of its SOP instance UID, or its place if it has none.
        references: hashes of the series and of the instances a segmentation was made on.
    """

    item: Item
    kind: Kind
    what: str = ""
    series: str = ""
    number: int | None = None
    study: str = ""
    patient: str = ""
    frames: tuple[Frame, ...] = ()
    uid: str = ""
    references: frozenset[str] = frozenset()


def read_header(item: Item, file: IO[bytes]) -> Header | None:
    """The header of an object, None for a DICOMDIR. The pixels are not read."""
    pydicom = library()
    named = item.name.lower().endswith(SUFFIXES)
    try:
        start = file.read(132)
        file.seek(0)
    except Exception:  # a damaged zip
        return Header(item, "damaged", "can't be read")
    if not begins_as_dicom(start):
        kind = "damaged" if named else "foreign"
        return Header(item, kind, "is no DICOM file" if start.strip(b"\0") else EMPTY)
    bare = start[128:] != b"DICM"
    try:
        with quiet():
            data = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS, force=bare)
            whole = data.file_meta.get("TransferSyntaxUID") == DEFLATED
            return _header(item, data, item.size - (0 if whole else file.tell()))
    except Exception:  # a damaged header makes pydicom raise anything, and quote it
        return Header(item, "foreign" if bare and not named else "damaged", "has a damaged header")


def _header(item: Item, data: Any, left: int) -> Header | None:
    """The header of a data set after which so many bytes are left for the pixels."""
    meta = data.file_meta
    own, stored_as = str(data.get("SOPClassUID") or ""), str(meta.get("MediaStorageSOPClassUID") or "")
    sop_class, modality = own or stored_as, str(data.get("Modality") or "")
    if DIRECTORY in (own, stored_as):
        return None
    is_ct, may_be_ct = sop_class in CT, not (sop_class and {own, stored_as}.isdisjoint(CT))
    wrong = {
        "ends before its pixels": is_ct and left <= 0 and not _is_localizer(data.get("ImageType")),
        "has no Modality": not modality and (may_be_ct or not own),
        "says that it is two kinds of object": may_be_ct and modality == "CT" and bool(sop_class) and not is_ct,
        "has no Rows and Columns": is_ct and not (data.get("Rows") and data.get("Columns")),
    }
    if any(wrong.values()):
        return Header(item, "damaged", next(what for what, holds in wrong.items() if holds))
    series, study = (str(data.get(name) or "") for name in ("SeriesInstanceUID", "StudyInstanceUID"))
    common: dict[str, Any] = {
        "series": hashed(series) if series else "",
        "number": _integer(data.get("SeriesNumber")),
        "study": hashed(together, 10) if (together := study or str(data.get("FrameOfReferenceUID") or "")) else "",
        "patient": hashed(f"patient {data.PatientID}", 10) if data.get("PatientID") else "",
    }
    uid = hashed(str(data.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or item), 16)
    if sop_class in SEG:
        return Header(item, "seg", "SEG", uid=uid, references=_references(data), **common)
    if modality != "CT" or (sop_class and not is_ct):
        what = "CT that is no CT image" if modality == "CT" else modality or "no modality"
        return Header(item, "aside", what, **common)
    return Header(item, "image", "CT", frames=tuple(frames_of(item, data, uid, left)), **common)


def _is_localizer(kinds: Iterable[Any] | None) -> bool:
    return any(str(kind).upper() in ("LOCALIZER", "SCOUT") for kind in kinds or ())


def frames_of(item: Item, data: Any, uid: str, left: int) -> list[Frame]:
    """The frames of an object, an image or a segmentation, in their order there; ``left``: bytes of its pixels."""
    count = int(data.get("NumberOfFrames") or 1)
    if not 0 < count <= MAX_FRAMES:
        raise ValueError("frames")
    groups: Sequence[Any] = data.get("PerFrameFunctionalGroupsSequence") or [data] * count
    if len(groups) != count:
        raise ValueError("as many functional groups as frames")
    shared_groups = data.get("SharedFunctionalGroupsSequence")
    shared = shared_groups[0] if shared_groups else None
    syntax = data.file_meta.get("TransferSyntaxUID")
    raw = int(data.get("BitsAllocated") or 16) * int(data.Rows) * int(data.Columns) * count // 8
    densest = DENSEST.get(str(syntax), 0 if syntax is not None and syntax.is_compressed else 1)
    least = raw // densest if densest else 0
    return [_frame(item, data, uid, index, (own, shared, data), (least, left)) for index, own in enumerate(groups)]


def _frame(item: Item, data: Any, uid: str, index: int, levels: tuple[Any, ...], pixel_bytes: tuple[int, int]) -> Frame:
    def find(name: str, group: str) -> Any:
        """The attribute in its functional group, of the frame or shared by all; or in the object itself."""
        for level in levels:
            sequence = level.get(group) if level is not None else None
            value = sequence[0].get(name) if sequence else None
            if value not in (None, ""):
                return value
        return data.get(name)

    def numbers(name: str, group: str, count: int) -> tuple[float, ...] | None:
        values = find(name, group)
        if values is None or isinstance(values, str) or len(values) != count:
            return None
        return tuple(float(value) for value in values)

    slope = find("RescaleSlope", "PixelValueTransformationSequence")
    intercept = find("RescaleIntercept", "PixelValueTransformationSequence")
    thickness = data.get("SpacingBetweenSlices") or find("SpacingBetweenSlices", "PixelMeasuresSequence")
    thickness = thickness or find("SliceThickness", "PixelMeasuresSequence")
    kinds = [*(data.get("ImageType") or ()), *(find("FrameType", "CTImageFrameTypeSequence") or ())]
    stack = (
        data.get("AcquisitionNumber"),
        data.get("TemporalPositionIdentifier"),
        find("StackID", "FrameContentSequence"),
        find("TemporalPositionIndex", "FrameContentSequence"),
        find("FrameAcquisitionNumber", "FrameContentSequence"),
    )
    in_stack = find("InStackPositionNumber", "FrameContentSequence")
    return Frame(
        item=item,
        index=index,
        uid=uid,
        number=_integer(in_stack if in_stack is not None else data.get("InstanceNumber")),
        stack=tuple("" if part is None else str(part) for part in stack),
        position_mm=numbers("ImagePositionPatient", "PlanePositionSequence", 3),
        directions=numbers("ImageOrientationPatient", "PlaneOrientationSequence", 6),
        pixel_mm=numbers("PixelSpacing", "PixelMeasuresSequence", 2),
        thickness_mm=abs(float(thickness)) if thickness else None,
        rows=int(data.Rows),
        columns=int(data.Columns),
        rescale=None if slope is None or intercept is None else (float(slope), float(intercept)),
        units=str(find("RescaleType", "PixelValueTransformationSequence") or "").strip().upper(),
        tilt=float(data.get("GantryDetectorTilt") or 0),
        pixel_bytes=pixel_bytes,
        localizer=_is_localizer(kinds),
    )


def _references(data: Any) -> frozenset[str]:
    """Hashes of the series and instances in the sequences of references."""
    found: set[str] = set()
    for series in data.get("ReferencedSeriesSequence") or ():
        if series.get("SeriesInstanceUID"):
            found.add(hashed(str(series.SeriesInstanceUID)))
        for instance in series.get("ReferencedInstanceSequence") or ():
            if instance.get("ReferencedSOPInstanceUID"):
                found.add(hashed(str(instance.ReferencedSOPInstanceUID), 16))
    for frame in data.get("PerFrameFunctionalGroupsSequence") or ():
        for derivation in frame.get("DerivationImageSequence") or ():
            for source in derivation.get("SourceImageSequence") or ():
                if source.get("ReferencedSOPInstanceUID"):
                    found.add(hashed(str(source.ReferencedSOPInstanceUID), 16))
    return frozenset(found)


def _integer(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None

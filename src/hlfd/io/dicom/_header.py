"""What the header of one DICOM object says, as far as images and segmentations need it, without its identifiers."""

from collections.abc import Sequence
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
MAX_FRAMES = 2**16
SUFFIXES = (".dcm", ".dicom", ".ima")
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

Kind = Literal["image", "seg", "aside", "damaged"]


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
        raw_bytes: of the object's pixels if they are not compressed, else 0.
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
    raw_bytes: int
    localizer: bool


@dataclass(frozen=True, slots=True, repr=False)
class Header:
    """One object.

    Attributes:
        kind: a CT image, a segmentation, something to set aside (``what`` says what), or damaged (and why).
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
    """The header of an object, None for what is no DICOM or only a DICOMDIR. The pixels are not read."""
    pydicom = library()
    named = item.name.lower().endswith(SUFFIXES)
    try:
        start = file.read(132)
        file.seek(0)
    except Exception:  # a damaged zip
        return Header(item, "damaged", "can't be read")
    if not begins_as_dicom(start):
        return Header(item, "damaged", "is no DICOM file") if named else None
    bare = start[128:] != b"DICM"
    try:
        with quiet():
            data = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS, force=bare)
            return _header(item, data)
    except Exception:  # a damaged header makes pydicom raise anything, and quote it
        return Header(item, "damaged", "has a damaged header") if named or not bare else None


def _header(item: Item, data: Any) -> Header | None:
    meta = data.file_meta
    sop_class = str(data.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
    modality = str(data.get("Modality") or "")
    if sop_class == DIRECTORY or not (sop_class or modality):
        return None if sop_class else Header(item, "damaged", "has a damaged header")
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
    if sop_class in CT and not (data.get("Rows") and data.get("Columns")):
        return Header(item, "damaged", "has no Rows and Columns", **common)
    if modality != "CT" or (sop_class and sop_class not in CT):
        what = "CT that is no CT image" if modality == "CT" else modality or "no modality"
        return Header(item, "aside", what, **common)
    return Header(item, "image", "CT", frames=tuple(frames_of(item, data, uid)), **common)


def frames_of(item: Item, data: Any, uid: str) -> list[Frame]:
    """The frames of an object, an image or a segmentation, in their order there."""
    count = int(data.get("NumberOfFrames") or 1)
    if not 0 < count <= MAX_FRAMES:
        raise ValueError("frames")
    groups: Sequence[Any] = data.get("PerFrameFunctionalGroupsSequence") or [data] * count
    if len(groups) != count:
        raise ValueError("as many functional groups as frames")
    shared_groups = data.get("SharedFunctionalGroupsSequence")
    shared = shared_groups[0] if shared_groups else None
    syntax = data.file_meta.get("TransferSyntaxUID")
    bits = int(data.get("BitsAllocated") or 16)
    raw = 0 if syntax is not None and (syntax.is_compressed or syntax.is_deflated) else bits // 8
    return [
        _frame(item, data, uid, index, (own, shared, data), raw * int(data.Rows) * int(data.Columns) * count)
        for index, own in enumerate(groups)
    ]


def _frame(item: Item, data: Any, uid: str, index: int, levels: tuple[Any, ...], raw_bytes: int) -> Frame:
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
        raw_bytes=raw_bytes,
        localizer=any(str(kind).upper() in ("LOCALIZER", "SCOUT") for kind in kinds),
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

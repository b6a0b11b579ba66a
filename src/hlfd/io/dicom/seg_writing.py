"""DICOM SEG out: a label map on the frames of the series it was made on."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from hlfd.errors import InputError
from hlfd.io.dicom import codes
from hlfd.io.dicom._library import hashed, library, quiet
from hlfd.io.dicom._tree import opened
from hlfd.io.dicom.pixels import DicomImage
from hlfd.io.dicom.series import Series
from hlfd.io.files import replacing
from hlfd.volume import Volume

UUID_ROOT = "2.25."
COLORS = ((185, 102, 83), (144, 238, 144), (205, 205, 100), (111, 184, 210), (216, 132, 216), (241, 214, 145))
"""In which viewers show the segments (red, green, blue); some refuse segments without."""
TYPE_2 = (
    "PatientID PatientName PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber "
    "ReferringPhysicianName PositionReferenceIndicator"
)
"""What every object has, if only empty."""


def write_seg(
    path: Path,
    labels: Volume,
    source: Series | DicomImage,
    names: Sequence[str],
    *,
    algorithm: str = "hlfd",
    version: str | None = None,
    description: str = "Automatic segmentation",
    series_number: int = 900,
) -> Path:
    """Write a label map as a DICOM SEG (BINARY), whole or not at all, for archives and viewers.

    Frames lie where the source's slices lie and refer to them; slices without a segment are left out, unless all are
    without: an object must have frames. Patient and study are copied from the source, as DICOM asks. UIDs that were
    stripped from the source are replaced by ones made from its key. Text is UTF-8, whatever the source's is.

    Args:
        path: the file to write.
        labels: class indices on the series' grid: its shape and affine.
        source: the series, or the image that was read from it.
        names: of the classes from 1; known ones get SNOMED codes (`codes`), others a private code.
        algorithm: its name, as algorithm identification and model name.
        version: of the algorithm; this package's if None.
        description: of the series.
        series_number: of the series that the SEG is.

    Returns:
        ``path``.

    Raises:
        InputError: labels on another grid, values without a name, a source whose header doesn't allow a SEG.
    """
    hd = library("highdicom")
    series = source.series if isinstance(source, DicomImage) else source
    grid = Volume(np.broadcast_to(np.uint8(0), series.shape), series.affine)
    grid.require_same_grid(labels, f"labels for series {series.key}")
    highest = int(labels.voxels.max())
    if labels.voxels.dtype.kind not in "iub" or int(labels.voxels.min()) < 0 or highest > len(names):
        raise InputError(f"labels for series {series.key}: expected values 0 to {len(names)}, got up to {highest}")
    version = version or metadata.version("hlfd")
    with quiet():
        sources = _sources(series)
        try:
            sources[0].decode()  # what is copied is written in another character set
            seg = hd.seg.Segmentation(
                source_images=sources,
                pixel_array=_frames(series, labels, sources),
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=_descriptions(hd, names, algorithm[:64], version[:64]),
                series_instance_uid=hd.UID(),
                series_number=series_number,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="hlfd",
                manufacturer_model_name=algorithm[:64],
                software_versions=metadata.version("hlfd"),
                device_serial_number="none",
                content_label="SEGMENTATION",
                content_description=description[:64],
                series_description=description[:64],
                specific_character_set="ISO_IR 192",
            )
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            text = f"series {series.key}: its header doesn't allow a DICOM SEG"
            # These name what is missing; others may quote a value, which may be the patient's.
            why = str(error) if isinstance(error, AttributeError | KeyError) else type(error).__name__
            raise InputError(f"{text}: {why}") from None
        with replacing(path, ".dcm") as temporary:
            seg.save_as(temporary)
    return Path(path)


def _sources(series: Series) -> list[Any]:
    """Headers of the series' objects, in slice order."""
    pydicom = library()
    items = list(dict.fromkeys(frame.item for frame in series.frames))
    if len(items) > 1 and len(items) != series.images:
        raise InputError(f"series {series.key}: is spread over {len(items)} multi-frame objects, a SEG refers to one")
    read: dict[Any, Any] = {}
    for item, file in opened(sorted(items, key=lambda item: (str(item.path), item.member or ""))):
        data = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        _complete(data, series.key)
        read[item] = data
    return [read[item] for item in items]


def _complete(data: Any, key: str) -> None:
    """Fill in what was stripped: UIDs made from the series' key, so that two SEGs of one series agree; else empty."""
    meta = data.file_meta
    data.SOPClassUID = data.get("SOPClassUID") or meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = data.get("SOPInstanceUID") or meta.MediaStorageSOPInstanceUID
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if not data.get(name):
            setattr(data, name, UUID_ROOT + str(int(hashed(f"{key} {name}", 31), 16)))
    for name in TYPE_2.split():
        if name not in data:
            setattr(data, name, None)


def _frames(series: Series, labels: Volume, sources: Sequence[Any]) -> np.ndarray:
    """The label map as (frames, rows, columns) in the order of the source's frames."""
    stack = labels.voxels.transpose(2, 1, 0).astype(np.uint8)
    if len(sources) == series.images:
        return np.ascontiguousarray(stack)
    frames = np.zeros((int(sources[0].NumberOfFrames), *stack.shape[1:]), dtype=np.uint8)
    frames[[frame.index for frame in series.frames]] = stack
    return frames


def _descriptions(hd: Any, names: Sequence[str], algorithm: str, version: str) -> list[Any]:
    family = hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
    identification = hd.AlgorithmIdentificationSequence(algorithm, family, version, source="hlfd")
    organ = next((name for name in names if codes.coded(name).category == codes.ANATOMY), None)

    def concept(code: codes.Code) -> Any:
        return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)

    descriptions: list[Any] = []
    for number, name in enumerate(names, 1):
        meaning = codes.coded(name, organ)
        descriptions.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=name[:64],
                segmented_property_category=concept(meaning.category),
                segmented_property_type=concept(meaning.type),
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=identification,
                anatomic_regions=[concept(meaning.region)] if meaning.region else None,
                display_color=hd.color.CIELabColor.from_rgb(*COLORS[(number - 1) % len(COLORS)]),
            )
        )
        if meaning.side:
            kind = descriptions[-1].SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [concept(meaning.side)]
    return descriptions

"""Synthetic DICOM for tests: CT series with any geometry and encoding, each written from an array and its affine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

LPS = np.diag([-1.0, -1, 1, 1])
NAME, ID = "Doe^Jane", "SECRET-4711"  # must never come out of the reader


def ct_affine(spacing_mm: Sequence[float] = (0.8, 0.7, 2.5), tilt_degrees: float = 0.0, turn: Any = None) -> np.ndarray:
    """RAS+ affine of axes (column, row, slice). Tilted: slices lean while the table moves along z."""
    affine = np.diag([*spacing_mm, 1.0])
    tilt = np.radians(tilt_degrees)
    affine[:3, 1] = np.array([0, np.cos(tilt), np.sin(tilt)]) * spacing_mm[1]
    affine[:3, 3] = (-100, -120, 30)
    if turn is not None:
        affine[:3] = turn @ affine[:3]
    return LPS @ affine


def phantom_hu(shape: Sequence[int] = (12, 10, 6), seed: int = 0) -> np.ndarray:
    """Whole HU of shape (columns, rows, slices), different in every voxel's surroundings."""
    return np.random.default_rng(seed).integers(-1000, 1500, tuple(shape)).astype(np.int16)


def dataset(hu: np.ndarray, affine: np.ndarray, k: int, **tags: Any) -> Dataset:
    """Slice ``k`` of an array (columns, rows, slices) as a CT image; ``tags`` replace or (None) remove."""
    world = LPS @ affine
    slope, intercept = float(tags.get("RescaleSlope", 1) or 1), float(tags.get("RescaleIntercept", -1024) or 0)
    stored = np.rint((hu[:, :, k].T.astype(np.float64) - intercept) / slope)
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.Modality, data.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = NAME, ID, "19700101", "F"
    data.StudyDate, data.StudyTime, data.AccessionNumber, data.ReferringPhysicianName = "20200101", "120000", "", ""
    data.StudyID, data.Manufacturer, data.PositionReferenceIndicator = "1", "test", ""
    data.StudyInstanceUID = data.SeriesInstanceUID = data.FrameOfReferenceUID = "1.2.3"
    data.SeriesNumber, data.InstanceNumber, data.AcquisitionNumber = 3, k + 1, 1
    data.ImagePositionPatient = [round(float(x), 6) for x in world[:3] @ (0, 0, k, 1)]
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    data.ImageOrientationPatient = [round(float(x), 9) for x in (world[:3, :2] / spacing[:2]).T.ravel()]
    data.PixelSpacing = [float(spacing[1]), float(spacing[0])]
    data.SliceThickness = 5.0  # the distance between slices is another one
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = slope, intercept, "HU"
    data.PixelData = stored.astype("<i2").tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    return data


def save(data: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a data set, compressed if ``syntax`` is that of a compression."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    whole = FileDataset(str(path), data, file_meta=meta, preamble=b"\0" * 128)
    if pydicom.uid.UID(syntax).is_compressed:
        whole.compress(syntax, generate_instance_uid=False)
    else:
        meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    hu: np.ndarray | None = None,
    affine: np.ndarray | None = None,
    *,
    series: str = "1.2.3.4",
    study: str = "1.2.3",
    seed: int = 0,
    syntax: str = ExplicitVRLittleEndian,
    skip: Sequence[int] = (),
    change: Callable[[Dataset, int], None] | None = None,
    name: str = "IM{n:04}",
    **tags: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Write a CT series: file names and InstanceNumber say nothing about the order.

    Args:
        folder: created.
        hu: (columns, rows, slices); ``phantom_hu`` if not given.
        affine: index to world, RAS+; ``ct_affine`` if not given.
        skip: slices that are not written.
        change: called with each slice's data set and number before it is written.
        name: of the files, ``n`` is random.

    Returns:
        ``hu`` and ``affine``, as they were or as they were made.
    """
    hu = phantom_hu(seed=seed) if hu is None else hu
    affine = ct_affine() if affine is None else affine
    order = np.random.default_rng(seed).permutation(hu.shape[2])
    for k in range(hu.shape[2]):
        if k in skip:
            continue
        # UIDs are made of the series and the slice, so that the same call writes the same objects.
        data = dataset(hu, affine, k, **tags)
        data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = series, study, f"{study}.9"
        data.SOPInstanceUID = f"{series}.{k + 1}"
        data.InstanceNumber = int(order[k]) + 1
        if change is not None:
            change(data, k)
        save(data, folder / name.format(n=int(order[k])), syntax)
    return hu, affine


def write_enhanced(
    path: Path,
    hu: np.ndarray | None = None,
    affine: np.ndarray | None = None,
    *,
    series: str = "1.2.3.5",
    seed: int = 0,
    syntax: str = ExplicitVRLittleEndian,
) -> tuple[np.ndarray, np.ndarray]:
    """Write an enhanced multi-frame CT, its frames in random order; see `write_series`."""
    hu = phantom_hu(seed=seed) if hu is None else hu
    affine = ct_affine() if affine is None else affine
    order = np.random.default_rng(seed).permutation(hu.shape[2])
    slices = [dataset(hu, affine, int(k)) for k in order]
    data = dataset(hu, affine, 0)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(data, name)
    for name in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        delattr(data, name)
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = EnhancedCTImageStorage, f"{series}.1", series
    data.FrameOfReferenceUID, data.NumberOfFrames, data.InstanceNumber = "1.2.3.9", len(slices), 1
    data.PixelData = b"".join(slice_.PixelData for slice_ in slices)
    organization = Dataset()
    organization.DimensionOrganizationUID = f"{series}.8"
    data.DimensionOrganizationSequence = DicomSequence([organization])
    shared = Dataset()
    shared.PlaneOrientationSequence = [_group(ImageOrientationPatient=slices[0].ImageOrientationPatient)]
    shared.PixelMeasuresSequence = [_group(PixelSpacing=slices[0].PixelSpacing, SliceThickness=5.0)]
    shared.CTImageFrameTypeSequence = [_group(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])]
    data.SharedFunctionalGroupsSequence = DicomSequence([shared])
    frames: list[Dataset] = []
    for n, (k, one) in enumerate(zip(order, slices, strict=True), 1):
        frame = Dataset()
        frame.PlanePositionSequence = [_group(ImagePositionPatient=one.ImagePositionPatient)]
        frame.FrameContentSequence = [_group(StackID="1", InStackPositionNumber=int(k) + 1, DimensionIndexValues=[n])]
        frame.PixelValueTransformationSequence = [_group(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")]
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    save(data, path, syntax)
    return hu, affine


def _group(**tags: Any) -> Dataset:
    group = Dataset()
    for name, value in tags.items():
        setattr(group, name, value)
    return group

"""nnU-Net v2 raw data: ``dataset.json``, ``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz``."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from hlfd.cases import Case, DataSource
from hlfd.errors import InputError, complain
from hlfd.io import nifti
from hlfd.labels import LabelValues, RegionNames, from_names
from hlfd.sources import _layouts

LAYOUT = "dataset.json with 'channel_names', imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz"


def recognises(root: Path) -> bool:
    """Whether ``dataset.json`` is as nnU-Net's."""
    return (root / "dataset.json").is_file() and "channel_names" in _layouts.read_description(root)


def build(
    root: Path,
    *,
    labels: LabelValues | None = None,
    regions: RegionNames | None = None,
    channel: Annotated[int, Field(ge=0)] | str = 0,
    window_hu: tuple[float, float] | None = None,
) -> DataSource:
    """nnU-Net v2 raw: a dataset's folder, labels, regions and channels as ``dataset.json`` says.

    Args:
        root: the folder with ``dataset.json``, for example ``nnUNet_raw/Dataset220_KiTS2023``.
        labels: name -> value, or values, in the label files, instead of those of ``dataset.json``. Names that share
            values are regions, as there.
        regions: name -> names of the labels it is made of; default: as ``labels`` says.
        channel: which of the images, ``CASE_0000`` for 0, or its name as in ``channel_names``.
        window_hu: mapped to [-1, 1]; None: -160..240.

    ``splits_final.json`` is honoured, in the folder or in ``nnUNet_preprocessed`` beside ``nnUNet_raw``. Cases of
    ``imagesTs`` with labels in ``labelsTs`` are the test patients, those without are cases without labels.
    """
    found, where = _layouts.read_description(root), root / "dataset.json"
    ending: Any = found.get("file_ending", ".nii.gz")
    if ending not in nifti.SUFFIXES:
        raise InputError(f"{where}: file_ending: expected {' or '.join(nifti.SUFFIXES)}, got {ending!r}")
    index = _layouts.channel_index(where, found.get("channel_names"), channel, window_hu)
    if "dataset" in found:
        train = _listed_cases(root, where, found["dataset"], index)
    else:
        train = _cases(root, "Tr", ending, index)
    test = _cases(root, "Ts", ending, index)
    for case in train:
        if case.label is None:
            complain(f"{case.image[0]}: has no label, expected {root / 'labelsTr' / (case.id + ending)}")
    if not train:
        raise InputError(f"{root}: expected imagesTr/CASE_{index:04}{ending} and labelsTr/CASE{ending}, found none")
    both = {case.id for case in train} & {case.id for case in test}
    if both:
        raise InputError(f"{root}: {min(both)} is both in imagesTr and in imagesTs")
    declared = from_names(labels or _labels(where, found.get("labels")), regions)
    return _layouts.nifti_source(
        "nnunet",
        train + test,
        declared,
        window_hu or _layouts.ABDOMEN_HU,
        splits=_splits(root),
        test=frozenset(case.patient for case in test if case.label),
    )


def _cases(root: Path, part: str, ending: str, channel: int) -> list[Case]:
    images, labels = root / f"images{part}", root / f"labels{part}"
    suffix, found = f"_{channel:04}{ending}", list[Case]()
    for path in _layouts.nifti_files(images):
        if path.name.endswith(suffix):
            name = path.name.removesuffix(suffix)
            label = labels / (name + ending)
            found.append(Case(name, name, (path,), (label,) if label.is_file() else None))
    names = {case.id for case in found}
    for path in _layouts.nifti_files(labels):
        if _layouts.stem(path) not in names:
            complain(f"{path}: has no image, expected {images / (_layouts.stem(path) + suffix)}")
    return found


def _listed_cases(root: Path, where: Path, listed: Any, channel: int) -> list[Case]:
    """Cases of the key ``dataset``: ``{CASE: {"images": [...], "label": ...}}``, paths from the folder."""
    cases: list[Case] = []
    try:
        for name, files in sorted(listed.items()):
            if Path(name).name != name:
                raise InputError(f"{where}: dataset: expected a name of a case without a path, got {name!r}")
            cases.append(Case(name, name, (root / files["images"][channel],), (root / files["label"],)))
    except (AttributeError, KeyError, IndexError, TypeError):
        raise InputError(f'{where}: dataset: expected {{CASE: {{"images": [...], "label": ...}}}}') from None
    missing = [(case, p) for case in cases for p in (*case.image, *(case.label or ())) if not p.is_file()]
    for _, path in missing:
        complain(f"{path}: no such file, {where.name} lists it")
    return [case for case in cases if all(case is not other for other, _ in missing)]


def _labels(where: Path, labels: Any) -> LabelValues:
    wrong = InputError(
        f'{where}: labels: expected {{"background": 0, NAME: VALUE, REGION: [VALUE, ...]}}, got {labels!r}'
    )
    if not isinstance(labels, dict):
        raise wrong
    values: LabelValues = {}
    for name, value in labels.items():
        listed = value if isinstance(value, list) else [value]
        if not listed or not all(isinstance(v, int) for v in listed):
            raise wrong
        if name == "ignore":
            raise InputError(
                f"{where}: the label 'ignore' (value {value}) marks what nobody has labelled, which training can't "
                "leave out here; say with source.labels what it counts as"
            )
        values[str(name)] = value if isinstance(value, int) else tuple(listed)
    return values


def _splits(root: Path) -> Path | None:
    folder = root.resolve()
    places = (folder, folder.parent.parent / "nnUNet_preprocessed" / folder.name)
    return next((place / "splits_final.json" for place in places if (place / "splits_final.json").is_file()), None)

"""Medical Segmentation Decathlon: ``dataset.json``, ``imagesTr``, ``labelsTr``, ``imagesTs``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from hlfd.cases import Case, DataSource
from hlfd.errors import InputError, complain
from hlfd.labels import LabelValues, RegionNames, from_names
from hlfd.sources import _layouts

LAYOUT = "dataset.json with 'modality', imagesTr/, labelsTr/"


def recognises(root: Path) -> bool:
    """Whether ``dataset.json`` is as the Decathlon's."""
    return (root / "dataset.json").is_file() and "modality" in _layouts.read_description(root)


def build(
    root: Path,
    *,
    labels: LabelValues | None = None,
    regions: RegionNames | None = None,
    channel: Annotated[int, Field(ge=0)] | str = 0,
    window_hu: tuple[float, float] | None = None,
) -> DataSource:
    """Medical Segmentation Decathlon: a task's folder, cases and labels as ``dataset.json`` lists them.

    Args:
        root: the folder with ``dataset.json``, for example ``Task03_Liver``.
        labels: name -> value, or values, in the label files, instead of those of ``dataset.json``.
        regions: name -> names of the labels it is made of; default: each alone, and where there are an organ and its
            tumour the organ contains it.
        channel: of images with several, its number from 0, or its name as in ``modality``.
        window_hu: mapped to [-1, 1]; None: -160..240.

    The images of ``test`` are cases without labels.
    """
    found, where = _layouts.read_description(root), root / "dataset.json"
    index = _layouts.channel_index(where, found.get("modality"), channel, window_hu)
    cases: dict[str, Case] = {}
    for key in ("training", "test"):
        for item in _listed(where, found, key):
            case = _case(root, where, item, labelled=key == "training")
            if case is not None and cases.setdefault(case.id, case) is not case:
                complain(f"{where}: lists {case.id} more than once")
    if not cases:
        raise InputError(f"{where}: expected cases under 'training', got none")
    declared = from_names(labels or _labels(where, found.get("labels")), regions)
    ordered = sorted(cases.values(), key=lambda case: _layouts.by_number(case.id))
    return _layouts.nifti_source("msd", ordered, declared, window_hu or _layouts.ABDOMEN_HU, channel=index)


def _listed(where: Path, found: Mapping[str, Any], key: str) -> list[Any]:
    listed: Any = found.get(key, [])
    if not isinstance(listed, list):
        raise InputError(f"{where}: {key}: expected a list, got {listed!r}")
    return listed


def _case(root: Path, where: Path, item: Any, *, labelled: bool) -> Case | None:
    item = {"image": item} if isinstance(item, str) else item
    if not isinstance(item, dict) or not all(
        isinstance(item.get(key), str) for key in ("image", "label")[: 1 + labelled]
    ):
        raise InputError(f"{where}: expected the paths of image and label for each case, got {item!r}")
    paths = [root / item[key] for key in ("image", "label")[: 1 + labelled]]
    missing = [path for path in paths if not path.is_file()]
    for path in missing:
        complain(f"{path}: no such file, {where.name} lists it")
    if missing:
        return None
    name = _layouts.stem(paths[0])
    return Case(name, name, (paths[0],), tuple(paths[1:]) or None)


def _labels(where: Path, labels: Any) -> LabelValues:
    """``{"0": "background", "1": "liver"}`` as name -> value."""
    try:
        values = {str(name): int(value) for value, name in labels.items()}
    except (AttributeError, ValueError, TypeError):
        raise InputError(f'{where}: labels: expected {{"0": "background", "1": NAME, ...}}, got {labels!r}') from None
    if len(values) < len(labels):
        raise InputError(f"{where}: labels: expected each name once, got {labels!r}")
    return {name: value for name, value in values.items() if value}

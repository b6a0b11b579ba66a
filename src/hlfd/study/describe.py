"""describe: what a file or folder is, in a few lines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hlfd import recipe as recipes
from hlfd.cost import multiply_adds
from hlfd.data.store import Store
from hlfd.distill.features import Tapped
from hlfd.errors import InputError
from hlfd.exporters._exported import side_path
from hlfd.io import nifti
from hlfd.loading import load
from hlfd.segmenter import Segmenter
from hlfd.teachers import open_pretrained
from hlfd.teachers._open import recognise


def describe(path: Path, options: Sequence[str] = ()) -> str:
    """A model, a run, a store, a NIfTI file or a recipe. Raises `InputError` for anything else.

    Args:
        options: ``key=value``, for a model from elsewhere: of its reader.
    """
    ours = any((path / name).is_file() for name in ("model/model.json", "model.json", "store.json"))
    if not ours and path.is_dir() and recognise(path):
        return _foreign(path, options)
    if options:
        raise InputError(f"{path}: only a model from elsewhere takes options, got {' '.join(options)}")
    model = path / "model" if (path / "model" / "model.json").is_file() else path
    if (model / "model.json").is_file():
        return _model(model)
    if (path / "store.json").is_file():
        return _store(path)
    if path.is_file() and side_path(path).is_file():
        return _exported(path)
    if nifti.suffix_of(path):
        return _volume(path)
    if path.suffix in (".yaml", ".yml"):
        return recipes.dump(recipes.read(path)).rstrip()
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    raise InputError(f"{path}: expected a model folder, a run, an exported file, a store, a NIfTI file or a recipe")


def read_options(options: Sequence[str]) -> dict[str, Any]:
    """``key=value`` as in a recipe, a key like ``taps.d5`` too. Raises `InputError` for anything else."""
    values: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise InputError(f"'{option}': expected key=value")
        recipes.set_key(values, key, recipes.parse_value(key, value))
    return values


def _foreign(folder: Path, options: Sequence[str]) -> str:
    model = open_pretrained(folder, **read_options(options))
    seen, grid = model.intensity, "any"
    if model.spacing_mm is not None:
        grid = f"{model.spacing_mm:g} mm in plane"
    elif model.size is not None:
        grid = f"any, whole slices resized to {model.size[0]} x {model.size[1]}"
    return "\n".join(
        [
            f"model       {model.description}, {model.tapped.dims}D",
            f"parameters  {sum(p.numel() for p in model.tapped.parameters()):,}",
            f"labels      {_labels(model.names)}",
            f"taps        {_taps(model.tapped)} (channels/stride)",
            f"window      {seen.low_hu:g} to {seen.high_hu:g} HU; {seen.center_hu:g} is 0, {seen.scale_hu:g} more is 1",
            f"pixel size  {grid}",
            "Research use only. Not a medical device.",
        ]
    )


def _labels(names: Sequence[str]) -> str:
    return ", ".join(f"{i} = {name}" for i, name in enumerate(names, 1))


def _taps(network: Tapped) -> str:
    return ", ".join(f"{role} {tap.channels}ch/{tap}" for role, tap in network.info().items())


def _model(folder: Path) -> str:
    model = Segmenter.load(folder)
    size = model.preprocess.shown((1, *(model.preprocess.plane or (256, 256))))
    return "\n".join(
        [
            f"model       {model.network_name} {json.dumps(dict(model.network_options))}, {model.network.dims}D",
            f"parameters  {model.parameters:,}",
            f"multiply-adds {multiply_adds(model.network, size) / 1e6:,.1f} M for "
            f"{'a slice' if len(size) == 2 else 'a patch'} of {' x '.join(map(str, size))}",
            f"labels      {_labels(model.labels.names)}",
            f"preprocess  {model.preprocess.model_dump(exclude_none=True)}",
            f"taps        {_taps(model.network)} (channels/stride)",
            f"learned from {len(model.learned_from)} patients",
            f"facts       {json.dumps(dict(model.facts))}",
            "Research use only. Not a medical device.",
        ]
    )


def _exported(path: Path) -> str:
    model, known = load(path), json.loads(side_path(path).read_text())
    verified = known.get("verified", {})
    size = " x ".join(map(str, model.network.size)) if model.network.size else f"multiples of {model.multiple}"
    return "\n".join(
        [
            f"exported    {model.network_name} {json.dumps(dict(model.network_options))}, {model.network.dims}D",
            f"precision   {known.get('precision')}",
            f"images      {size}",
            f"labels      {_labels(model.labels.names)}",
            f"preprocess  {model.preprocess.model_dump(exclude_none=True)}",
            f"verified    on {verified.get('said')}: disagreement with PyTorch {verified.get('disagreement', 1):.2g}",
            "Research use only. Not a medical device.",
        ]
    )


def _store(folder: Path) -> str:
    store = Store(folder)
    slices = sum(case.shape[0] for case in store.cases.values())
    labelled = [case for case in store.cases.values() if case.labelled]
    counts = np.sum([case.counts.sum(0) for case in labelled], axis=0)
    return "\n".join(
        [
            f"store       {len(store.cases)} cases of {len(store.patients)} patients, {slices} slices; "
            f"{len(store.cases) - len(labelled)} cases without labels",
            f"preprocess  {store.preprocess.model_dump(exclude_none=True)}",
            f"pixels      {', '.join(f'class {c}: {int(n):,}' for c, n in enumerate(counts))}",
            f"outside the crop: {sum(case.cropped_away for case in store.cases.values())} labelled pixels",
        ]
    )


def _volume(path: Path) -> str:
    volume = nifti.read_grid(path)
    spacing = " x ".join(f"{mm:.3f}" for mm in volume.spacing_mm)
    return f"volume      {' x '.join(map(str, volume.shape))} voxels, {spacing} mm, axes to {volume.axcodes}"

"""describe: what a file or folder is, in a few lines."""

import json
from pathlib import Path

import numpy as np

from hlfd import recipe as recipes
from hlfd.cost import multiply_adds
from hlfd.data.store import Store
from hlfd.errors import InputError
from hlfd.io import nifti
from hlfd.segmenter import Segmenter


def describe(path: Path) -> str:
    """A model, a run, a store, a NIfTI file or a recipe. Raises `InputError` for anything else."""
    if (path / "model" / "model.json").is_file():
        return _model(path / "model")
    if (path / "model.json").is_file():
        return _model(path)
    if (path / "store.json").is_file():
        return _store(path)
    if path.name.endswith(nifti.SUFFIXES):
        return _volume(path)
    if path.suffix in (".yaml", ".yml"):
        return recipes.dump(recipes.read(path)).rstrip()
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    raise InputError(f"{path}: expected a model folder, a run, a store, a NIfTI file or a recipe")


def _model(folder: Path) -> str:
    model = Segmenter.load(folder)
    taps = ", ".join(f"{role} {tap.channels}ch/{tap.stride}" for role, tap in model.network.info().items())
    plane = model.preprocess.crop or model.preprocess.size or (256, 256)
    labels = ", ".join(f"{i} = {name}" for i, name in enumerate(model.labels.names, 1))
    return "\n".join(
        [
            f"model       {model.network_name} {json.dumps(dict(model.network_options))}, {model.network.dims}D",
            f"parameters  {model.parameters:,}",
            f"multiply-adds {multiply_adds(model.network, plane) / 1e6:,.1f} M for a slice of {plane[0]} x {plane[1]}",
            f"labels      {labels}",
            f"preprocess  {model.preprocess.model_dump(exclude_none=True)}",
            f"taps        {taps} (channels/stride)",
            f"learned from {len(model.learned_from)} patients",
            f"facts       {json.dumps(dict(model.facts))}",
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

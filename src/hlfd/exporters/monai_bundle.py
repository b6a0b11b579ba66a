"""MONAI bundle, run by MONAI."""

import importlib
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from hlfd import plugins
from hlfd.errors import InputError
from hlfd.exporters._card import card, eval_metrics
from hlfd.exporters._graph import Graph, Precision, Run
from hlfd.io import nifti
from hlfd.io.files import write_json
from hlfd.segmenter import Segmenter
from hlfd.volume import AXCODES, Volume

SUFFIX = ""
PRECISIONS: tuple[Precision, ...] = ("fp32",)
CHANGELOG = {"1.0.0": "exported by hlfd"}
FILES = Path(__file__).parent / "_bundle"
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


def build(graph: Graph, path: Path, *, precision: Precision = "fp32") -> list[Path]:
    """MONAI bundle: a folder that MONAI, MONAI Label and 3D Slicer run, without hlfd; fp32.

    A network of MONAI's own is built by its name, any other comes as TorchScript; ``models/model.pt`` is the state dict
    of either. Resizing and cropping as the model learned it is ``scripts/slices.py`` in the bundle.

    Returns:
        the folder.
    """
    model = graph.model
    for folder in ("configs", "models", "docs"):
        (path / folder).mkdir(parents=True)
    shutil.copytree(FILES / "scripts", path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(FILES / "LICENSE", path)
    shutil.copy(FILES / "metadata_schema.json", path / "configs")
    network, weights = _network(graph, path)
    torch.save(weights, path / "models" / "model.pt")
    write_json(path / "configs" / "metadata.json", _metadata(graph))
    write_json(path / "configs" / "inference.json", _inference(model, network))
    template = jinja2.Template((FILES / "README.md.j2").read_text(), trim_blocks=True, undefined=jinja2.StrictUndefined)
    form = f"`{network['_target_']}` with its state dict" if weights and "f" not in network else "TorchScript"
    (path / "docs" / "README.md").write_text(template.render(card(model, graph.evaluation, form)) + "\n")
    return [path]


def require_usable(model: Segmenter) -> None:
    """Raise `InputError` for a network that a bundle can't hold."""
    preprocess = model.preprocess
    if model.network.dims != 2 or preprocess.patch:
        raise InputError("monai-bundle: expected a 2D network of whole slices; export to onnx or openvino instead")
    if preprocess.slice_mm or preprocess.crop == "foreground":
        raise InputError("monai-bundle: slice_mm and crop: foreground can't travel in a bundle; export to onnx instead")
    if model.postprocess:
        raise InputError("monai-bundle: the model's post-processing can't travel in a bundle; export to onnx instead")


def is_bundle(path: Path) -> bool:
    """Whether the folder holds a bundle that was written here and nothing else, so that another may replace it."""
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    if not files <= _written() | {"models/model.ts"}:
        return False
    try:
        said = json.loads((path / "configs" / "metadata.json").read_text())["changelog"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return said == CHANGELOG


def _written() -> set[str]:
    """Files of every bundle."""
    own = {"configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md"}
    scripts = {f"scripts/{file.name}" for file in (FILES / "scripts").iterdir() if file.is_file()}
    return own | scripts | {"LICENSE", "configs/metadata_schema.json"}


def open_file(path: Path, threads: int | None = None) -> Run:
    """The bundle's network, with its weights."""
    with _scripts(path):
        content = _parsed(path, path, path)
        content("initialize")
        network = content("network")
    return lambda images: _logits(network, images)


@torch.inference_mode()
def _logits(network: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    return network.eval()(torch.from_numpy(images)).numpy()


def segment(path: Path, image: Volume) -> Volume:
    """A volume's labels by MONAI's own way through the bundle: a NIfTI file in, a NIfTI file out."""
    with tempfile.TemporaryDirectory() as folder, _scripts(path):
        given, found = Path(folder) / "ct.nii.gz", Path(folder) / "out" / "ct_seg.nii.gz"
        nib.save(nib.Nifti1Image(image.voxels.astype(np.float32), image.affine), given)
        content = _parsed(path, given, found.parent)
        content("initialize")
        content("run")
        labels = nifti.read_label(found)
        image.require_same_grid(labels, "the bundle's labels")
        return image.like(labels.voxels.astype(np.uint8))


def _parsed(path: Path, given: Path, out: Path) -> Any:
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(path / "configs" / "inference.json"))
    parser.update({"bundle_root": str(path), "dataset_dir": str(given), "output_dir": str(out), "device": "cpu"})
    parser.parse()

    def content(key: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch.jit's end
            return parser.get_parsed_content(key)

    return content


@contextmanager
def _scripts(path: Path) -> Generator[None]:
    """The bundle's scripts importable as ``scripts``, and no other's."""

    def forget() -> dict[str, Any]:
        return {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == "scripts"}

    others, writes = forget(), sys.dont_write_bytecode
    sys.path.insert(0, str(path))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(path))
        sys.dont_write_bytecode = writes
        forget()
        sys.modules.update(others)


def _network(graph: Graph, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The network's definition and its weights."""
    model = graph.model
    plugin, _, name = model.network_name.partition(":")
    if plugin == "monai":
        with torch.inference_mode():
            plain = isinstance(model.network.network(graph.example), Tensor)
        definition = plugins.module("networks", "monai").definition
        built = definition(
            name,
            in_channels=model.network.in_channels,
            classes=model.labels.classes,
            dims=2,
            options=dict(model.network_options),
        )
        if plain and _is_plain(built):
            return built, model.network.network.state_dict()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(graph.network, graph.example, check_trace=False)
        torch.jit.save(traced, path / "models" / "model.ts")
    return {"_target_": "torch.jit.load", "f": "$@bundle_root + '/models/model.ts'"}, traced.state_dict()


def _is_plain(definition: Mapping[str, Any]) -> bool:
    """Whether a definition is the same after JSON."""
    try:
        json.dumps(definition)
    except TypeError:
        return False
    return True


def _inference(model: Segmenter, network: dict[str, Any]) -> dict[str, Any]:
    preprocess = model.preprocess
    low, high = preprocess.window_hu
    around = preprocess.neighbours
    image = {"keys": "image"}
    crop = list(preprocess.crop) if isinstance(preprocess.crop, tuple) else None
    return {
        "imports": ["$import scripts", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/output'",
        "device": "$'cuda:0' if torch.cuda.is_available() else 'cpu'",
        "dataset": "$scripts.files(@dataset_dir)",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", **image, "image_only": True, "reader": "NibabelReader"},
                {"_target_": "EnsureChannelFirstd", **image},
                {"_target_": "Orientationd", **image, "axcodes": AXCODES},
                {
                    "_target_": "scripts.ResizeSlicesd",
                    **image,
                    "size": list(preprocess.size) if preprocess.size else None,
                    "spacing_mm": preprocess.spacing_mm,
                },
                {
                    "_target_": "ScaleIntensityRanged",
                    **image,
                    "a_min": low,
                    "a_max": high,
                    "b_min": -1.0,
                    "b_max": 1.0,
                    "clip": True,
                },
                {"_target_": "scripts.CropSlicesd", **image, "multiple": list(model.multiple), "crop": crop},
                *([{"_target_": "scripts.Neighboursd", **image, "neighbours": around}] if around else []),
            ],
        },
        "inferer": {"_target_": "SliceInferer", "spatial_dim": 0, "roi_size": [-1, -1], "sw_batch_size": 4},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "scripts.RestoreSlicesd", "keys": "pred", "image": "image", "crop": crop},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": True,
                    "to_tensor": True,
                },
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "seg",
                    "output_ext": ".nii.gz",
                    "output_dtype": "uint8",
                    "resample": False,
                    "separate_folder": False,
                    "writer": "NibabelWriter",
                    "print_log": False,
                },
            ],
        },
        "initialize": [
            "$@network.load_state_dict(torch.load(@bundle_root + '/models/model.pt', map_location=@device, "
            "weights_only=True))"
        ],
        "run": ["$scripts.segment(@dataset, @preprocessing, @inferer, @network, @postprocessing, @device)"],
    }


@torch.inference_mode()
def _step(model: Segmenter) -> tuple[int, ...]:
    """Of which the size of an image is a multiple: the strides, or, where a norm can't do with one pixel, twice those.

    MONAI's check runs the network on an image of just that size.
    """
    network = model.network.network.eval()
    try:
        network(next(network.parameters()).new_zeros(1, model.network.in_channels, *model.multiple))
    except ValueError:
        return tuple(2 * multiple for multiple in model.multiple)
    return tuple(model.multiple)


def _metadata(graph: Graph) -> dict[str, Any]:
    model = graph.model
    names = {str(i): name for i, name in enumerate(("background", *model.labels.names))}
    shape = list(graph.size) if graph.size else [f"{step} * n" for step in _step(model)]
    tensor = {"type": "image", "modality": "CT", "spatial_shape": shape, "dtype": "float32", "is_patch_data": True}
    regions, channels = ", ".join(names.values()), model.network.in_channels
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": CHANGELOG,
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": version("nibabel")},
        "optional_packages_version": {"fire": ">=0.7"},
        "name": "CT segmentation: " + ", ".join(model.labels.names),
        "task": "Segmentation of CT, slice by slice: " + ", ".join(model.labels.names),
        "description": f"A 2D network of {model.parameters:,} parameters. Research use only. Not a medical device.",
        "authors": "whoever trained the model; exported by hlfd",
        "copyright": "see LICENSE",
        "data_source": "not on record, see docs/README.md",
        "data_type": "nibabel",
        "image_classes": "single channel data, CT in HU",
        "label_classes": f"single channel data, {regions}",
        "pred_classes": f"{model.labels.classes} channels of logits: {regions}",
        "eval_metrics": eval_metrics(graph.evaluation),
        "intended_use": "Research use only. Not a medical device.",
        "references": ["Rethinking Intermediate Layers Design in Knowledge Distillation, arXiv 2311.16700"],
        "network_data_format": {
            "inputs": {
                "image": {
                    **tensor,
                    "format": "hounsfield",
                    "num_channels": channels,
                    "value_range": [-1, 1],
                    "channel_def": {str(i): f"slice {i - channels // 2:+d}" for i in range(channels)},
                }
            },
            "outputs": {
                "pred": {
                    **tensor,
                    "format": "segmentation",
                    "num_channels": model.labels.classes,
                    "value_range": [],
                    "channel_def": names,
                }
            },
        },
    }

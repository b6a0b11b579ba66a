"""A MONAI bundle."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt

from hlfd.data.preprocess import Pixels, Window
from hlfd.distill.discovery import discover
from hlfd.distill.pretrained import Intensity, Pretrained
from hlfd.errors import InputError
from hlfd.plugins import Section
from hlfd.teachers import _bundle_config
from hlfd.teachers._bundle_config import Config
from hlfd.teachers._files import described, load_weights, read_config, read_weights
from hlfd.teachers._foreign import Foreign, checked_axcodes, deepest, in_plane, own_axcodes

LAYOUT = "configs/metadata.json, configs/inference.json or .yaml, models/model.pt"

SPATIAL = ("Resize", "Zoom", "Affine")
INTENSITY = (
    *("NormalizeIntensity", "ScaleIntensity", "ScaleIntensityRangePercentiles", "ThresholdIntensity", "Lambda"),
    *("HistogramNormalize", "AdjustContrast", "ShiftIntensity", "ClipIntensityPercentiles"),
)


class IntensityOption(Section):
    """How HU become the network's input: clipped to [low_hu, high_hu], then (hu - center_hu) / scale_hu."""

    low_hu: float
    high_hu: float
    center_hu: float
    scale_hu: PositiveFloat


class Image(BaseModel):
    """The input that metadata.json describes."""

    modality: str
    num_channels: PositiveInt
    value_range: list[Any] = []


class Prediction(BaseModel):
    """The output that metadata.json describes."""

    num_channels: PositiveInt
    channel_def: dict[str, str]


class Inputs(BaseModel):
    """``network_data_format.inputs``."""

    image: Image


class Outputs(BaseModel):
    """``network_data_format.outputs``."""

    pred: Prediction


class DataFormat(BaseModel):
    """``network_data_format``."""

    inputs: Inputs
    outputs: Outputs


class Metadata(BaseModel):
    """What is needed of metadata.json."""

    task: str = ""
    version: str = ""
    network_data_format: DataFormat


def recognises(folder: Path) -> bool:
    """Whether the folder looks like a MONAI bundle."""
    return (folder / "configs" / "metadata.json").is_file()


def build(
    folder: Path,
    /,
    *,
    network: dict[str, Any] | None = None,
    weights: str | None = None,
    window_hu: Window | None = None,
    intensity: IntensityOption | None = None,
    spacing_mm: Annotated[float, Field(gt=0)] | None = None,
    size: tuple[Pixels, Pixels] | None = None,
    taps: dict[str, str | None] | None = None,
    axcodes: str | None = None,
) -> Pretrained:
    """A bundle of MONAI's model zoo or made like one, for CT, with classes that exclude each other.

    Its configuration is read as data: where it holds an expression (``$...``), an option must say the value. The
    distance of slices stays the student's.

    Args:
        folder: with ``configs/metadata.json``, ``configs/inference.json`` (or .yaml, or train) and ``models``.
        network: the network with plain values, ``{_target_: SegResNet, ...}``; None: the bundle's ``network_def``.
        weights: the file in ``models``; None: ``model.pt`` or ``model.safetensors``.
        window_hu: the HU mapped to the ends of the metadata's ``value_range``, with clipping.
        intensity: low_hu, high_hu, center_hu, scale_hu; None, like ``window_hu``: the bundle's ScaleIntensityRanged.
        spacing_mm: the in-plane pixel size it was trained at; None: the bundle's Spacingd, if it has one.
        size: rows and columns that whole slices were resized to, for a bundle that does so.
        taps: role -> module, over those proposed from a dry run; null takes one away.
        axcodes: where the axes of its images point, as in Orientationd; None: the bundle's Orientationd, in 3D.

    Raises:
        InputError: a file is missing or damaged or wants to run code, a network that isn't MONAI's, another modality
            than CT, several channels, a sigmoid, or something the bundle doesn't say in plain values and no option
            does.
    """
    metadata_path = folder / "configs" / "metadata.json"
    metadata = described(read_config(metadata_path), Metadata, str(metadata_path))
    names = _class_names(metadata, metadata_path)
    config = _bundle_config.read(folder)
    _check_softmax(config)
    seen = _intensity(config, metadata, metadata_path, window_hu, intensity)
    built, kind, dims = _bundle_config.build_network(config, network)
    axcodes = checked_axcodes(axcodes, dims) if axcodes else _axcodes(config, dims)
    if spacing_mm is not None and size is not None:
        raise InputError("spacing_mm and size exclude each other")
    if spacing_mm is None and size is None:
        spacing_mm = _spacing(config, axcodes)
    weights_path = _weights(folder, weights)
    saved = read_weights(weights_path)
    for key in ("model", "state_dict", "network"):
        if isinstance(saved.get(key), dict):
            saved = saved[key]
            break
    load_weights(built, saved, weights_path)
    options: dict[str, Any] = {"classes": len(names) + 1, "in_channels": 1, "dims": dims, "axcodes": axcodes}
    try:
        proposed = discover(built, in_channels=1, dims=dims).taps
        tapped = Foreign(built, proposed, **options, proposed=frozenset(proposed))
        tapped.multiples = deepest(tapped)
        if taps:
            tapped = tapped.with_taps(taps)
            tapped.info()
    except InputError as error:
        raise InputError(f"{config.path}: {kind}: {error}") from None
    tapped.eval()
    task = metadata.task or folder.resolve().name
    return Pretrained(tapped, seen, names, f"MONAI {kind}, {task} {metadata.version}", spacing_mm=spacing_mm, size=size)


def _class_names(metadata: Metadata, path: Path) -> tuple[str, ...]:
    image, pred = metadata.network_data_format.inputs.image, metadata.network_data_format.outputs.pred
    if image.modality.casefold() != "ct":
        raise InputError(f"{path}: network_data_format.inputs.image.modality: expected CT, got {image.modality}")
    if image.num_channels != 1:
        got = image.num_channels
        raise InputError(f"{path}: network_data_format.inputs.image.num_channels: expected 1, got {got}")
    where, names = f"{path}: network_data_format.outputs.pred.channel_def", pred.channel_def
    if sorted(names) != sorted(str(i) for i in range(pred.num_channels)) or len(names) < 2:
        raise InputError(f"{where}: expected a name for each of {pred.num_channels} channels from 0, got {names}")
    if names["0"].casefold() != "background":
        raise InputError(f"{where}: expected channel 0 to be background, got '{names['0']}'")
    found = tuple(names[str(i)] for i in range(1, len(names)))
    if len(set(found)) != len(found):
        raise InputError(f"{where}: expected different names, got {', '.join(found)}")
    return found


def _check_softmax(config: Config) -> None:
    for key, found in config.transforms("Activations", of="pred"):
        if found.get("sigmoid") in (True, "true", "True"):
            raise InputError(f"{config.path}: {key}.sigmoid: classes that overlap aren't supported")


def _intensity(
    config: Config, metadata: Metadata, path: Path, window_hu: Window | None, stated: IntensityOption | None
) -> Intensity:
    if window_hu is not None and stated is not None:
        raise InputError("window_hu and intensity exclude each other")
    if stated is not None:
        if stated.low_hu >= stated.high_hu:
            raise InputError(f"intensity: expected low_hu below high_hu, got {stated.low_hu:g} and {stated.high_hu:g}")
        return Intensity(**stated.model_dump())
    if window_hu is not None:
        ends = metadata.network_data_format.inputs.image.value_range
        if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or ends[0] >= ends[1]:
            key = "network_data_format.inputs.image.value_range"
            raise InputError(f"{path}: {key}: window_hu needs two numbers there, got {ends}: use intensity instead")
        return _linear(*window_hu, *ends)
    way_out = "give the option window_hu: [LOW, HIGH] or intensity: {low_hu, high_hu, center_hu, scale_hu}"
    others = config.transforms(*INTENSITY)
    if others:
        key, found = others[0]
        raise InputError(f"{config.path}: {key}: {found['_target_']} is no window of HU: {way_out}")
    names = ("a_min", "a_max", "b_min", "b_max", "clip")
    windows: list[tuple[Any, ...]] = []
    for key, found in config.transforms("ScaleIntensityRange"):
        values = config.plain({name: found.get(name) for name in names}, key, way_out)
        if not all(isinstance(values[name], int | float) for name in ("a_min", "a_max")) or not values["clip"]:
            raise InputError(f"{config.path}: {key}: expected a_min, a_max and clip, got {values}: {way_out}")
        if values["a_min"] >= values["a_max"]:
            raise InputError(f"{config.path}: {key}: expected a_min below a_max, got {values}")
        low, high = (0, 1) if None in (values["b_min"], values["b_max"]) else (values["b_min"], values["b_max"])
        windows.append((values["a_min"], values["a_max"], low, high))
    if len(set(windows)) != 1:
        problem = f"several windows, {sorted(set(windows))}" if windows else "no ScaleIntensityRanged"
        raise InputError(f"{config.path}: {problem}: how HU become the network's input isn't known: {way_out}")
    return _linear(*windows[0])


def _linear(low_hu: float, high_hu: float, low: float, high: float) -> Intensity:
    scale = (high_hu - low_hu) / (high - low)
    return Intensity(low_hu, high_hu, center_hu=low_hu - low * scale, scale_hu=scale)


def _axcodes(config: Config, dims: int) -> str:
    way_out = (
        f"say where the axes of the network's images point, axcodes: {own_axcodes(dims)} for "
        f"{'slices to superior, ' if dims == 3 else ''}rows to posterior, columns to the patient's left"
    )
    found = config.argument("Orientation", "axcodes", way_out) if dims == 3 else None
    if found is None:
        why = "a bundle doesn't say how its slices lie" if dims == 2 else "no Orientationd"
        raise InputError(f"{config.path}: {why}: {way_out}")
    try:
        return checked_axcodes(str(found[1]), dims)
    except InputError as error:
        raise InputError(f"{config.path}: {found[0]}: {error}") from None


def _spacing(config: Config, axcodes: str) -> float | None:
    resizing = config.transforms(*SPATIAL)
    if resizing:
        key, found = resizing[0]
        raise InputError(f"{config.path}: {key}: {found['_target_']} changes the grid: give spacing_mm or size")
    found = config.argument("Spacing", "pixdim", "give the option spacing_mm")
    if found is None:
        return None
    key, pixdim = found
    along = [float(p) for p in pixdim] if isinstance(pixdim, list) and _numbers(pixdim) else []
    if isinstance(pixdim, int | float):
        along = [float(pixdim)] * len(axcodes)
    if len(along) != 3 or len(axcodes) != 3:
        raise InputError(f"{config.path}: {key}: expected one for each of 3 axes, got {pixdim}: give spacing_mm")
    if any(along[axcodes.index(code)] <= 0 for code in axcodes if code not in "SI"):
        return None  # MONAI keeps the spacing of such an axis
    return in_plane(along, axcodes, f"{config.path}: {key}")


def _numbers(values: list[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _weights(folder: Path, weights: str | None) -> Path:
    models = folder / "models"
    candidates = [weights] if weights else ["model.pt", "model.safetensors"]
    found = next((models / name for name in candidates if (models / name).is_file()), None)
    if found is not None and found.suffix != ".ts" and found.parent == models:
        return found
    there = sorted(p.name for p in models.glob("*")) if models.is_dir() else []
    raise InputError(
        f"{models}: expected {' or '.join(candidates)}, a state dict (TorchScript holds code and isn't read), found "
        f"{', '.join(there) or 'nothing'}"
    )

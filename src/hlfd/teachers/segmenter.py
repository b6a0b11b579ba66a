"""Our own model folder."""

from pathlib import Path

from hlfd.distill.pretrained import Intensity, Pretrained
from hlfd.segmenter import Segmenter

LAYOUT = "model.json, model.safetensors"


def recognises(folder: Path) -> bool:
    """Whether the folder looks like one of ours."""
    return (folder / "model.json").is_file()


def build(folder: Path, /) -> Pretrained:
    """A model folder of this library: `Segmenter.save` wrote it."""
    model = Segmenter.load(folder)
    low, high = model.preprocess.window_hu
    return Pretrained(
        model.network,
        Intensity(low, high, center_hu=(low + high) / 2, scale_hu=(high - low) / 2),
        model.labels.names,
        f"hlfd {model.network_name}, {model.network.dims}D, {model.parameters:,} parameters",
        spacing_mm=model.preprocess.spacing_mm,
        size=model.preprocess.size,
        crop=model.preprocess.part,
        learned_from=model.learned_from,
        slice_mm=model.preprocess.slice_mm,
    )

"""A result folder of nnU-Net v2."""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt
from torch import nn

from hlfd.distill.features import DECODER, ENCODER
from hlfd.distill.pretrained import Intensity, Pretrained
from hlfd.errors import InputError
from hlfd.teachers._files import load_weights, read_weights
from hlfd.teachers._foreign import Foreign, axis_of, checked_axcodes, in_plane, own_axcodes
from hlfd.teachers._plans import Configuration, Plans, build_network, class_names, configuration, read_plans

LAYOUT = "plans.json, dataset.json, fold_0/checkpoint_final.pth"


def recognises(folder: Path) -> bool:
    """Whether the folder looks like ``TRAINER__PLANS__CONFIGURATION`` of nnU-Net v2, whole or not."""
    return (folder / "plans.json").is_file() or any(folder.glob("fold_*/checkpoint_*.pth"))


def build(
    folder: Path,
    /,
    *,
    fold: NonNegativeInt | Literal["all"] = 0,
    checkpoint: Literal["final", "best"] = "final",
    taps: dict[str, str | None] | None = None,
    axcodes: str | None = None,
) -> Pretrained:
    """A network that nnU-Net v2 trained (Isensee 2021, 10.1038/s41592-020-01008-z), one fold of it.

    Of CT alone, with classes that exclude each other, no cascade. It sees the image clipped and normalised as its
    plans say, at their pixel size in plane; the distance of slices stays the student's.

    Args:
        folder: ``DATASET/TRAINER__PLANS__CONFIGURATION``, with plans.json, dataset.json and ``fold_X``.
        fold: which of the folds.
        checkpoint: ``final`` or ``best``: the file ``checkpoint_final.pth`` or ``checkpoint_best.pth``.
        taps: role -> module, null takes one away; over the proposed: e1..e5 evenly over the encoder's stages, the
            bottleneck last, and d5..d2 over the decoder's, full resolution last.
        axcodes: where the axes of its images point, "SPL" for a stack of axial slices in radiological view, "PL" for
            one of them; None: what the plans and the mirroring in training say, where they do.

    Raises:
        InputError: a file is missing or damaged, wants to run code or doesn't fit the others; an image that isn't CT,
            regions, a cascade, pixels that aren't square, a plane that isn't axial, axes that can't be known.
    """
    for name in ("plans.json", "dataset.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: {name} is missing, which nnU-Net writes there when it trains")
    plans_path, weights_path = folder / "plans.json", _checkpoint(folder, fold, checkpoint)
    plans, names = read_plans(plans_path), class_names(folder / "dataset.json")
    saved = read_weights(weights_path)
    arguments: Any = saved.get("init_args")  # nnU-Net itself asks the checkpoint, not the folder's name
    known: Any = arguments.get("configuration") if isinstance(arguments, dict) else None
    chosen = known if isinstance(known, str) else folder.resolve().name.split("__")[-1]
    configured = configuration(plans, chosen, plans_path)
    where = f"{plans_path}: configurations.{chosen}"
    if configured.previous_stage is not None:
        raise InputError(f"{where}: a cascade isn't supported, it needs the result of '{configured.previous_stage}'")
    dims = len(configured.spacing)
    axcodes = checked_axcodes(axcodes, dims) if axcodes else _axcodes(plans, dims, saved, plans_path, where)
    network = build_network(configured.architecture, len(names) + 1, f"{where}.architecture")
    _check_dims(configured, network, dims, where)
    load_weights(network, saved.get("network_weights"), weights_path)
    tapped = Foreign(
        network,
        _taps(network),
        classes=len(names) + 1,
        in_channels=1,
        dims=dims,
        axcodes=axcodes,
        multiples=_multiples(network, axcodes),
    )
    if taps:
        tapped = tapped.with_taps(taps)
        tapped.info()
    tapped.eval()
    trainer, kind = saved.get("trainer_name", "?"), type(network).__name__
    return Pretrained(
        tapped,
        _intensity(plans, configured, plans_path, where),
        names,
        f"nnU-Net {kind}, {chosen}, of {plans.dataset_name}, fold {fold} ({checkpoint}), trained by {trainer}",
        spacing_mm=in_plane(list(configured.spacing), axcodes, f"{where}.spacing"),
    )


def _checkpoint(folder: Path, fold: int | str, checkpoint: str) -> Path:
    path = folder / f"fold_{fold}" / f"checkpoint_{checkpoint}.pth"
    if not path.parent.is_dir():
        there = sorted(p.name.removeprefix("fold_") for p in folder.glob("fold_*") if p.is_dir())
        raise InputError(f"{folder}: there is no fold {fold} (folds: {', '.join(there) or 'none'})")
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("checkpoint_*.pth"))
        raise InputError(f"{path}: no such file (checkpoints: {', '.join(there) or 'none'})")
    return path


def _intensity(plans: Plans, configured: Configuration, path: Path, where: str) -> Intensity:
    """CTNormalization: clip to the foreground's 0.5 and 99.5 percentile, subtract its mean, divide by its deviation."""
    if configured.normalization_schemes != ["CTNormalization"]:
        got = configured.normalization_schemes
        raise InputError(f"{where}.normalization_schemes: expected ['CTNormalization'], got {got}")
    if "0" not in plans.intensities:
        raise InputError(f"{path}: foreground_intensity_properties_per_channel: there is no channel '0'")
    seen = plans.intensities["0"]
    return Intensity(seen.percentile_00_5, seen.percentile_99_5, seen.mean, max(seen.std, 1e-8))


def _axcodes(plans: Plans, dims: int, saved: dict[str, Any], path: Path, where: str) -> str:
    """Where the axes of the network's images point: what its reader made of them, moved by ``transpose_forward``.

    A reader that keeps the file's own directions leaves open which end of an axis is first. To a network that was
    trained with mirroring along all axes it makes no difference.
    """
    order = plans.transpose_forward
    if sorted(order) != [0, 1, 2]:
        raise InputError(f"{path}: transpose_forward: expected an order of the axes 0, 1, 2, got {order}")
    if plans.image_reader_writer == "NibabelIOWithReorient":  # RAS in the file; nnU-Net's arrays start with the last
        codes = "".join("SAR"[axis] for axis in order)
        if dims == 2 and codes[0] != "S":
            raise InputError(f"{where}: its slices aren't axial (transpose_forward {order})")
        return codes[-dims:]
    mirrored: Any = saved.get("inference_allowed_mirroring_axes")
    if order == [0, 1, 2] and isinstance(mirrored, tuple | list) and set(mirrored) >= set(range(dims)):
        return own_axcodes(dims)
    along = f"mirroring along the axes {list(mirrored)} only" if mirrored else "no mirroring"
    why = f"transposes axes by {order}" if order != [0, 1, 2] else f"was trained with {along}"
    raise InputError(
        f"{where}: it {why}, and its reader '{plans.image_reader_writer}' takes images as the files have them: say "
        f"where the axes of the network's images point, axcodes: {own_axcodes(dims)} for "
        f"{'slices to superior, ' if dims == 3 else ''}rows to posterior, columns to the patient's left"
    )


def _check_dims(configured: Configuration, network: Any, dims: int, where: str) -> None:
    built = 3 if network.encoder.conv_op is nn.Conv3d else 2
    if built != dims:
        raise InputError(f"{where}: a spacing of {dims} axes, {configured.spacing}, and a network of {built}")


def _taps(network: Any) -> dict[str, str]:
    """Stages by role; of more than there are roles, evenly spread ones, the first and the last among them."""
    return {
        **_spread(ENCODER, "encoder.stages", len(network.encoder.stages)),
        **_spread(DECODER, "decoder.stages", len(network.decoder.stages)),
    }


def _spread(roles: tuple[str, ...], path: str, stages: int) -> dict[str, str]:
    if stages < len(roles):
        roles = (*roles[: stages - 1], roles[-1])
    chosen = [round(i * (stages - 1) / max(len(roles) - 1, 1)) for i in range(len(roles))]
    return {role: f"{path}.{stage}" for role, stage in zip(roles, chosen, strict=True)}


def _multiples(network: Any, axcodes: str) -> tuple[int, ...]:
    """The product of the strides along each of our axes."""
    strides = [math.prod(along) for along in zip(*network.encoder.strides, strict=True)]
    return tuple(strides[axis_of(code, axcodes)] for code in own_axcodes(len(axcodes)))

"""What a bundle's model card says, from what is on record; what isn't is said to be unknown."""

from collections.abc import Mapping
from typing import Any

from hlfd.data.preprocess import Preprocess
from hlfd.segmenter import Segmenter
from hlfd.volume import AXCODES

METRICS = ("dice", "hd95_mm", "assd_mm", "surface_dice")


def card(model: Segmenter, evaluation: Mapping[str, Any] | None, form: str) -> dict[str, Any]:
    """The fields of the card's template.

    Args:
        evaluation: content of an ``evaluation.json``: its means alone are used, no case or patient.
        form: of the network in the bundle.
    """
    facts, preprocess = model.facts, model.preprocess
    names = ", ".join(model.labels.names)
    method: Any = facts.get("method")
    return {
        "title": f"CT segmentation: {names}",
        "description": f"Segments {names} in CT, slice by slice, with a small network for a processor.",
        "network": model.network_name,
        "dims": model.network.dims,
        "parameters": model.parameters,
        "classes": ", ".join(f"{i} {name}" for i, name in enumerate(("background", *model.labels.names))),
        "method": _method(method),
        "teachers": ", ".join(map(str, facts.get("teachers") or ())) or "none on record",
        "form": form,
        "patients": dict(facts.get("patients") or {}),
        "unlabelled": facts.get("unlabelled_patients") or 0,
        "figures": _figures(evaluation),
        "protocol": (evaluation or {}).get("protocol"),
        "evaluated": max((row["n"] for row in _figures(evaluation)), default=0),
        "validation_dice": facts.get("best_validation_dice"),
        "axcodes": AXCODES,
        "resampling": _resampling(preprocess),
        "window": [f"{hu:g}" for hu in preprocess.window_hu],
        "crop": f"the central {preprocess.part[0]} x {preprocess.part[1]} pixels" if preprocess.part else "no crop",
    }


def eval_metrics(evaluation: Mapping[str, Any] | None) -> dict[str, float]:
    """Mean Dice of each region, for metadata.json; empty without an evaluation."""
    labels: Mapping[str, Any] = (evaluation or {}).get("labels") or {}
    means = {region: metrics.get("dice", {}).get("mean") for region, metrics in labels.items()}
    return {f"mean_dice_{region}": float(mean) for region, mean in means.items() if mean is not None}


def _figures(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    labels: Mapping[str, Any] = (evaluation or {}).get("labels") or {}
    for region, metrics in labels.items():
        for metric in METRICS:
            summary = metrics.get(metric)
            if summary and summary.get("mean") is not None:
                low, high = summary.get("low"), summary.get("high")
                interval = f"{low:.3f} to {high:.3f}" if low is not None and high is not None else "-"
                rows.append(
                    {
                        "region": region,
                        "metric": metric,
                        "mean": f"{summary['mean']:.3f}",
                        "interval": interval,
                        "n": summary.get("patients") or 0,
                    }
                )
    return rows


def _method(method: Any) -> str:
    if isinstance(method, Mapping):
        return str(method.get("name", "not on record"))
    return str(method) if method else "none, or not on record"


def _resampling(preprocess: Preprocess) -> str:
    if preprocess.size:
        return f"slices resized to {preprocess.size[0]} x {preprocess.size[1]} pixels"
    if preprocess.spacing_mm:
        return f"slices resampled to {preprocess.spacing_mm:g} mm"
    return "slices at their own resolution"

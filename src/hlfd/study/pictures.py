"""What a report shows, gathered from the run folders."""

import os
import platform
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from hlfd.data.prepare import case_named
from hlfd.data.preprocess import AXCODES
from hlfd.distill.losses import importance_map
from hlfd.io import nifti
from hlfd.report.arrows import Arrow
from hlfd.report.model import ImportancePicture, PatientPicture, ReportData
from hlfd.segmenter import Segmenter
from hlfd.study.collect import ModelRuns, over_seeds
from hlfd.study.steps import Workspace
from hlfd.training.logs import read_curves
from hlfd.volume import Volume


ROLES = ("e1", "e2", "e3", "e4", "e5")


def report_data(workspace: Workspace, results: dict[str, Any], runs: Sequence[ModelRuns]) -> ReportData:
    """Curves of the first fold; pictures of the worst, median and best patient by the last model's last region."""
    labels = workspace.source.labels
    region, judge = list(labels.regions)[-1], runs[-1]
    judged = over_seeds(judge)
    ranked = sorted(range(len(judged)), key=lambda i: judged[i].regions[region].dice)
    chosen: list[tuple[Literal["worst", "median", "best"], int]] = [("worst", ranked[0])]
    if len(ranked) > 2:
        chosen.append(("median", ranked[len(ranked) // 2]))
    if len(ranked) > 1:
        chosen.append(("best", ranked[-1]))
    first = workspace.recipe.folds[0]
    pictures = [_patient(workspace, runs, rank, index, region) for rank, index in chosen]
    middle = chosen[len(chosen) // 2][1]
    return ReportData(
        title=f"Comparison: {workspace.recipe.name}",
        intro=_intro(workspace, results),
        results=results,
        curves={run.name: read_curves(run.run_of(first).folder / "metrics.csv") for run in runs},
        patients=pictures,
        importance=[_importance(workspace, runs, middle, region)],
        facts=_facts(workspace, results),
        regions=labels.regions,
        terms={run.name: _terms(run, first) for run in runs},
        ranking=f"{region} Dice of {judge.name}",
    )


def _terms(run: ModelRuns, fold: int) -> dict[str, Arrow]:
    facts = Segmenter.load(run.run_of(fold).model).facts
    return {name: Arrow(**term) for name, term in (facts.get("terms") or {}).items()}


def _fold_of(run: ModelRuns, workspace: Workspace, patient: str) -> int:
    return next(one.fold for one in run.runs if patient in workspace.split(one.fold).test)


def _key_slice(reference: np.ndarray, region: np.ndarray) -> int:
    """The slice with most of the region, or where there is none, most of any label, or the middle one."""
    for mask in (region, reference > 0):
        if mask.any():
            return int(mask.sum((1, 2)).argmax())
    return len(reference) // 2


def _patient(
    workspace: Workspace,
    runs: Sequence[ModelRuns],
    rank: Literal["worst", "median", "best"],
    index: int,
    region: str,
) -> PatientPicture:
    result = over_seeds(runs[-1])[index]
    case = case_named(workspace.source, result.case)
    image = workspace.source.read_image(case).oriented(AXCODES)
    reference = workspace.source.read_label(case).oriented(AXCODES).voxels
    k = _key_slice(reference, workspace.source.labels.region(reference, region))
    predictions = {}
    for run in runs:
        folder = run.run_of(_fold_of(run, workspace, result.patient)).folder
        volume: Volume = nifti.read_label(folder / "predictions" / f"{case.id}.nii.gz")
        predictions[run.name] = volume.oriented(AXCODES).voxels[k]
    return PatientPicture(
        patient=result.patient,
        rank=rank,
        image=image.voxels[k],
        window_hu=workspace.store.preprocess.window_hu,
        spacing_mm=image.spacing_mm[1:],
        reference=reference[k],
        predictions=predictions,
        scores={run.name: {name: o.dice for name, o in over_seeds(run)[index].regions.items()} for run in runs},
    )


@torch.inference_mode()
def _importance(workspace: Workspace, runs: Sequence[ModelRuns], index: int, region: str) -> ImportancePicture:
    result = over_seeds(runs[-1])[index]
    stored = workspace.store.cases[result.case]
    image, target = workspace.store.slices(result.case)
    reference = np.asarray(target[:])
    k = _key_slice(reference, workspace.source.labels.region(reference, region))
    pixels = torch.from_numpy(np.asarray(image[k])).float()[None, None]
    maps: dict[str, dict[str, np.ndarray]] = {}
    for run in runs:
        model = Segmenter.load(run.run_of(_fold_of(run, workspace, result.patient)).model)
        features = model.network(pixels)
        maps[run.name] = {
            role: importance_map(features[role]).reshape(features[role].shape[2:]).numpy()
            for role in ROLES
            if role in features
        }
    assert stored.shape[1:] == pixels.shape[2:]
    return ImportancePicture(result.patient, pixels[0, 0].numpy(), reference[k], maps, window=(-1.0, 1.0))


def _intro(workspace: Workspace, results: dict[str, Any]) -> str:
    recipe = workspace.recipe
    methods = ", ".join(m.name for m in recipe.methods)
    paired = [
        f"{row['name']} minus {row['minus']}, patient by patient: {region} Dice {d['mean']:+.3f}"
        + (f" [{d['low']:+.3f}, {d['high']:+.3f}]" if d["low"] is not None else "")
        for row in results["differences"]
        for region, d in row["dice"].items()
    ]
    first = (
        f"One teacher ({recipe.teacher.name}) and one student ({recipe.student.name}), the student trained with: "
        f"{methods}. Every model is judged on whole test patients that neither it nor its teacher has seen, on the "
        "grid of the original images."
    )
    return "\n\n".join([first, "; ".join(paired) + " (mean, 95 % interval)."] if paired else [first])


def _facts(workspace: Workspace, results: dict[str, Any]) -> dict[str, str]:
    recipe = workspace.recipe
    first = workspace.split(recipe.folds[0])
    folds = f" in each of {len(recipe.folds)} folds" if len(recipe.folds) > 1 else ""
    preprocess = workspace.store.preprocess
    return {
        "Data": f"source {recipe.source.name}, {len(workspace.source.cases)} cases",
        "Patients": f"{len(first.train)} train, {len(first.validation)} validation, {len(first.test)} test{folds}",
        "Images": ", ".join(f"{k} {v}" for k, v in preprocess.model_dump().items() if v is not None),
        "Seed": f"{recipe.seed} (split {recipe.split.seed if recipe.split else '-'})",
        "Model choice": "best validation Dice; test patients are used here only to evaluate",
        "Time per slice": f"median forward pass, batch 1, float32, {torch.get_num_threads()} threads",
        "Machine": f"{platform.machine()}, {os.cpu_count()} cores, {'GPU' if torch.cuda.is_available() else 'no GPU'}",
        "Total time": f"{results['seconds'] / 60:.1f} min",
        "Versions": ", ".join(f"{k} {v}" for k, v in results["versions"].items()),
    }

"""The words of a study's report: what was compared, and the facts that belong to its figures."""

import hashlib
from collections.abc import Sequence
from typing import Any

from hlfd.study.steps import Workspace


def intro_of(workspace: Workspace, results: dict[str, Any]) -> str:
    """What was compared, in a paragraph; what is missing, in another."""
    recipe = workspace.recipe
    students = list(recipe.study.students) if recipe.study else []
    methods = ", ".join(dict.fromkeys(model["method"] for model in results["models"] if model.get("alone")))
    who = f"students {', '.join(students)}" if students else f"one student ({recipe.student.name})"
    seeds = f", each with {len(recipe.study.seeds)} seeds" if recipe.study and len(recipe.study.seeds) > 1 else ""
    teacher = "a given teacher" if recipe.teacher_models else f"one teacher ({recipe.teacher.name})"
    first = (
        f"{teacher[0].upper()}{teacher[1:]} and {who}, trained alone and with: {methods or 'no other method'}{seeds}; "
        "the same epochs, batches and augmentation for all. Every model is judged on whole test patients that neither "
        "it nor its teacher has seen, on the grid of the original images; models and weights were chosen on validation "
        "patients."
    )
    missing = results.get("missing")
    return f"{first}\n\nNot finished: {', '.join(missing)}." if missing else first


def facts_of(workspace: Workspace, results: dict[str, Any]) -> dict[str, str]:
    """What a reader needs to repeat the study and to read its costs: name -> what is so."""
    recipe = workspace.recipe
    first = workspace.split(recipe.folds[0])
    folds = f" in each of {len(recipe.folds)} folds" if len(recipe.folds) > 1 else ""
    preprocess = workspace.store.preprocess
    splits = recipe.folder / "splits.json"
    search = recipe.study.search if recipe.study else None
    seeds = recipe.study.seeds if recipe.study else [recipe.seed]
    split = recipe.split.seed if recipe.split else "-"
    machine: dict[str, Any] = results.get("machine") or {}
    facts = {
        "Data": f"source {recipe.source.name}, {len(workspace.source.cases)} cases",
        "Patients": f"{len(first.train)} train, {len(first.validation)} validation, {len(first.test)} test{folds}",
        "Split": f"seed {split}, splits.json sha256 {_sha256(splits.read_bytes())}",
        "Images": ", ".join(f"{k} {v}" for k, v in preprocess.model_dump().items() if v is not None),
        "Seeds": f"teacher {recipe.seed}; students {', '.join(map(str, seeds))}",
        "Budget": f"student {_budget(recipe.student_training)}; teacher {_budget(recipe.teacher_training)}",
        "Model choice": "best validation Dice; test patients are used here only to evaluate",
        "Time per slice": f"median forward pass, batch 1, float32, {machine.get('threads', '?')} threads",
        "Memory": "growth of a process at its highest: weights and one slice, batch 1, float32, one thread",
        "Machine": ", ".join(str(machine.get(key) or f"no {key}") for key in ("processor", "gpu"))
        + f", {machine.get('cores', '?')} cores",
        "Total time": f"{results['seconds'] / 60:.1f} min",
        "Versions": ", ".join(f"{k} {v}" for k, v in results["versions"].items()),
        "Models (sha256)": "; ".join(f"{m['name']} {_each(m['sha256'])}" for m in results["models"] if m.get("sha256")),
    }
    if search:
        weights = [
            f"{m['name']}" + (f" fold {fold}" if len(m["options"]) > 1 else "") + f": {_told(options)}"
            for m in results["models"]
            for fold, options in (m.get("options") or {}).items()
            if m.get("alone")
        ]
        epochs = search.epochs or recipe.student_training.epochs
        facts["Search"] = (
            f"{search.trials} trials of {epochs} epochs for each method, by validation Dice; found: "
            + "; ".join(weights)
        )
    return facts


def _told(options: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items() if key != "name") or "as given"


def _budget(training: Any) -> str:
    samples = f"{training.samples_per_epoch} slices" if training.samples_per_epoch else "all slices"
    return f"{training.epochs} epochs of {samples}, batch {training.batch_size}"


def _each(hashes: str | Sequence[str]) -> str:
    """Of each seed, then fold, shortened; results of an older version have one."""
    return ", ".join(found[:12] for found in ([hashes] if isinstance(hashes, str) else hashes))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]

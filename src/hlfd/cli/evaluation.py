"""Measuring predictions."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hlfd.cli._app import Fold, Overrides, app, model_folder

if TYPE_CHECKING:
    from hlfd.evaluation.protocol import Protocol


@app.command()
def evaluate(
    model: Annotated[Path | None, typer.Argument(metavar="MODEL", help="Model folder, or a run that holds it.")] = None,
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="Recipe file: its patients.")] = None,
    overrides: Overrides = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Label maps to judge, CASE.nii.gz, in place of MODEL and RECIPE.")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Their references: CASE.nii.gz, or as KiTS or LiTS has them.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="default, lits, kits19, kits21, kits23, monai, released, or a module.")
    ] = "default",
    region: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE[,VALUE]",
            help="With --predictions: a region and its values, for example liver=1,2. Default: each value is one.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Of the surface Dice, mm, where the protocol leaves it open. Default: 2."),
    ] = None,
    probabilities: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --predictions: 4D probabilities CASE.nii.gz, for calibration."),
    ] = None,
    part: Annotated[str, typer.Option(help="Patients to judge on: test, validation, train or all.")] = "test",
    fold: Fold = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --predictions: cases at a time. Default: one a core.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the figures. Default: beside MODEL, or within --predictions."),
    ] = None,
) -> None:
    """Measure a MODEL on a RECIPE's patients, or label maps.

    On the native grid; label maps with --predictions and --references.

    Writes evaluation.json and evaluation.csv, and prints means over patients with 95 % bootstrap intervals;
    of a MODEL also how far its probabilities can be believed (expected calibration error over voxels).
    """
    import os

    from rich.console import Console

    from hlfd.errors import InputError
    from hlfd.evaluation import protocols
    from hlfd.evaluation.terminal import evaluation_table

    options = {"tolerance_mm": tolerance}
    judge = protocols.load(protocol, **options)
    if predictions is None and references is None:
        if model is None or recipe is None:
            raise InputError("expected MODEL and RECIPE, or --predictions DIR and --references DIR")
        if region or probabilities:
            raise InputError("--region and --probabilities go with --predictions; a recipe knows its regions")
        target, document = _recipe(model, recipe, overrides or [], part, fold, output, judge)
    else:
        if predictions is None or references is None or model is not None:
            raise InputError("expected both --predictions DIR and --references DIR, and neither MODEL nor RECIPE")
        from hlfd.evaluation.folders import evaluate_folders

        results, judge = evaluate_folders(
            predictions,
            references,
            protocol=protocol,
            options=options,
            regions=_regions(region or []),
            probabilities=probabilities,
            workers=workers or os.cpu_count() or 1,
        )
        target = output or predictions / f"evaluation-{judge.name}"
        document = protocols.write_evaluation(target, results, judge)
    Console(soft_wrap=True, highlight=False).print(evaluation_table(document, judge))
    typer.echo(target / "evaluation.json")


def _recipe(
    model: Path, recipe: Path, overrides: list[str], part: str, fold: int, output: Path | None, judge: "Protocol"
) -> tuple[Path, dict[str, Any]]:
    from typing import cast, get_args

    from hlfd import recipe as recipes
    from hlfd.errors import InputError, nearest
    from hlfd.study import steps

    parts = get_args(steps.Part)
    if part not in parts:
        raise InputError(f"--part: expected one of {', '.join(parts)}, got '{part}'{nearest(part, parts)}")
    folder = model_folder(model)
    target = output or folder.parent / f"evaluation-{part}"
    workspace = steps.Workspace(recipes.read(recipe, overrides))
    steps.evaluate(folder, workspace, cast(steps.Part, part), fold, target, judge, calibration=True)
    return target, json.loads((target / "evaluation.json").read_text())


def _regions(given: list[str]) -> dict[str, list[int]] | None:
    from hlfd.errors import InputError

    regions: dict[str, list[int]] = {}
    for text in given:
        name, equals, values = text.partition("=")
        numbers = [value.strip() for value in values.split(",")]
        if not (equals and name.strip() and all(value.isdecimal() for value in numbers)):
            raise InputError(f"--region: expected NAME=VALUE[,VALUE...], for example liver=1,2, got '{text}'")
        if name.strip() in regions:
            raise InputError(f"--region: '{name.strip()}' is given twice")
        regions[name.strip()] = [int(value) for value in numbers]
    return regions or None

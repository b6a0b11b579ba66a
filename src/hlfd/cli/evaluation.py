"""Measuring predictions."""

from pathlib import Path
from typing import Annotated

import typer

from hlfd.cli._app import Fold, ModelFolder, Overrides, RecipeFile, app, model_folder, print_results


@app.command()
def evaluate(
    model: ModelFolder,
    recipe: RecipeFile,
    overrides: Overrides = None,
    part: Annotated[str, typer.Option(help="Patients to judge on: test, validation, train or all.")] = "test",
    fold: Fold = 0,
    output: Annotated[
        Path | None, typer.Option(help="Folder of predictions and figures. Default: beside MODEL.")
    ] = None,
) -> None:
    """Predict and measure a recipe's patients on the grid of their images: Dice, VOE, RVD with 95 % intervals."""
    from typing import cast, get_args

    from hlfd import recipe as recipes
    from hlfd.errors import InputError, nearest
    from hlfd.evaluation.protocols import summarize
    from hlfd.study import steps

    parts = get_args(steps.Part)
    if part not in parts:
        raise InputError(f"--part: expected one of {', '.join(parts)}, got '{part}'{nearest(part, parts)}")
    folder = model_folder(model)
    target = output or folder.parent / f"evaluation-{part}"
    results = steps.evaluate(
        folder, steps.Workspace(recipes.read(recipe, overrides or [])), cast(steps.Part, part), fold, target
    )
    print_results({"models": [{"name": folder.parent.name, "labels": summarize(results)}]})
    typer.echo(target / "evaluation.json")

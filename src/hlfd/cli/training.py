"""Training: teacher, student, and what the teacher knows."""

from pathlib import Path
from typing import Annotated

import typer

from hlfd.cli._app import Fold, Overrides, RecipeFile, Workers, app, model_folder


@app.command()
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    role: Annotated[str, typer.Option(help="Which network: teacher, or student (alone).")] = "teacher",
    fold: Fold = 0,
    workers: Workers = None,
) -> None:
    """Train the recipe's teacher, or its student alone, from labels. An interrupted run is continued."""
    from hlfd import recipe as recipes
    from hlfd.errors import InputError, nearest
    from hlfd.study import steps

    if role not in ("teacher", "student"):
        raise InputError(f"--role: expected teacher or student, got '{role}'{nearest(role, ('teacher', 'student'))}")
    ready = steps.Workspace(recipes.read(recipe, overrides or []), workers)
    if role == "teacher":
        for folder in steps.train_teachers(ready, fold):
            typer.echo(folder)
    else:
        typer.echo(steps.train_student(ready, fold, ready.recipe.method("seg")))


@app.command()
def distill(
    recipe: RecipeFile,
    overrides: Overrides = None,
    method: Annotated[str, typer.Option(help="Distillation method, see 'hlfd list methods'.")] = "hlfd",
    teacher: Annotated[
        Path | None, typer.Option(help="Teacher's model folder. Default: the recipe's own teacher.")
    ] = None,
    fold: Fold = 0,
    workers: Workers = None,
) -> None:
    """Train the recipe's student with a teacher. An interrupted run is continued."""
    from hlfd import recipe as recipes
    from hlfd.study import steps

    ready = steps.Workspace(recipes.read(recipe, overrides or []), workers)
    typer.echo(steps.train_student(ready, fold, ready.recipe.method(method), teacher and model_folder(teacher)))


@app.command()
def cache(
    recipe: RecipeFile,
    overrides: Overrides = None,
    method: Annotated[str, typer.Option(help="Distillation method, see 'hlfd list methods'.")] = "hlfd",
    teacher: Annotated[
        Path | None, typer.Option(help="Teacher's model folder. Default: the recipe's own teacher.")
    ] = None,
    fold: Fold = 0,
    workers: Workers = None,
) -> None:
    """Ask the teacher about every training slice ahead of 'distill', which then runs without it. Can be continued.

    Training does the same by itself, slice by slice as they come; ahead, every epoch runs at the student's own speed.
    """
    from hlfd import recipe as recipes
    from hlfd.study import steps

    ready = steps.Workspace(recipes.read(recipe, overrides or []), workers)
    for path in steps.build_cache(ready, fold, ready.recipe.method(method), teacher and model_folder(teacher)):
        typer.echo(path)

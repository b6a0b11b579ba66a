"""A study: many trainings under one budget."""

from typing import Annotated

import typer

from hlfd.cli._app import Overrides, RecipeFile, Workers, app, print_results


@app.command()
def study(
    recipe: RecipeFile,
    overrides: Overrides = None,
    only: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Cells to do, and what they need: 'seed-0/*', '*-hlfd'.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at a time, each in a process of its own.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is to do and how long it takes; stop.")] = False,
    workers: Workers = None,
) -> None:
    """Run methods x students x seeds x folds under one budget. Then report; what is done is kept.

    Any number of processes and machines may work on one folder: each takes what no other has begun.
    """
    from hlfd import recipe as recipes
    from hlfd.study.cells import as_study
    from hlfd.study.compare import study as run

    chosen = as_study(recipes.read(recipe, overrides or []))
    if dry_run:
        from hlfd.study.estimate import estimate, table

        typer.echo(table(estimate(chosen, only), jobs))
    elif results := run(chosen, only=only, jobs=jobs, workers=workers):
        print_results(results)

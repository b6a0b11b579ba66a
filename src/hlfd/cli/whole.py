"""From data to report in one command."""

from pathlib import Path
from typing import Annotated

import typer

from hlfd.cli._app import Cache, Overrides, RecipeFile, Workers, app, print_results, with_cache


@app.command()
def demo(
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="Folder of data, runs and report.")] = Path("runs/demo"),
    workers: Workers = None,
) -> None:
    """Everything at once on phantom CT. Generate it, train a teacher, distil a student, evaluate, report."""
    from importlib.resources import as_file, files

    from hlfd import recipe as recipes
    from hlfd.study.compare import compare as run

    with as_file(files("hlfd") / "demo.yaml") as path:
        chosen = [f"output={output}", f"source.root={output / 'data'}", *(overrides or [])]
        print_results(run(recipes.read(path, chosen), workers))


@app.command()
def compare(recipe: RecipeFile, overrides: Overrides = None, cache: Cache = None, workers: Workers = None) -> None:
    """Run a recipe from data to report. Teacher, student with each method, evaluation; continues where it stopped."""
    from hlfd import recipe as recipes
    from hlfd.study.compare import compare as run

    print_results(run(recipes.read(recipe, with_cache(overrides, cache)), workers))

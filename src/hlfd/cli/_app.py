"""The application that every module of this folder adds its commands to, and the arguments they share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hlfd.errors import InputError, nearest

app = typer.Typer(
    name="hlfd",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # whose tables cut the names of options at 80 columns
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"hlfd {version('hlfd')}")
        raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Turn a large CT segmentation network into a small one, without losing the tumour. Research use only."""


RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML), see recipes/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe, for example student_training.epochs=50."),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes that prepare data. Default: one a core.")]
Fold = Annotated[int, typer.Option(min=0, help="Fold of the split, counted from 0.")]
Cache = Annotated[
    str | None,
    typer.Option(
        metavar="auto|require|never",
        help="Keep the teacher's answers: if possible, or an error if not, or never. Default: the recipe's.",
        show_default=False,
    ),
]
ModelFolder = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="Model folder: model.json and model.safetensors, or a run that holds it."),
]


def model_folder(path: Path) -> Path:
    """The model folder: the path, or what a run folder holds."""
    return path / "model" if (path / "model" / "model.json").is_file() else path


def with_cache(overrides: list[str] | None, cache: str | None) -> list[str]:
    """The changes to a recipe, with that of ``--cache``."""
    known = ("auto", "require", "never")
    if cache is not None and cache not in known:
        raise InputError(f"--cache: expected auto, require or never, got '{cache}'{nearest(cache, known)}")
    return [*(overrides or []), *([] if cache is None else [f"student_training.cache={cache}"])]


def say(path: Path) -> None:
    """Print where a result is, once if several processes work together."""
    from hlfd.machine import first_process

    if first_process():
        typer.echo(path)


def print_results(results: dict[str, Any]) -> None:
    """Print a table of results, as ``results.json`` holds them."""
    from rich.console import Console

    from hlfd.report.terminal import results_table

    Console().print(results_table(results))

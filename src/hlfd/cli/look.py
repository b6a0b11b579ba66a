"""Looking at what there is: plug-ins, folders, networks, reports."""

from pathlib import Path
from typing import Annotated

import typer

from hlfd.cli._app import app


@app.command(name="list")
def list_plugins(
    kind: Annotated[
        str, typer.Argument(help="methods, networks, sources, teachers, exporters; default: all of them.")
    ] = "all",
    name: Annotated[str | None, typer.Argument(help="Show the whole documentation of this one.")] = None,
) -> None:
    """List methods, networks, sources, teachers, exporters. With a name, its options."""
    import inspect
    from typing import cast, get_args

    from rich.console import Console

    from hlfd import plugins
    from hlfd.errors import InputError, nearest
    from hlfd.sections import GIVEN

    console = Console()
    kinds = get_args(plugins.Kind)
    if kind not in (*kinds, "all"):
        raise InputError(f"there is no kind '{kind}'{nearest(kind, kinds)}")
    if name is not None and kind != "all":
        chosen = cast(plugins.Kind, kind)
        options = plugins.defaults(chosen, name, GIVEN.get(chosen, ()))
        console.print(inspect.getdoc(plugins.module(chosen, name).build) or "", markup=False, highlight=False)
        lines = [f"  {key}: {'must be given' if default is ... else default}" for key, default in options.items()]
        console.print("\n".join(["", "Options and defaults in a recipe:", *lines]), markup=False, highlight=False)
        return
    for each in kinds if kind == "all" else (cast(plugins.Kind, kind),):
        console.print(f"[bold]{each}[/bold]")
        for plugin in plugins.names(each):
            console.print(
                f"  {plugin:18} {plugins.summary(each, plugin)}", markup=False, highlight=False, soft_wrap=True
            )


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished demo, comparison or study, with results.json.")],
    form: Annotated[
        str, typer.Option("--format", help="html: write report.html again; latex, markdown: print the summary table.")
    ] = "html",
) -> None:
    """The report of a finished comparison or study. From its runs: a page, or a table for a paper."""
    from hlfd.report.text import text_table
    from hlfd.study.compare import finished_results, rebuild_report

    if form == "html":
        typer.echo(rebuild_report(folder))
    else:
        typer.echo(text_table(finished_results(folder), form), nl=False)


@app.command()
def info(
    path: Annotated[
        Path,
        typer.Argument(
            help="A model folder (ours, an nnU-Net result, a MONAI bundle), a run, an exported file, a store, a "
            "NIfTI file or a recipe."
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Of a model from elsewhere: its reader's options, as fold=1."),
    ] = None,
) -> None:
    """Say what a file or folder is. A model's size and labels, a store's cases, a volume's grid, a whole recipe."""
    from rich.console import Console

    from hlfd.study.describe import describe

    Console().print(describe(path, options or []), highlight=False, markup=False, soft_wrap=True)


@app.command()
def taps(
    network: Annotated[
        str,
        typer.Argument(
            help="A network of 'hlfd list networks', monai:NAME, the dotted path of a class, or a model folder: ours, "
            "an nnU-Net result, a MONAI bundle."
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Options of the network, as width=16 or taps.d5=e4, or of a folder's reader."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Pixels an axis of the image. Default: 256, in 3D 96.", show_default=False)
    ] = None,
    dims: Annotated[int, typer.Option(min=2, max=3, help="Spatial axes of the image.")] = 2,
    classes: Annotated[int, typer.Option(min=2, help="Classes with background.")] = 3,
    in_channels: Annotated[int, typer.Option(min=1, help="Channels of the image.")] = 1,
    every_module: Annotated[
        bool, typer.Option("--all", help="Show every module that runs, not only the taps.")
    ] = False,
) -> None:
    """Show a network's taps, where it is read out. Says which methods can distil from it and into it."""
    from rich.console import Console

    from hlfd.study.taps import overview, show

    found = overview(network, options or [], size=size, dims=dims, classes=classes, in_channels=in_channels)
    show(Console(), found, every_module=every_module)

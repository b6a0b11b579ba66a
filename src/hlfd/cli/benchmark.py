"""What models cost on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from hlfd.cli._app import app


@app.command()
def benchmark(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="Model folders, runs, or exported files: teacher, then student."),
    ],
    way: Annotated[
        list[str] | None,
        typer.Option(
            help="eager, channels_last, bf16, compiled, onnxruntime, onnxruntime-int8, openvino, openvino-int8; "
            "may be repeated. Default: all that this machine has."
        ),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N,...", help="Images at a time, for the throughput.")] = "1,4,8",
    threads: Annotated[
        str | None, typer.Option(metavar="N,...", help="Numbers of threads. Default: one, and one a core.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times each is timed, all in turn.")] = 30,
    volume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CT volume (NIfTI) to segment. Default: a phantom patient.")
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="All figures. As benchmark.json of a study: in its report too."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Chart, .png or .svg.")] = None,
) -> None:
    """Measure models beside each other. Size, time per slice and volume, throughput, memory; in several runtimes."""
    from rich.console import Console

    from hlfd.benchmark.run import Settings, numbers
    from hlfd.benchmark.run import benchmark as measure
    from hlfd.benchmark.table import benchmark_table
    from hlfd.errors import InputError
    from hlfd.io.files import require_writable, write_json
    from hlfd.report.speed import require_picture, write_picture

    if plot is not None:
        require_picture(plot)
    for file in filter(None, (json, plot)):
        if file.is_dir():
            raise InputError(f"{file}: is a folder, expected the name of a file")
        require_writable(file.parent)
    settings = Settings(way or (), numbers("batch", batch), numbers("threads", threads or ""), rounds, volume)
    document = measure(models, settings)
    console = Console(highlight=False)
    console.print(benchmark_table(document, console.width))
    if json is not None:
        typer.echo(write_json(json, document))
    if plot is not None:
        typer.echo(write_picture(document, plot))

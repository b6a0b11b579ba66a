"""A model for other runtimes and machines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlfd.cli._app import Fold, ModelFolder, app, model_folder

if TYPE_CHECKING:
    from hlfd.segmenter import Segmenter
    from hlfd.verification import Evidence


@app.command()
def export(
    model: ModelFolder,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to --recipe.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="File to write: .onnx, .xml (OpenVINO) or .ts; a folder for a bundle and --auto. Default: in 'export' "
            "beside the model folder.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str, typer.Option(help="onnx, openvino, torchscript or monai-bundle. Default: from the file's name.")
    ] = "",
    precision: Annotated[
        str, typer.Option(help="fp32, fp16 or int8, where the format has it. Default: fp32.", show_default=False)
    ] = "",
    recipe: Annotated[
        Path | None,
        typer.Option(help="Recipe whose cases it is calibrated and verified on. Default: generated phantom patients."),
    ] = None,
    fold: Fold = 0,
    cases: Annotated[int, typer.Option(min=1, help="Cases of the recipe at most, to calibrate and to verify.")] = 8,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Largest accepted 1 - Dice between PyTorch's labels and the file's, and Dice lost. Default: 0.001 for "
            "fp32, 0.01 for fp16, 0.05 for int8.",
            show_default=False,
        ),
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Measure every format here, keep the fastest within --max-dice-loss.")
    ] = False,
    max_dice_loss: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="With --auto: Dice that may be lost. Default: 0.01.", show_default=False),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="With --auto: threads. Default: one a core.", show_default=False)
    ] = None,
) -> None:
    """Write a model for another runtime, and verify it.

    ONNX, OpenVINO, TorchScript or a MONAI bundle; what segments otherwise than PyTorch is not kept.
    """
    from hlfd.errors import InputError
    from hlfd.export import ExportError, default_name, evaluation_of
    from hlfd.export import export as run
    from hlfd.segmenter import Segmenter

    for given, name in ((to, "--to"), (precision, "--precision"), (tolerance is not None, "--tolerance")):
        if auto and given:
            raise InputError(f"--auto chooses by --max-dice-loss among all formats: leave {name} out")
    for value, name in ((max_dice_loss, "--max-dice-loss"), (threads, "--threads")):
        if value is not None and not auto:
            raise InputError(f"{name} belongs to --auto, which is missing")
    if output is None:
        output = model_folder(model).parent / "export" / ("" if auto else default_name(to))
    segmenter = Segmenter.load(model_folder(model))
    evidence = _evidence(segmenter, recipe, overrides or [], fold, cases)
    try:
        if auto:
            _auto(segmenter, output, evidence, 0.01 if max_dice_loss is None else max_dice_loss, threads)
            return
        done = run(
            segmenter,
            output,
            to=to,
            precision=precision or "fp32",
            evidence=evidence,
            tolerance=tolerance,
            evaluation=evaluation_of(model_folder(model)),
        )
    except ExportError as error:
        typer.echo(f"hlfd: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(done.verified.summary)
    if done.size:
        typer.echo(f"for images of {' x '.join(map(str, done.size))} alone")
    typer.echo(done.path)


def _evidence(
    model: "Segmenter", recipe: Path | None, overrides: list[str], fold: int, cases: int
) -> "Evidence | None":
    from hlfd import recipe as recipes
    from hlfd.errors import InputError
    from hlfd.study import steps
    from hlfd.verification import of_cases

    if recipe is None:
        if overrides:
            raise InputError(f"'{overrides[0]}': key=value changes a recipe, and there is no --recipe")
        return None
    workspace = steps.Workspace(recipes.read(recipe, overrides))
    split = workspace.split(fold)
    train, validation = workspace.cases(split.train), workspace.cases(split.validation)
    return of_cases(model, workspace.source, train, validation, cases)


def _auto(
    model: "Segmenter", folder: Path, evidence: "Evidence | None", max_dice_loss: float, threads: int | None
) -> None:
    from rich.console import Console
    from rich.table import Table

    from hlfd.fastest import fastest

    choice = fastest(model, folder, max_dice_loss=max_dice_loss, evidence=evidence, threads=threads)
    told = choice.verified
    typer.echo(f"judged on {told.said}" + ("" if told.dice else "; without references: 1 - Dice with PyTorch's labels"))
    table = Table("", "ms an image", "Dice lost" if told.dice else "1 - Dice", "MiB", "", box=None)
    for one in choice.candidates:
        figures = [
            f"{value:.{digits}f}" if value is not None else ""
            for value, digits in ((one.ms, 2), (one.loss, 4), (one.mib, 2))
        ]
        table.add_row(one.name, *figures, "chosen" if one.name == choice.name else one.problem)
    Console(soft_wrap=True).print(table)
    typer.echo(choice.path)

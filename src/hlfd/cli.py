"""The commands: each a few lines over one library function. Heavy imports wait until a command runs."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="hlfd",
    help="Turn a large CT segmentation network into a small one, without losing the tumour. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML), see recipes/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe, for example student_training.epochs=50."),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes that prepare data. Default: one a core.")]
Fold = Annotated[int, typer.Option(min=0, help="Fold of the split, counted from 0.")]
ModelFolder = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="Model folder: model.json and model.safetensors, or a run that holds it."),
]


@app.command()
def demo(
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="Folder of data, runs and report.")] = Path("runs/demo"),
    workers: Workers = None,
) -> None:
    """Everything at once on phantom CT: generate, train a teacher, distill a student, evaluate, report."""
    from importlib.resources import as_file, files

    from hlfd import recipe as recipes
    from hlfd.study.compare import compare as run

    with as_file(files("hlfd") / "demo.yaml") as path:
        chosen = [f"output={output}", f"source.root={output / 'data'}", *(overrides or [])]
        _print_results(run(recipes.read(path, chosen), workers))


@app.command()
def compare(recipe: RecipeFile, overrides: Overrides = None, workers: Workers = None) -> None:
    """Run a recipe from data to report: teacher, student with each method, evaluation. Continues where it stopped."""
    from hlfd import recipe as recipes
    from hlfd.study.compare import compare as run

    _print_results(run(recipes.read(recipe, overrides or []), workers))


@app.command(name="list")
def list_plugins(
    kind: Annotated[str, typer.Argument(help="methods, networks, sources, teachers; default: all of them.")] = "all",
    name: Annotated[str | None, typer.Argument(help="Show the whole documentation of this one.")] = None,
) -> None:
    """List the methods, networks, sources and kinds of teacher folders there are; with a name, its options."""
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
def prepare(recipe: RecipeFile, overrides: Overrides = None, workers: Workers = None) -> None:
    """Prepare a recipe's data: orient, resample, window, crop, split by patient. Cases already done are kept."""
    from hlfd import recipe as recipes
    from hlfd.progress import console
    from hlfd.study import steps

    ready = steps.Workspace(recipes.read(recipe, overrides or []), workers)
    splits = ready.splits  # what can't be split is said before the work
    size = sum(f.stat().st_size for f in ready.store.root.rglob("*.b2nd")) / 2**20
    lost = sum(case.cropped_away for case in ready.store.cases.values())
    console.print(f"{ready.store.root}: {len(ready.store.cases)} cases, {size:.1f} MiB", highlight=False)
    if lost:
        console.print(f"  {lost} labelled pixels lie outside the crop and are not trained on", highlight=False)
    for fold, split in enumerate(splits):
        sizes = f"{len(split.train)} train, {len(split.validation)} validation, {len(split.test)} test patients"
        console.print(f"  fold {fold}: {sizes}", highlight=False)


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
    typer.echo(steps.train_student(ready, fold, ready.recipe.method(method), teacher and _model(teacher)))


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
    for path in steps.build_cache(ready, fold, ready.recipe.method(method), teacher and _model(teacher)):
        typer.echo(path)


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
    folder = _model(model)
    target = output or folder.parent / f"evaluation-{part}"
    results = steps.evaluate(
        folder, steps.Workspace(recipes.read(recipe, overrides or [])), cast(steps.Part, part), fold, target
    )
    _print_results({"models": [{"name": folder.parent.name, "labels": summarize(results)}]})
    typer.echo(target / "evaluation.json")


@app.command()
def predict(
    model: ModelFolder,
    image: Annotated[Path, typer.Argument(help="CT volume, .nii or .nii.gz, in HU.")],
    output: Annotated[Path, typer.Argument(help="Label map to write, .nii or .nii.gz, on the image's grid.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Slices at a time.")] = 4,
) -> None:
    """Segment a CT volume: a NIfTI in, a NIfTI label map out on the same grid."""
    from hlfd.inference import predict as run
    from hlfd.io import nifti
    from hlfd.progress import progress
    from hlfd.segmenter import Segmenter

    nifti.require_writable_name(output)
    segmenter = Segmenter.load(_model(model))
    volume = nifti.read_image(image)
    slices = volume.oriented("SPL").shape[0]
    with progress("segmenting", slices) as advance:
        labels = run(segmenter, volume, batch_size=batch_size, advance=advance)
    nifti.write_label(output, labels, segmenter.description)
    typer.echo(output)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished demo or comparison, with results.json.")],
) -> None:
    """Write report.html again from a finished comparison's runs."""
    from hlfd.study.compare import rebuild_report

    typer.echo(rebuild_report(folder))


@app.command()
def info(
    path: Annotated[
        Path,
        typer.Argument(
            help="A model folder (ours, an nnU-Net result, a MONAI bundle), a run, a prepared store, a NIfTI file or a "
            "recipe."
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Of a model from elsewhere: its reader's options, as fold=1."),
    ] = None,
) -> None:
    """Say what a file or folder is: a model's size and labels, a store's cases, a volume's grid, a whole recipe."""
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
    """Show a network's taps, where it is read out, and which methods can distil from it and into it."""
    from rich.console import Console

    from hlfd.study.taps import overview, show

    found = overview(network, options or [], size=size, dims=dims, classes=classes, in_channels=in_channels)
    show(Console(), found, every_module=every_module)


def _model(path: Path) -> Path:
    return path / "model" if (path / "model" / "model.json").is_file() else path


def _print_results(results: dict[str, Any]) -> None:
    from rich.console import Console

    from hlfd.report.terminal import results_table

    Console().print(results_table(results))


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, a failure at run time one line and 1."""
    from hlfd.errors import InputError

    try:
        app()
    except InputError as error:
        _stop(str(error), 2)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        _stop(f"{os.strerror(error.errno) if error.errno else error}{where}; what is finished stays", 1)


def _stop(message: str, code: int) -> None:
    print(f"hlfd: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)

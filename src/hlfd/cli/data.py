"""Data: check it, prepare it, look at it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hlfd.cli._app import Overrides, RecipeFile, Workers, app
from hlfd.errors import InputError


@app.command()
def check(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the data set.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Options of the source, as task=organ."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="What reads it, see 'hlfd list sources'. Default: as it looks.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(metavar="DIR", help="Of two plain folders matched by name: the volumes, below ROOT.")
    ] = None,
    labels: Annotated[str | None, typer.Option(metavar="DIR", help="The label maps that go with --images.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read the voxels too, not only the headers.")] = False,
    against: Annotated[
        Path | None,
        typer.Option(metavar="ROOT", help="Another data set: find patients that are in both. Reads all voxels."),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write all findings here, as JSON.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 for warnings too.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that read. Default: one a core.")] = None,
) -> None:
    """Look for what is wrong with a data set. Says what is done about it. Exit code 1 if there are errors."""
    from rich.console import Console

    from hlfd.doctor.run import check_root
    from hlfd.doctor.table import report_table
    from hlfd.io.files import write_json

    values: dict[str, Any] = {}
    if options:
        from hlfd.study.describe import read_options  # imports torch, which nothing else here needs

        values = read_options(options)
    if images is not None or labels is not None:
        if source not in (None, "pairs"):
            raise InputError(f"--images, --labels: are of source pairs, got --source {source}")
        source, folders = "pairs", {"images": images, "label_files": labels}
        values |= {key: folder for key, folder in folders.items() if folder is not None}
    found = check_root(root, source, values, deep=deep, against=against, workers=workers)
    if json is not None:
        write_json(json, found.document())
    Console(highlight=False).print(report_table(found))
    if found.count("error") or (strict and found.count("warning")):
        raise typer.Exit(1)


@app.command()
def prepare(
    recipe: RecipeFile,
    overrides: Overrides = None,
    workers: Workers = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every prepared file with its hash in the manifest.")
    ] = False,
) -> None:
    """Prepare a recipe's data. Orient, resample, window, crop, split by patient; cases already done are kept."""
    from hlfd import recipe as recipes
    from hlfd.data.splits import require_distinct
    from hlfd.progress import console
    from hlfd.study import steps

    ready = steps.Workspace(recipes.read(recipe, overrides or []), workers)
    splits = ready.splits  # what can't be split is said before the work
    size = sum(f.stat().st_size for f in ready.store.root.rglob("*.b2nd")) / 2**20
    lost = sum(case.cropped_away for case in ready.store.cases.values())
    console.print(f"{ready.store.root}: {len(ready.store.cases)} cases, {size:.1f} MiB", highlight=False)
    if lost:
        console.print(f"  {lost} labelled pixels lie outside the crop and are not trained on", highlight=False)
    if ready.plan:
        console.print(f"  planned: {ready.preprocess.model_dump(exclude_none=True)}", highlight=False)
    for fold, split in enumerate(splits):
        require_distinct(ready.store, split)
        sizes = f"{len(split.train)} train, {len(split.validation)} validation, {len(split.test)} test patients"
        console.print(f"  fold {fold}: {sizes}", highlight=False)
    if verify:
        steps.verify(ready.store)
        console.print("  every file is as the manifest says", highlight=False)


@app.command()
def preview(
    data: Annotated[Path, typer.Argument(metavar="RECIPE|STORE", help="Recipe file (YAML), or a prepared store.")],
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("preview"),
    cases: Annotated[int, typer.Option(min=1, help="How many cases, evenly spread.")] = 3,
) -> None:
    """Draw a few cases before and after preprocessing, as PNG. With the outlines of their labels."""
    from hlfd import recipe as recipes
    from hlfd.study import steps
    from hlfd.study.preview import preview as draw
    from hlfd.study.preview import preview_store

    if (data / "store.json").is_file():
        written = preview_store(data, output, cases=cases)
    else:
        written = draw(steps.Workspace(recipes.read(data, overrides or [])), output, cases=cases)
    for path in written:
        typer.echo(path)

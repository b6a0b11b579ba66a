"""A trained model in use."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hlfd.cli._app import app, model_folder

if TYPE_CHECKING:
    from hlfd.segmenter import Segmenter


@app.command()
def predict(
    model: Annotated[
        Path, typer.Option("--model", "-m", help="Model folder, a run that holds it, or an exported file.")
    ],
    image: Annotated[
        Path,
        typer.Option("--input", "-i", help="CT: a NIfTI, a DICOM folder or zip, or a folder of either."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder of the results, or for one image its file: .nii.gz, .nii, .dcm."),
    ],
    form: Annotated[
        str | None,
        typer.Option("--format", "-f", help="nifti, seg (DICOM SEG, for DICOM in) or both.", show_default="nifti"),
    ] = None,
    separate: Annotated[
        bool, typer.Option("--separate/--ml", help="A mask of each label, or all labels in one map.")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write the probabilities of every class.")
    ] = False,
    statistics: Annotated[
        bool, typer.Option("--statistics", "-s", help="Also write volumes, mean HU and lesions, JSON.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", "-p", help="Also draw an axial and a coronal slice with contours, PNG.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Write times of the stages, memory, versions and hashes."),
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="Which of several DICOM series: its key, UID or number; all: each of them.")
    ] = None,
    hashed_names: Annotated[
        bool, typer.Option("--hashed-names", help="Call results of a NIfTI after its content's hash, not its name.")
    ] = False,
    resume: Annotated[bool, typer.Option("--continue", help="Pass over images whose results are there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")] = False,
    device: Annotated[
        str | None,
        typer.Option("--device", "-d", help="cpu, cuda, cuda:1 or mps.", show_default="a GPU if there is one"),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads.", show_default="one a core")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Slices or windows at a time.")] = 4,
    step_size: Annotated[
        float, typer.Option(min=0.1, max=1, help="From a window to the next, as a share of it (patches only).")
    ] = 0.5,
    tta: Annotated[
        str, typer.Option(help="Test-time augmentation: none, flips, or all: the eight orientations of a slice.")
    ] = "none",
    keep_largest: Annotated[
        list[str] | None,
        typer.Option(metavar="REGION[=N]", help="Keep the N (1) largest components: liver, kidney=2; none: all."),
    ] = None,
    lesions_inside: Annotated[
        bool | None,
        typer.Option(help="Keep lesions only where they touch their organ.", show_default="as the model says"),
    ] = None,
    smallest_lesion: Annotated[
        float | None,
        typer.Option(min=0, metavar="MM3", help="Drop lesions below this.", show_default="as the model says"),
    ] = None,
) -> None:
    """Segment CT volumes: label maps on the grid of each image.

    A folder goes on after an image that fails. Exit code: 0 all done; 1 some image failed; 2 bad arguments or input;
    130 interrupted.
    """
    from hlfd.inference.command import Command

    command = Command(
        model=model_folder(model),
        input=image,
        output=output,
        form=form,
        separate=separate,
        probabilities=probabilities,
        statistics=statistics,
        preview=preview,
        report=report,
        series=series,
        hashed_names=hashed_names,
        resume=resume,
        quiet=quiet,
        device=device,
        threads=threads,
        batch_size=batch_size,
        step_size=step_size,
        tta=tta,
        keep_largest=tuple(keep_largest or ()),
        lesions_inside=lesions_inside,
        smallest_lesion_mm3=smallest_lesion,
    )
    if command.run(_load, _draw, (lambda path: None) if quiet else typer.echo):
        raise typer.Exit(1)


def _load(path: Path, threads: int | None) -> "Segmenter":
    from hlfd.loading import load

    return load(path, threads=threads)


def _draw(*segmented: Any) -> bytes:
    from hlfd.report.preview import preview

    return preview(*segmented)

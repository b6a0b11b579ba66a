"""A trained model in use."""

from pathlib import Path
from typing import Annotated

import typer

from hlfd.cli._app import ModelFolder, app


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
    from hlfd.loading import load
    from hlfd.progress import progress

    nifti.require_writable_name(output)
    segmenter = load(model)
    volume = nifti.read_image(image)
    slices = volume.oriented("SPL").shape[0]
    with progress("segmenting", slices) as advance:
        labels = run(segmenter, volume, batch_size=batch_size, advance=advance)
    nifti.write_label(output, labels, segmenter.description)
    typer.echo(output)

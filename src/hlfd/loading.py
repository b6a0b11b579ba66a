"""load: a model to predict with, from its folder or from a file it was exported to."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hlfd import plugins
from hlfd.errors import InputError
from hlfd.exporters._exported import Exported, require_whole, side_path
from hlfd.inference import predict
from hlfd.segmenter import Description, Segmenter, read_description
from hlfd.volume import Volume


class Model(Segmenter):
    """A `Segmenter` that predicts."""

    def predict(self, image: Volume, **options: Any) -> Volume:
        """`hlfd.predict` with this model."""
        return predict(self, image, **options)


def load(path: str | Path, *, threads: int | None = None, allow: Iterable[str] = ()) -> Model:
    """Open a model.

    Args:
        path: a model folder, a run that holds one, or a file of `hlfd export` (.onnx, .xml, .ts) with its description
            (.onnx.json, ...) beside it.
        threads: for an exported file: of its runtime. None: as many as torch has.
        allow: for a folder: packages that may be imported, see `Segmenter.load`.

    Raises:
        InputError: no model there, one of another version, damaged, without its description, or with a pickle in it; a
            package is missing that runs it.
    """
    path = Path(path)
    if path.is_dir():
        if (path / "configs" / "metadata.json").is_file():
            raise InputError(
                f"{path}: a MONAI bundle, which MONAI runs: python -m monai.bundle run; expected a model folder"
            )
        inner = path / "model"
        return Model.load(inner if (inner / "model.json").is_file() else path, allow=allow)
    if not path.exists():
        raise InputError(f"{path}: no such model folder or file")
    formats = {plugins.module("exporters", name).SUFFIX: name for name in plugins.names("exporters")}
    if path.suffix not in formats or path.suffix == "":
        known = ", ".join(sorted(suffix for suffix in formats if suffix))
        raise InputError(f"{path}: expected a model folder, or an exported file ({known})")
    side = side_path(path)
    if not side.is_file():
        raise InputError(f"{side}: no such file; it describes {path.name} and belongs beside it")
    known = read_description(side)
    described = Description.of(known, side)
    try:
        files, multiple, size = known["files"], tuple(map(int, known["multiple"])), known["size"]
        size = None if size is None else tuple(map(int, size))
        renamed = [name for name in files if Path(name).name == name and Path(name).suffix == path.suffix]
        if path.name not in files and renamed:
            raise InputError(f"{side}: expected to describe {path.name}, it describes {renamed[0]}")
        require_whole(path, {path.name: files[path.name]} | files)
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{side}: not an exported file's description, {error!r}") from None
    network = Exported(
        plugins.module("exporters", formats[path.suffix]).open_file(path, threads),
        classes=described.labels.classes,
        in_channels=described.in_channels,
        dims=described.dims,
        multiple=multiple,
        size=size,
    )
    return Model.of(described, network)

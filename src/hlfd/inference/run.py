"""``hlfd predict``: images in, results out, one after the other, the next one read while the present one runs."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hlfd.errors import InputError
from hlfd.inference.inputs import Image, Input, read_input
from hlfd.inference.outputs import Target, write_label_maps, write_probabilities
from hlfd.inference.stages import Stages
from hlfd.inference.statistics import statistics
from hlfd.io.files import write_atomic, write_json
from hlfd.progress import Advance
from hlfd.volume import Volume

if TYPE_CHECKING:
    from hlfd.inference.predictor import Predictor
    from hlfd.labels import Labels

Watch = Callable[[int], AbstractContextManager[Advance | None]]
Draw = Callable[[Volume, Volume, "Labels", tuple[float, float]], bytes]
"""Draws a preview: image, class indices, labels, window in HU -> PNG."""


@dataclass
class Case:
    """One image and how it went.

    Attributes:
        one: the image.
        name: what its results are called, once that is known.
        key: stands for it where its name, which may be a patient's, must not; None: it wasn't read.
        files: its results, by what they are.
        stages: seconds of each.
        warnings: what looks odd, with figures.
        error: why there are no results.
        ready: whether they were there before.
        shape, spacing_mm: of the image.
    """

    one: Input
    name: str | None = None
    key: str | None = None
    files: dict[str, Path] = field(default_factory=dict[str, Path])
    stages: Stages = field(default_factory=Stages)
    warnings: list[str] = field(default_factory=list[str])
    error: Exception | None = None
    ready: bool = False
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None


class Reading:
    """Images, each read in a thread while the one before it is worked on; the first is begun at once.

    Two volumes are in memory at most.

    Args:
        inputs: what to read.
        target: where results go.
    """

    def __init__(self, inputs: Sequence[Input], target: Target):
        self.inputs, self.target = inputs, target
        self._pool = ThreadPoolExecutor(1, "hlfd-reader")
        self._next = self._pool.submit(self._read, inputs[0])

    def __iter__(self) -> Iterator[tuple[Input, "Future[tuple[Image, float]]"]]:
        try:
            for following, one in enumerate(self.inputs, 1):
                present = self._next
                wait([present])
                if following < len(self.inputs):
                    self._next = self._pool.submit(self._read, self.inputs[following])
                yield one, present
                del present  # with its volume
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, one: Input) -> tuple[Image, float]:
        started = time.perf_counter()
        image = read_input(one, self.target.name_of(one), self.target.ready)
        return image, time.perf_counter() - started


def predict_all(
    reading: Reading,
    predictor: "Predictor",
    *,
    draw: Draw | None = None,
    watch: Watch = lambda slices: nullcontext(),
    finished: Callable[[Case], None] = lambda case: None,
) -> list[Case]:
    """Segment every image; one that fails doesn't stop the others.

    Args:
        reading: the images, and where their results go.
        predictor: the model.
        draw: for previews.
        watch: called with the number of an image's slices, gives what is told when some are done.
        finished: called with each image when its results are there, or it failed.
    """
    cases: list[Case] = []
    for one, future in reading:
        case = Case(one, reading.target.name_of(one))
        cases.append(case)
        try:
            image, case.stages.seconds["read"] = future.result()
            if any(image.name == other.name for other in cases[:-1]):
                raise InputError(f"{one.path}: '{image.name}' is there twice: the same series or file in another input")
            case.name, case.key = image.name, image.key
            _predict(case, image, reading.target, predictor, draw, watch)
        except Exception as error:  # a folder goes on, whatever one image does
            # Without the frames it went through, which hold volumes.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            case.error = error
        del future
        finished(case)
    return cases


def _predict(case: Case, image: Image, target: Target, predictor: "Predictor", draw: Draw | None, watch: Watch) -> None:
    model, name, volume = predictor.model, image.name, image.volume
    if volume is None:
        case.ready = True
        return
    if target.wanted.seg and image.series is None:
        raise InputError(f"{case.one.path}: a DICOM SEG needs DICOM in, it refers to its images; take --format nifti")
    if target.wanted.separate and target.ready(name, model.labels):
        case.ready = True
        return
    target.require_replaceable(name, model.labels)
    case.shape, case.spacing_mm = volume.shape, volume.spacing_mm
    with watch(predictor.slices(volume)) as advance:
        found = predictor.run(volume, probabilities=target.wanted.probabilities, stages=case.stages, advance=advance)
    case.warnings += [*image.notes, *found.warnings]
    for kind, path in target.others(name).items():
        with case.stages(kind):
            if kind == "statistics":
                write_json(path, {"case": image.key, **statistics(volume, found.labels, model.labels)})
            elif kind == "preview" and draw is not None:
                write_atomic(path, draw(volume, found.labels, model.labels, model.preprocess.window_hu))
            elif kind == "probabilities" and found.probabilities is not None:
                write_probabilities(path, found.probabilities, volume.affine, ("background", *model.labels.names))
            elif kind == "seg" and image.series is not None:
                from hlfd.io import dicom

                algorithm = f"hlfd {model.network_name}"
                dicom.write_seg(path, found.labels, image.series, model.labels.names, algorithm=algorithm)
        case.files[kind] = path
    with case.stages("write"):
        case.files.update(write_label_maps(target, name, found.labels, model.labels))

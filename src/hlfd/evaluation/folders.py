"""Anybody's label maps: a folder of predictions against a folder of references, in parallel."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hlfd.errors import InputError
from hlfd.evaluation import protocols
from hlfd.evaluation.calibration import calibrate
from hlfd.evaluation.case_files import Files, pair_files
from hlfd.evaluation.probabilities import of_classes, read_probabilities
from hlfd.evaluation.protocol import evaluate_case
from hlfd.evaluation.results import CaseResult
from hlfd.io import nifti
from hlfd.labels import Labels, values_present
from hlfd.processes import worker_pool
from hlfd.progress import progress
from hlfd.volume import Volume

MOST_VALUES = 32
T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """What a worker process needs to know."""

    protocol: str
    options: Mapping[str, Any]
    labels: Labels


def evaluate_folders(
    predictions: Path,
    references: Path,
    *,
    protocol: str = "default",
    options: Mapping[str, Any] | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
    probabilities: Path | None = None,
    workers: int = 1,
) -> tuple[list[CaseResult], protocols.Protocol]:
    """Measure every reference's prediction.

    Args:
        predictions, references: folders of label maps, ``CASE.nii.gz`` or ``CASE.nii``, or as KiTS has them
            ``CASE/segmentation.nii.gz`` or ``CASE/aggregated_MAJ_seg.nii.gz``. In either folder ``segmentation-N`` is
            case ``volume-N`` (LiTS, ``test-`` before it or not), and ``prediction_N`` is ``case_N`` (KiTS).
        protocol: name of a protocol.
        options: of the protocol.
        regions: name -> values of the label maps, for protocols that have no labels of their own; None: each value in
            the references is a region.
        probabilities: folder of probabilities, ``CASE.nii.gz`` of shape I x J x K x C, background first, a channel a
            class or a channel a value of the label maps; or I x J x K for a single class.
        workers: processes, each holding one case in memory.

    Raises:
        InputError: a case without prediction or without reference, another grid, a value that is no label (up to five
            cases are named).
    """
    built = protocols.load(protocol, **(options or {}))
    pairs = pair_files(predictions, references, probabilities)
    labels = built.labels
    if labels is not None and regions:
        raise InputError(f"protocol '{protocol}' has regions of its own ({', '.join(built.regions(labels))})")
    if labels is None:
        labels = _declared(regions) if regions else _found(_each(_values, pairs, workers, "reading labels"))
    built.regions(labels)  # labels that it isn't made for are said before the work
    job = Job(protocol, dict(options or {}), labels)
    results = _each(_Measure(job), pairs, workers, "evaluating")
    return results, built


def _declared(regions: Mapping[str, Sequence[int]]) -> Labels:
    """Labels of the regions that the user names; values outside all of them are unknown, but for 0."""
    values = sorted({value for members in regions.values() for value in members})
    if not values or values[0] < 1 or values[-1] > 255:
        raise InputError(f"regions: expected values from 1 to 255, got {values}")
    index = {value: i for i, value in enumerate(values, 1)}
    members = {name: tuple(index[v] for v in sorted(set(chosen))) for name, chosen in regions.items()}
    names = [next((n for n, m in members.items() if m == (i,)), f"label_{v}") for v, i in index.items()]
    return Labels({0: 0, **index}, members, tuple(names))


def _found(values: Sequence[set[int]]) -> Labels:
    present = sorted(set[int]().union(*values) - {0})
    if not present:
        raise InputError("the references hold nothing but background; name what to measure with --region NAME=VALUE")
    if present[0] < 0 or len(present) > MOST_VALUES:
        raise InputError(
            f"the references hold {len(present)} values from {present[0]} to {present[-1]}: are these label maps? "
            "Name what to measure with --region NAME=VALUE[,VALUE...]"
        )
    return _declared({f"label_{value}": [value] for value in present})


def _values(files: Files) -> set[int]:
    return set(values_present(nifti.read_label(files.reference).voxels).tolist())


class _Measure:
    """Measures a case: a class, so that it can be sent to a process with its job."""

    def __init__(self, job: Job):
        self.job = job

    def __call__(self, files: Files) -> CaseResult:
        job = self.job
        protocol = protocols.load(job.protocol, **job.options)
        prediction, reference = (_read(path, job.labels) for path in (files.prediction, files.reference))
        calibration = None
        if files.probabilities is not None:
            where = str(files.probabilities)
            probabilities = read_probabilities(files.probabilities)
            reference.require_same_grid(Volume(probabilities.voxels[0], probabilities.affine), where)
            calibration = calibrate(of_classes(probabilities.voxels, job.labels, where), reference.voxels, where)
        return evaluate_case(prediction, reference, job.labels, files.case, protocol=protocol, calibration=calibration)


def _read(path: Path, labels: Labels) -> Volume:
    """Class indices. Raises `InputError` if the header gives another spacing than the affine: which one is right?"""
    volume = nifti.read_label(path)
    zooms = nifti.read_header(path).pixdim_mm[:3]
    if not np.allclose(zooms, volume.spacing_mm, rtol=1e-3):
        said, derived = (" x ".join(f"{mm:.4g}" for mm in values) for values in (zooms, volume.spacing_mm))
        raise InputError(f"{path}: its header says a spacing of {said} mm, its affine {derived} mm")
    return Volume(labels.to_classes(volume.voxels, str(path)), volume.affine)


def _each(work: Callable[[Files], T], pairs: Sequence[Files], workers: int, what: str) -> list[T]:
    """Apply ``work`` to every case, in parallel; the results in the order of the cases."""
    done: dict[int, T] = {}
    problems: dict[int, str] = {}
    with progress(what, len(pairs)) as advance, _calls(work, pairs, min(workers, len(pairs))) as calls:
        for index, get in calls:
            try:
                done[index] = get()
            except InputError as error:
                problems[index] = str(error)
            advance()
    if problems:
        shown = [problems[i] for i in sorted(problems)[:5]]
        raise InputError("; ".join(shown) + (f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""))
    return [done[i] for i in range(len(pairs))]


@contextmanager
def _calls(
    work: Callable[[Files], T], pairs: Sequence[Files], workers: int
) -> Generator[Iterable[tuple[int, Callable[[], T]]]]:
    if workers <= 1:
        yield ((index, partial(work, files)) for index, files in enumerate(pairs))
        return
    with worker_pool(workers) as pool:
        futures = {pool.submit(work, files): i for i, files in enumerate(pairs)}
        yield ((futures[future], future.result) for future in as_completed(futures))

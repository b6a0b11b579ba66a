"""What ``hlfd predict`` does, from its options to its exit code."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from hlfd.errors import InputError, nearest
from hlfd.inference.inputs import Input, find_inputs, names_in
from hlfd.inference.orientations import Tta
from hlfd.inference.outputs import Target, Wanted
from hlfd.inference.report import is_report, write_report
from hlfd.inference.run import Case, Draw, Reading, predict_all
from hlfd.inference.stages import Stages
from hlfd.io import nifti
from hlfd.io.files import require_writable
from hlfd.machine import keep_freed_memory, program_start
from hlfd.progress import Advance, console, progress

if TYPE_CHECKING:
    from hlfd.data.postprocess import Postprocess
    from hlfd.inference.predictor import Predictor
    from hlfd.segmenter import Segmenter

FORMATS = ("nifti", "seg", "both")
NONE = "none"
"""For ``--keep-largest``: every component stays, whatever the model says."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """The options of ``hlfd predict``; see there."""

    model: Path
    input: Path
    output: Path
    form: str | None = None
    separate: bool = False
    probabilities: bool = False
    statistics: bool = False
    preview: bool = False
    report: Path | None = None
    series: str | None = None
    hashed_names: bool = False
    resume: bool = False
    quiet: bool = False
    device: str | None = None
    threads: int | None = None
    batch_size: int = 4
    step_size: float = 0.5
    tta: str = "none"
    keep_largest: tuple[str, ...] = ()
    lesions_inside: bool | None = None
    smallest_lesion_mm3: float | None = None

    def run(self, load: Callable[[Path, int | None], "Segmenter"], draw: Draw, say: Callable[[Path], None]) -> int:
        """Segment everything. What can be refused is refused before torch is imported.

        Args:
            load: opens the model, to be run by this many threads (None: one a core).
            draw: for previews.
            say: called with each result's file.

        Returns:
            how many of several images failed.

        Raises:
            InputError: options, input, output or a model that can't be used; or the only image can't be.
            OSError: the only image failed at run time.
        """
        self._require_choices()
        if not self.model.exists():
            raise InputError(f"{self.model}: no such file or folder; expected a model")
        tell = _tell_nobody if self.hashed_names else _tell
        inputs = find_inputs(self.input, self.series, leave_out=self.output, tell=tell)
        if all(one.kind == "nifti" for one in inputs):
            if self._wanted.seg:
                raise InputError(
                    f"{self.input}: a DICOM SEG needs DICOM in, it refers to its images; take --format nifti"
                )
            if self.series:
                raise InputError(f"--series: there is no DICOM at {self.input} to choose a series of")
        if self.hashed_names:
            inputs = [replace(one, name=None) for one in inputs]
        target = Target.of(self.output, self._wanted, inputs, resume=self.resume)
        if self.report is not None:
            self._require_no_clash(self.report, target, inputs)
            require_writable(self.report.parent)
        start = Stages()
        with start("start"), program_start():
            keep_freed_memory()
            reading = Reading(inputs, target)
            predictor = self._predictor(load)
        several = len(inputs) > 1
        with self._bar(f"segmenting {len(inputs)} images", len(inputs) if several else None) as advance:

            def finished(case: Case) -> None:
                for path in case.files.values():
                    say(path)
                for warning in case.warnings:
                    _tell(f"warning: {case.name}: {warning}")
                if case.error is not None and several:
                    _tell(self._reason(case, inputs))
                if advance is not None:
                    advance()

            def watch(slices: int) -> AbstractContextManager[Advance | None]:
                return self._bar("segmenting", None if several else slices)

            cases = predict_all(reading, predictor, draw=draw, watch=watch, finished=finished)
        failed = [case for case in cases if case.error is not None]
        if self.report is not None:
            write_report(self.report, cases, predictor, self.model, start.seconds["start"])
        if failed and several:
            _tell(f"{len(failed)} of {len(cases)} images failed, the reasons are above; what is finished stays")
        elif failed:
            error = failed[0].error
            if isinstance(error, OSError) and not self.hashed_names:
                raise error
            raise (InputError if isinstance(error, InputError) else OSError)(self._reason(failed[0], inputs))
        return len(failed)

    def _reason(self, case: Case, inputs: Sequence[Input]) -> str:
        """Why an image failed, with what the user calls it; with ``hashed_names`` with its number among the images."""
        text, path = _one_line(case), case.one.path
        if not self.hashed_names:
            return text
        number = f"image {inputs.index(case.one) + 1} of {len(inputs)}"
        text = re.sub(rf"(?<![\w/.]){re.escape(str(path))}(?![\w.])", number, text)
        for name in sorted({*names_in(path), *path.relative_to(self.input.parent).parts}, key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", text)
        return text if number in text else f"{number}: {text}"

    @staticmethod
    def _require_no_clash(report: Path, target: Target, inputs: Sequence[Input]) -> None:
        if report.suffix.lower() != ".json" or report.is_dir():
            raise InputError(f"--report: expected a file name ending in .json, got {report}")
        results = [path for one in inputs if (name := target.name_of(one)) for path in target.all_of(name)]
        if report.resolve() in [path.resolve() for path in results]:
            raise InputError(
                f"--report: {report} is a result of an image and would be overwritten; choose another name"
            )
        if report.exists() and not is_report(report):
            raise InputError(f"--report: {report} is there and no report of hlfd predict; choose another name")

    @property
    def _wanted(self) -> Wanted:
        form = self.form or ("seg" if self.output.suffix.lower() == ".dcm" else "nifti")
        return Wanted(
            nifti=form != "seg",
            separate=self.separate,
            seg=form != "nifti",
            probabilities=self.probabilities,
            statistics=self.statistics,
            preview=self.preview,
        )

    def _require_choices(self) -> None:
        for name, value, choices in (("format", self.form, FORMATS), ("tta", self.tta, get_args(Tta))):
            if value is not None and value not in choices:
                raise InputError(
                    f"--{name}: expected one of {', '.join(choices)}, got '{value}'{nearest(value, choices)}"
                )
        if self.output.suffix.lower() == ".dcm" and self.form in ("nifti", "both"):
            raise InputError(f"{self.output}: a .dcm file holds a SEG; --format {self.form} needs a folder")
        if nifti.suffix_of(self.output) and self.form == "seg":
            raise InputError(f"{self.output}: --format seg writes DICOM; expected a folder or a name ending in .dcm")
        if nifti.suffix_of(self.output) and self.separate:
            raise InputError(f"{self.output}: --separate writes a file for each label; expected a folder")
        if NONE in self.keep_largest and len(self.keep_largest) > 1:
            raise InputError(f"--keep-largest: expected regions or {NONE}, got both")
        for text in self.keep_largest:
            _region_and_count(text)

    def _predictor(self, load: Callable[[Path, int | None], "Segmenter"]) -> "Predictor":
        import torch

        from hlfd.inference.predictor import Predictor

        if self.threads:
            torch.set_num_threads(self.threads)
        model = load(self.model, self.threads)
        gpu = torch.cuda.is_available() and not model.network.cpu_only
        device = self.device or ("cuda" if gpu else None)
        return Predictor(
            model,
            device=device,
            batch_size=self.batch_size,
            step_size=self.step_size,
            tta=cast(Tta, self.tta),
            postprocess=self._postprocess(model),
        )

    def _postprocess(self, model: "Segmenter") -> "Postprocess":
        changes: dict[str, Any] = {}
        if self.keep_largest == (NONE,):
            changes["largest"] = {}
        elif self.keep_largest:
            changes["largest"] = {**model.postprocess.largest, **dict(map(_region_and_count, self.keep_largest))}
        if self.lesions_inside is not None:
            changes["lesions_inside"] = self.lesions_inside
        if self.smallest_lesion_mm3 is not None:
            changes["smallest_lesion_mm3"] = self.smallest_lesion_mm3
        return model.postprocess.model_copy(update=changes)

    def _bar(self, what: str, total: int | None) -> AbstractContextManager[Advance | None]:
        return nullcontext() if total is None or self.quiet else progress(what, total)


def _region_and_count(text: str) -> tuple[str, int]:
    name, equals, count = text.partition("=")
    if not name or (equals and not (count.isdecimal() and int(count) > 0)):
        raise InputError(f"--keep-largest: expected REGION or REGION=COUNT, for example kidney=2, got '{text}'")
    return name, int(count) if equals else 1


def _one_line(case: Case) -> str:
    """Why an image failed, with what the user calls it."""
    error, path = case.error, str(case.one.path)
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    elif not isinstance(error, InputError | OSError):
        text = f"{type(error).__name__}: {text}"
    return text if path in text else f"{path}: {text}"


def _tell_nobody(text: str) -> None:
    """Names of what is passed over stay unsaid."""


def _tell(text: str) -> None:
    console.print(f"hlfd: {' '.join(text.split())}", highlight=False)

"""The sections of a recipe: what can be set, in which units, with which defaults."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from hlfd import plugins
from hlfd.data.preprocess import GridOptions, Window
from hlfd.errors import InputError, nearest
from hlfd.plugins import Section
from hlfd.sources import recognise

GIVEN: Mapping[plugins.Kind, tuple[str, ...]] = {
    "sources": (),
    "networks": ("in_channels", "classes", "dims"),
    "methods": ("classes",),
}
"""Parameters of a plug-in's ``build`` that the recipe's other parts decide, so they are no options."""


ALONE = "seg"
"""The method that is the student alone."""


class Plugin(BaseModel):
    """A plug-in by name, with its options beside the name."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """What stands beside the name."""
        return dict(self.model_extra or {})

    def check(self, kind: plugins.Kind) -> None:
        """Raise `InputError` for a name or an option that doesn't exist, without building anything."""
        plugins.options(kind, self.name, self.options, given=GIVEN[kind])


class TermSection(Section):
    """When and how much a term counts, beside what its method says.

    Attributes:
        scale: factor on the term's weight.
        warmup_epochs: over which the weight rises from 0.
        stop_epoch: from which the term is off, counted from 0.
    """

    scale: Annotated[float, Field(ge=0)] = 1.0
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    stop_epoch: Annotated[float, Field(gt=0)] | None = None


class Method(Plugin):
    """A distillation method, or several together: ``{name: hlfd+cwd, hlfd: {beta: 0.1}, cwd: {weight: 3}}``.

    Options stand beside the name; those of several methods under the name of each. Together, every term's name starts
    with its method's: ``hlfd.flfd.e1``.

    Attributes:
        run_name: in a recipe ``as``: what the run is called, for a method that is listed more than once.
        terms: pattern of term names -> schedule, for example ``{"plfd.*": {warmup_epochs: 5, stop_epoch: 20}}``.
    """

    run_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._+-]+$")] | None = Field(default=None, alias="as")
    terms: dict[str, TermSection] = Field(default_factory=dict[str, TermSection])

    @property
    def label(self) -> str:
        """What the run is called."""
        return self.run_name or self.name

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """Method -> its options."""
        names = self.name.split("+")
        if len(names) == 1:
            return {self.name: self.options}
        if len(set(names)) < len(names):
            raise InputError(f"method '{self.name}': each at most once")
        for key in self.options:
            if key not in names:
                raise InputError(f"method '{self.name}' has no option '{key}'{nearest(key, names)}")
        parts = {name: self.options.get(name, {}) for name in names}
        for name, options in parts.items():
            if not isinstance(options, dict):
                raise InputError(f"method '{self.name}': {name}: expected its options, got {options!r}")
        return parts

    def check(self, kind: plugins.Kind = "methods") -> None:
        """As `Plugin.check`, for every part."""
        for name, options in self.parts.items():
            plugins.options(kind, name, options, given=GIVEN[kind])
        if self.name != ALONE and ALONE in self.parts:
            raise InputError(f"method '{self.name}': {ALONE} is the student alone and has no terms: leave it out")
        if self.name != ALONE and self.run_name == ALONE:
            raise InputError(f"method '{self.name}': as: '{ALONE}' is what the student alone is called, choose another")
        if self.name == ALONE and self.terms:
            raise InputError(f"method '{ALONE}' has no terms, got terms: {', '.join(self.terms)}")

    def build(self, student: Any, teacher: Any, classes: int) -> list[Any]:
        """The terms of every part. ``student`` and ``teacher`` are what `Tapped.info` says of each."""
        built: list[Any] = []
        for name, options in self.parts.items():
            for term in plugins.load("methods", name, student, teacher, classes=classes, **options):
                if len(self.parts) > 1 and not term.name.startswith(f"{name}."):
                    term.name = f"{name}.{term.name}"
                built.append(term)
        return built


class TeacherSection(Section):
    """A trained model as teacher: a model folder of ours, an nnU-Net results folder or a MONAI bundle.

    Attributes:
        model: the folder.
        weight: beside other teachers.
        learned_from: for a model that doesn't say whom it learned from: ``other``, no patient of this data set, or a
            JSON list of this data set's patients that it did learn from.
        size: rows and columns at which it sees the student's image; None: what its own preprocessing asks for.
        classes: student class -> the teacher's class, or classes, it is made of; None: they have the same.
        options: of the reader, for example nnU-Net's ``{fold: 0, checkpoint: best}``, or ``taps``.
    """

    model: Path
    weight: Annotated[float, Field(gt=0)] = 1.0
    learned_from: Literal["other"] | Path | None = None
    size: tuple[PositiveInt, ...] | None = None
    classes: dict[str, tuple[str, ...]] | None = None
    options: dict[str, Any] = Field(default_factory=dict[str, Any])

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str | Path) else value

    @field_validator("classes", mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given: dict[Any, Any] = value
        return {name: (parts,) if isinstance(parts, str) else parts for name, parts in given.items()}


class SourcePlugin(Plugin):
    """A data source: its plug-in's name, its root folder, and the plug-in's options.

    Attributes:
        name: if it is left out, the source is recognised by the layout of ``root``.
        patient_of: whose patient a case is, where it isn't one of its own: a JSON file, case -> patient, or a regular
            expression whose first group (or all of it) finds the patient in the case's id.
    """

    root: Path
    patient_of: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _recognised(cls, value: Any) -> Any:
        if isinstance(value, dict) and "name" not in value and isinstance(value.get("root"), str | Path):
            return {"name": recognise(Path(value["root"])), **value}
        return value


class PreprocessSection(GridOptions):
    """As `hlfd.data.preprocess.Preprocess`; without ``window_hu`` the source's own window is used.

    Attributes:
        fingerprint: take what is not set here (window, pixel size and, for patches of three axes, distance of slices)
            from the training patients, as nnU-Net does; the plan is written down in ``plan.json``.
    """

    window_hu: Window | None = None
    fingerprint: bool = False


class SplitSection(Section):
    """How patients are divided.

    Attributes:
        seed: of the shuffle.
        validation, test: a share below 1, or a number of patients.
        folds: cross-validation with this many test sets, instead of ``test``.
        labelled: a share below 1, or a number, of training patients whose labels are used; the student is distilled on
            the others as on patients without labels.
        stratify: each part gets its share of small tumours, of large ones and of patients without any, by their volume
            in the prepared data.
        from_source: where the data come with test cases or folds of their own (nnU-Net), those are used.
        file: a split file to use instead: ours, which says in which part everybody is, ``unlabelled`` too, or nnU-Net's
            ``splits_final.json``.
    """

    seed: int = 0
    validation: Annotated[float, Field(gt=0)] = 0.1
    test: Annotated[float, Field(gt=0)] = 0.25
    folds: Annotated[int, Field(ge=2)] | None = None
    labelled: Annotated[float, Field(gt=0)] | None = None
    stratify: bool = False
    from_source: bool = True
    file: Path | None = None

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        for name in ("validation", "test", "labelled"):
            value = getattr(self, name)
            if value is not None and value > 1 and value % 1:
                raise InputError(f"split.{name}: expected a share below 1, or a number of patients, got {value:g}")
        return self


class AugmentSection(Section):
    """How training samples are changed, at random. Validation samples never are.

    Attributes:
        turns: flips and quarter turns, the eight symmetries of a square, in plane (HLFD paper).
        intensity: noise, blur, brightness, contrast, lower resolution and gamma (nnU-Net's): ``student``: the teacher
            sees the sample as it is, and what it knows can be kept; ``both``: it sees what the student sees.
        spatial: rotation and scaling in plane (nnU-Net's), of the labels too.

    With ``intensity: both`` or ``spatial`` no image comes twice, so the teacher runs at every step: there is no cache.
    """

    turns: bool = True
    intensity: Literal["off", "student", "both"] = "off"
    spatial: bool = False

    @property
    def endless(self) -> str | None:
        """What makes every image a new one to the teacher; None: nothing."""
        return "spatial" if self.spatial else "intensity: both" if self.intensity == "both" else None


class TrainingSection(Section):
    """How a network is trained. The defaults are the paper's, but for the number of epochs.

    Attributes:
        epochs: passes of ``samples_per_epoch``.
        samples_per_epoch: slices or patches an epoch; None: as many as there are.
        batch_size: slices or patches a batch, of each process.
        accumulate: batches a step: the gradient is their mean.
        lr, lr_min: Adam's learning rate at the start and, after a cosine, at the end.
        warmup_steps: steps over which the learning rate rises to ``lr``.
        weight_decay: L2 penalty.
        rare_share: share of the samples drawn from those that show the tumour (of labels without one, the
            last class); None: as they come.
        unlabelled_share: share of each batch without labels: patients that have none, or whose labels the split keeps
            back. They take part in the distillation terms alone.
        augment: flips and quarter turns; false: nothing; or an `AugmentSection`.
        validate_every: epochs between two validations.
        head_steps: steps that fit the teacher's heads before the student trains (methods that have any).
        diagnose_every: steps between two readings of each term's gradient against that of the segmentation loss, at the
            student's taps; 0: none.
        balance: ``gradnorm``: terms are scaled so that their gradient at the taps they teach is their weight times
            that of the segmentation loss; read every ten steps.
        cache: ``auto``: what the teacher knows of each sample, in each of its eight orientations, is computed once and
            kept on disk, if the method's terms and ``augment`` allow it; ``require``: it is an error if they don't;
            ``never``: the teacher runs at every step.
        precision: ``32``, ``bf16``, ``16`` or ``auto``: bf16 or 16 on a GPU; 32 on a CPU.
        teacher_precision: ``same`` as the student's, or ``bf16``.
        channels_last: memory format in which CPU and GPU convolve faster; of the network that is trained, very narrow
            ones are faster without. A teacher that is asked has it always.
    """

    epochs: PositiveInt = 30
    samples_per_epoch: PositiveInt | None = None
    batch_size: PositiveInt = 8
    accumulate: PositiveInt = 1
    lr: Annotated[float, Field(gt=0)] = 1e-2
    lr_min: Annotated[float, Field(ge=0)] = 1e-6
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    rare_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    unlabelled_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augment: bool | AugmentSection = True
    validate_every: PositiveInt = 1
    head_steps: PositiveInt = 100
    diagnose_every: Annotated[int, Field(ge=0)] = 50
    balance: Literal["none", "gradnorm"] = "none"
    cache: Literal["auto", "require", "never"] = "auto"
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    teacher_precision: Literal["same", "bf16"] = "same"
    channels_last: bool = True

    @property
    def augmentation(self) -> AugmentSection:
        """``augment`` in full."""
        return self.augment if isinstance(self.augment, AugmentSection) else AugmentSection(turns=self.augment)

    def why_live(self, whole_features: Sequence[str]) -> str | None:
        """Why the teachers must run at every step; None: what they know can be kept.

        Args:
            whole_features: terms that need whole feature maps, `hlfd.distill.Distiller.whole_features`.
        """
        if endless := self.augmentation.endless:
            return f"augment.{endless}: every image is new to the teacher"
        if whole_features:
            return f"{', '.join(whole_features)}: needs whole feature maps of the teacher, which are too large to keep"
        return None

    def require_cache(self, whole_features: Sequence[str]) -> None:
        """Raise `InputError` where a cache is required and can't be had. Arguments as for `why_live`."""
        if self.cache == "require" and (message := self.why_live(whole_features)):
            raise InputError(f"student_training.cache: require: {message}; set it to auto or never")

    @model_validator(mode="after")
    def _ends_with_a_validation(self) -> Self:
        if self.epochs % self.validate_every:
            raise InputError(
                f"validate_every: expected a divisor of epochs = {self.epochs}, so that the last is validated, "
                f"got {self.validate_every}"
            )
        return self


class SearchSection(Section):
    """A search of each method's weights on the validation patients, the same budget for every method.

    Attributes:
        trials: trainings a method; the first is with the weights that the recipe gives it.
        epochs: of a trial; None: as many as ``student_training``.
        seed: of the search, and of the trials' students.
        factor: a weight is searched between what the recipe gives it divided and multiplied by this, on a log scale.
        space: run name of a method -> option (``beta``; of several methods together ``hlfd.beta``) -> lowest and
            highest value, instead of ``factor``. A method with an empty space is not searched.
    """

    trials: Annotated[int, Field(ge=2)] = 8
    epochs: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    factor: Annotated[float, Field(gt=1)] = 10.0
    space: dict[str, dict[str, tuple[float, float]]] = Field(default_factory=dict[str, dict[str, tuple[float, float]]])

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for method, options in self.space.items():
            for option, (low, high) in options.items():
                if not 0 < low < high:
                    raise InputError(
                        f"study.search.space.{method}.{option}: expected 0 < lowest < highest, got {low:g} and {high:g}"
                    )
        return self


class StudySection(Section):
    """More than one training of each method, for `hlfd study`.

    Attributes:
        seeds: of the student's weights, batches and augmentation; the teacher keeps the recipe's ``seed``.
        students: name -> network; empty: the recipe's ``student``.
        search: of each method's weights; null: the recipe's own are used.
    """

    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)] = (0, 1, 2)
    students: dict[str, Plugin] = Field(default_factory=dict[str, Plugin])
    search: SearchSection | None = None

    @model_validator(mode="after")
    def _names(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise InputError(f"study.seeds: each at most once, got {list(self.seeds)}")
        for name, network in self.students.items():
            if not re.fullmatch(r"[A-Za-z0-9._+]+", name) or name in ("teacher", "search", "store", "cache", "cells"):
                raise InputError(f"study.students: expected a name of letters, digits, '.', '_' or '+', got '{name}'")
            network.check("networks")
        return self


class ReportSection(Section):
    """What the report holds beside figures.

    Attributes:
        cases: patients shown, worst first.
        volume_cases: of these, how many can be scrolled through; 0 leaves the viewer out.
        volume_mib: what these volumes may take of the file, together; they are made coarser to fit.
    """

    cases: Annotated[int, Field(ge=0)] = 4
    volume_cases: Annotated[int, Field(ge=0)] = 3
    volume_mib: Annotated[float, Field(gt=0)] = 6.0

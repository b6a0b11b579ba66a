"""A recipe: everything that decides a comparison, read from YAML, overridden with key=value."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from hlfd import plugins
from hlfd.cases import DataSource
from hlfd.data.preprocess import Preprocess
from hlfd.errors import InputError, nearest
from hlfd.plugins import Section
from hlfd.sections import (
    Method,
    Plugin,
    PreprocessSection,
    ReportSection,
    SourcePlugin,
    SplitSection,
    StudySection,
    TeacherSection,
    TrainingSection,
)
from hlfd.sources import open_source


class Recipe(Section):
    """One comparison: data, teacher, student, methods.

    Attributes:
        name: of the comparison; results go to ``runs/NAME`` unless ``output`` says otherwise.
        seed: of weights, batches and augmentation; every method starts from the same student.
        split: how patients are divided; null: not at all, for data that is only prepared and predicted.
        folds: which folds of the split to run.
        methods: the student is trained once with each; ``seg`` is the student alone.
        teacher_models: trained models to use as teachers, instead of training ``teacher``.
        teacher_folds: train as many teachers, each without its part of the training patients, and let each patient's
            slices be taught by the teacher that has not seen the patient.
        unseen_only: the same rule for ``teacher_models``: only a teacher that did not learn from a patient teaches it.
        study: seeds, students and search of a study; null: each method is trained once.
        report: how much the report shows.
    """

    name: str
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    source: SourcePlugin
    preprocess: PreprocessSection = PreprocessSection()
    split: SplitSection | None = SplitSection()
    folds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    teacher: Plugin = Plugin(name="unet")
    teacher_models: tuple[TeacherSection, ...] = ()
    teacher_folds: Annotated[int, Field(ge=2)] | None = None
    unseen_only: bool = False
    teacher_training: TrainingSection = TrainingSection()
    student: Plugin = Plugin(name="unet_mobilenetv2")
    student_training: TrainingSection = TrainingSection()
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] = (Method(name="seg"), Method(name="hlfd"))
    study: StudySection | None = None
    report: ReportSection = ReportSection()
    output: Path | None = None

    @model_validator(mode="after")
    def _check_plugins(self) -> "Recipe":
        self.source.check("sources")
        for network in (self.teacher, self.student):
            network.check("networks")
        for method in self.methods:
            method.check()
        if len(set(self.folds)) != len(self.folds):
            raise InputError(f"folds: each at most once, got {list(self.folds)}")
        names = [m.label for m in self.methods]
        if len(set(names)) != len(names):
            raise InputError(f"methods: each at most once, unless 'as' names them apart, got {', '.join(names)}")
        if self.teacher_models and self.teacher_folds:
            raise InputError("teacher_models and teacher_folds exclude each other: the teachers are given, or trained")
        if self.unseen_only and not (self.teacher_models or self.teacher_folds):
            raise InputError(
                "unseen_only: expected teacher_models to choose from, got none; 'teacher_folds: 4' trains teachers "
                "that each leave patients out"
            )
        if self.study and self.study.search:
            for name in self.study.search.space:
                if name not in names:
                    raise InputError(f"study.search.space: no method is called '{name}'{nearest(name, names)}")
        if self.teacher_training.unlabelled_share:
            raise InputError("teacher_training.unlabelled_share: a teacher learns from labels alone, expected 0")
        return self

    @property
    def folder(self) -> Path:
        """Where the comparison's data, runs and results go."""
        return self.output or Path("runs") / self.name

    @property
    def make_source(self) -> Callable[[], DataSource]:
        """Builds the source; picklable, for worker processes."""
        source = self.source
        return partial(open_source, source.name, source.root, source.options, patient_of=source.patient_of)

    def resolved_preprocess(self, source: DataSource) -> Preprocess:
        """The preprocessing with the source's window filled in; without what a fingerprint would say."""
        values: dict[str, Any] = self.preprocess.model_dump(exclude={"fingerprint"})
        values["window_hu"] = values["window_hu"] or source.window_hu
        return Preprocess(**values)

    def method(self, name: str) -> Method:
        """The method of that label with this recipe's options; one the recipe doesn't list, with its defaults."""
        listed = next((m for m in self.methods if m.label == name), None)
        if listed is None:
            listed = Method(name=name)
            listed.check()
        return listed


def read(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: a YAML file; its ``extends: OTHER.yaml`` (beside it) is read first and overridden by what follows.
        overrides: ``key=value``, the key with dots (``student_training.lr=1e-3``, ``methods.1.alpha=0.2``), the value
            as YAML.

    Raises:
        InputError: not readable, a misspelt key (with the nearest there is), a value that can't be.
    """
    values = _read_yaml(path)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise InputError(f"'{override}': expected key=value")
        set_key(values, key, parse_value(key, value))
    return from_values(values, str(path))


def from_values(values: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from nested mappings; errors as `read`, prefixed with ``where``."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {_explain(error)}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def dump(recipe: Recipe) -> str:
    """The whole recipe, defaults included, as YAML that `read` reads back."""
    return yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False)


def _read_yaml(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in extended_by:
        raise InputError(f"{path}: extends itself, by way of {len(extended_by)} recipes")
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such recipe") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected sections with keys, got {type(values).__name__}")
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise InputError(f"{path}: extends: expected the name of a recipe, got {base!r}")
    return _merge(_read_yaml(path.parent / base, (*extended_by, path.resolve())), values)


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """``top`` over ``base``; a section whose plug-in changes starts anew."""
    merged = dict(base)
    for key, value in top.items():
        old: Any = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        same = both and value.get("name", old.get("name")) == old.get("name")
        merged[key] = _merge(old, value) if same else value
    return merged


def parse_value(key: str, text: str) -> Any:
    """The value of ``key=text`` on a command line: as YAML, with 1e-3 a number."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"{key}: expected a value as YAML, got '{text}'") from None
    if isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as text
        except ValueError:
            return value
    return value


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a key with dots in nested mappings and lists. Raises `InputError` for a place that can't be."""
    here: Any = values
    *path, last = key.split(".")
    for part in path:
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                raise InputError(f"{key}: expected a number below {len(here)} at '{part}'")
            here = here[int(part)]
        else:
            here = here.setdefault(part, {})
        if not isinstance(here, dict | list):
            raise InputError(f"{key}: '{part}' is a value, it has no keys of its own")
    if isinstance(here, list):
        if not last.isdigit() or int(last) >= len(here):
            raise InputError(f"{key}: expected a number below {len(here)} at '{last}'")
        here[int(last)] = value
    else:
        here[last] = value


def _explain(error: ValidationError) -> str:
    problem = plugins.complaint(error)
    if problem["type"] != "extra_forbidden":
        return plugins.first_problem(error)
    *path, key = problem["loc"]
    model: type[BaseModel] = Recipe
    for part in path:
        if part in model.model_fields:  # else a place in a list, or a pattern
            model = _model_in(model.model_fields[str(part)].annotation)
    where = plugins.place(problem["loc"])
    return f"there is no key '{where}'{nearest(str(key), model.model_fields)}"


def _model_in(annotation: Any) -> type[BaseModel]:
    """The section in ``X | None``, ``tuple[X, ...]`` or ``dict[str, X]``."""
    return next(t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel))

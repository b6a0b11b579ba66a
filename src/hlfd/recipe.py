"""A recipe: everything that decides a comparison, read from YAML, overridden with key=value."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from hlfd import plugins
from hlfd.cases import DataSource
from hlfd.data.preprocess import InPlane, Preprocess, Window
from hlfd.errors import InputError, nearest
from hlfd.plugins import Section

GIVEN: Mapping[plugins.Kind, tuple[str, ...]] = {
    "sources": (),
    "networks": ("in_channels", "classes", "dims"),
    "methods": ("classes",),
}
"""Parameters of a plug-in's ``build`` that the recipe's other parts decide, so they are no options."""


class Plugin(BaseModel):
    """A plug-in by name, with its options beside the name."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """What stands beside the name."""
        return dict(self.model_extra or {})

    def check(self, kind: plugins.Kind) -> None:
        """Raise `InputError` for a name or an option that doesn't exist, without building anything."""
        plugins.options(kind, self.name, self.options, given=GIVEN[kind])


class SourcePlugin(Plugin):
    """A data source: its plug-in's name, its root folder, and the plug-in's options."""

    root: Path


class PreprocessSection(InPlane):
    """As `hlfd.data.preprocess.Preprocess`; without ``window_hu`` the source's own window is used."""

    window_hu: Window | None = None


class SplitSection(Section):
    """How patients are divided.

    Attributes:
        seed: of the shuffle.
        validation, test: a share below 1, or a number of patients.
        folds: cross-validation with this many test sets, instead of ``test``.
        file: a split file to use instead.
    """

    seed: int = 0
    validation: Annotated[float, Field(gt=0)] = 0.1
    test: Annotated[float, Field(gt=0)] = 0.25
    folds: Annotated[int, Field(ge=2)] | None = None
    file: Path | None = None


class TrainingSection(Section):
    """How a network is trained. The defaults are the paper's, but for the number of epochs.

    Attributes:
        epochs: passes of ``samples_per_epoch``.
        samples_per_epoch: slices an epoch; None: as many as there are.
        batch_size: slices a step.
        lr, lr_min: Adam's learning rate at the start and, after a cosine, at the end.
        warmup_steps: steps over which the learning rate rises to ``lr``.
        weight_decay: L2 penalty.
        rare_share: share of the slices drawn from those that show the last class; None: as they come.
        augment: flips and quarter turns.
        validate_every: epochs between two validations.
        head_steps: steps that fit the teacher's heads before the student trains (methods that have any).
        precision: ``32``, ``bf16``, ``16`` or ``auto``: bf16 or 16 on a GPU; 32 on a CPU.
        channels_last: memory format in which CPU and GPU convolve faster.
    """

    epochs: PositiveInt = 30
    samples_per_epoch: PositiveInt | None = None
    batch_size: PositiveInt = 8
    lr: Annotated[float, Field(gt=0)] = 1e-2
    lr_min: Annotated[float, Field(ge=0)] = 1e-6
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    rare_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    augment: bool = True
    validate_every: PositiveInt = 1
    head_steps: PositiveInt = 100
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    channels_last: bool = True

    @model_validator(mode="after")
    def _ends_with_a_validation(self) -> Self:
        if self.epochs % self.validate_every:
            raise InputError(
                f"validate_every: expected a divisor of epochs = {self.epochs}, so that the last is validated, "
                f"got {self.validate_every}"
            )
        return self


class Recipe(Section):
    """One comparison: data, teacher, student, methods.

    Attributes:
        name: of the comparison; results go to ``runs/NAME`` unless ``output`` says otherwise.
        seed: of weights, batches and augmentation; every method starts from the same student.
        split: how patients are divided; null: not at all, for data that is only prepared and predicted.
        folds: which folds of the split to run.
        methods: the student is trained once with each; ``seg`` is the student alone.
        teacher_model: a trained model to use as teacher, instead of training ``teacher``.
    """

    name: str
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    source: SourcePlugin
    preprocess: PreprocessSection = PreprocessSection()
    split: SplitSection | None = SplitSection()
    folds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    teacher: Plugin = Plugin(name="unet")
    teacher_model: Path | None = None
    teacher_training: TrainingSection = TrainingSection()
    student: Plugin = Plugin(name="unet_mobilenetv2")
    student_training: TrainingSection = TrainingSection()
    methods: Annotated[tuple[Plugin, ...], Field(min_length=1)] = (Plugin(name="seg"), Plugin(name="hlfd"))
    output: Path | None = None

    @model_validator(mode="after")
    def _check_plugins(self) -> "Recipe":
        self.source.check("sources")
        for network in (self.teacher, self.student):
            network.check("networks")
        for method in self.methods:
            method.check("methods")
        if len(set(self.folds)) != len(self.folds):
            raise InputError(f"folds: each at most once, got {list(self.folds)}")
        names = [m.name for m in self.methods]
        if len(set(names)) != len(names):
            raise InputError(f"methods: each at most once, got {', '.join(names)}")
        return self

    @property
    def folder(self) -> Path:
        """Where the comparison's data, runs and results go."""
        return self.output or Path("runs") / self.name

    @property
    def make_source(self) -> Callable[[], DataSource]:
        """Builds the source; picklable, for worker processes."""
        return partial(plugins.load, "sources", self.source.name, self.source.root, **self.source.options)

    def resolved_preprocess(self, source: DataSource) -> Preprocess:
        """The preprocessing with the source's window filled in."""
        values: dict[str, Any] = self.preprocess.model_dump()
        values["window_hu"] = values["window_hu"] or source.window_hu
        return Preprocess(**values)

    def method(self, name: str) -> Plugin:
        """The method of that name with this recipe's options; one the recipe doesn't list, with its defaults."""
        listed = next((m for m in self.methods if m.name == name), None)
        if listed is None:
            listed = Plugin(name=name)
            listed.check("methods")
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
        _set(values, key, _parse(key, value))
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
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


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


def _parse(key: str, text: str) -> Any:
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


def _set(values: dict[str, Any], key: str, value: Any) -> None:
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
    problem = error.errors()[0]
    if problem["type"] != "extra_forbidden":
        return plugins.first_problem(error)
    *path, key = problem["loc"]
    model: type[BaseModel] = Recipe
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        model = next(t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel))
    where = ".".join(str(part) for part in problem["loc"])
    return f"there is no key '{where}'{nearest(str(key), model.model_fields)}"

"""A search of a method's weights on the validation patients: the same number of trainings for every method."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from hlfd import plugins
from hlfd.errors import InputError
from hlfd.io.files import write_json
from hlfd.methods import _options
from hlfd.progress import console
from hlfd.recipe import set_key
from hlfd.sections import Method, SearchSection, TrainingSection
from hlfd.segmenter import Segmenter
from hlfd.study.steps import Workspace, train_student

Space = Mapping[str, tuple[float, float]]


def space_of(method: Method, section: SearchSection) -> dict[str, tuple[float, float]]:
    """Option -> lowest and highest value: what the recipe says, or every weight around what the method has.

    A weight of 0 stays 0, since it is off.

    Raises:
        InputError: the recipe's space names something that is no option of the method, or a value it can't take.
    """
    given = section.space.get(method.label)
    if given is None:
        weights = weights_of(method)
        return {key: (value / section.factor, value * section.factor) for key, value in weights.items() if value > 0}
    for ends in zip(*given.values(), strict=True):
        with_options(method, dict(zip(given, ends, strict=True)))
    return dict(given)


def weights_of(method: Method) -> dict[str, float]:
    """Option -> value of the options that a method's ``build`` declares as weights of terms."""
    found: dict[str, float] = {}
    several = len(method.parts) > 1
    for name, options in method.parts.items():
        hints = get_type_hints(plugins.module("methods", name).build, include_extras=True)
        for option, default in plugins.defaults("methods", name, given=("classes",)).items():
            if hints.get(option) == _options.Weight:
                found[f"{name}.{option}" if several else option] = float(options.get(option, default))
    return found


def with_options(method: Method, values: Mapping[str, float]) -> Method:
    """The method with other values of some options, checked."""
    raw: dict[str, Any] = method.model_dump(by_alias=True, exclude_defaults=True)
    for key, value in values.items():
        set_key(raw, key, value)
    changed = Method.model_validate(raw)
    changed.check()
    return changed


def check(methods: Sequence[Method], section: SearchSection) -> None:
    """See that the search can be done before anything is trained. Raises `InputError`."""
    _optuna()
    for method in methods:
        space_of(method, section)


def propose(space: Space, history: Sequence[tuple[Mapping[str, float], float]], seed: int) -> dict[str, float]:
    """The next trial's values, log-uniform at first, then where the trials before it did well (TPE).

    Bergstra et al., NeurIPS 2011. The same history and seed give the same values, so a search can be continued.

    Args:
        history: values and score of each trial before, the higher the better.
    """
    optuna = _optuna()
    ranges = {key: optuna.distributions.FloatDistribution(low, high, log=True) for key, (low, high) in space.items()}
    # The first trial's values are the recipe's, which a space of the recipe's own need not hold.
    inside = [
        (values, score) for values, score in history if all(a <= values[key] <= b for key, (a, b) in space.items())
    ]
    sampler = optuna.samplers.TPESampler(seed=seed * 1000 + len(history), n_startup_trials=4)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for values, score in inside:
        study.add_trial(optuna.trial.create_trial(params=dict(values), distributions=ranges, value=score))
    return {key: float(f"{value:.4g}") for key, value in study.ask(ranges).params.items()}


def run(workspace: Workspace, fold: int, method: Method, section: SearchSection, folder: Path) -> dict[str, Any]:
    """Search a method's weights on a fold's validation patients; what was tried and the best of it.

    Trials are kept in ``trials.json`` of the folder, each before it is trained, so an interrupted search continues.

    Args:
        workspace: of the student and the search's seed.

    Returns:
        ``{"best": {option: value}, "trials": [{"values": {...}, "score": best validation Dice}]}``.
    """
    recipe, space, path = workspace.recipe, space_of(method, section), folder / "trials.json"
    usual = recipe.student_training
    epochs = section.epochs or usual.epochs
    every = math.gcd(epochs, usual.validate_every)
    training = TrainingSection.model_validate({**usual.model_dump(), "epochs": epochs, "validate_every": every})
    short = workspace.of(recipe.model_copy(update={"student_training": training}))
    trials: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    weights = weights_of(method)
    for number in range(section.trials if space else 0):
        if number == len(trials):
            history = [(trial["values"], trial["score"]) for trial in trials]
            own = {key: weights[key] for key in space if key in weights}
            values = own if number == 0 and len(own) == len(space) else propose(space, history, section.seed)
            trials.append({"values": values, "score": None})
            write_json(path, trials)
        trial = trials[number]
        if trial["score"] is None:
            run_folder = folder / f"trial-{number}"
            model = train_student(short, fold, with_options(method, trial["values"]), folder=run_folder)
            trial["score"] = Segmenter.load(model).facts["best_validation_dice"]
            write_json(path, trials)
            shutil.rmtree(run_folder / "checkpoints", ignore_errors=True)
            told = ", ".join(f"{key} {value:g}" for key, value in trial["values"].items())
            console.print(f"{method.label}: {told}: validation Dice {trial['score']:.4f}", highlight=False)
    best = max(trials, key=lambda trial: trial["score"])["values"] if trials else {}
    return {"best": best, "trials": trials}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError("study.search: needs Optuna, which is not installed: pip install 'hlfd[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna

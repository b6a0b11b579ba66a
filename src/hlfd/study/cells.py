"""A study as cells: what is to be trained and measured, in which order, and what is done."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from hlfd.errors import InputError, nearest
from hlfd.io.files import write_json
from hlfd.recipe import Recipe
from hlfd.sections import ALONE, Method, Plugin, StudySection

_GROWING = ("methods", "students")
"""What more may come of in the same study."""

_SAID = {"is_study": "layout, is_study: that of hlfd study, or of hlfd compare"}
"""What a key that differs is called, where its name doesn't tell."""

Kind = Literal["teacher", "search", "student"]


@dataclass(frozen=True)
class Cell:
    """One piece of a study, done whole or not at all.

    Attributes:
        name: its place in the study's folder, ``fold-0/seed-1/student-hlfd``: what ``--only`` is matched against.
        student: the student's name, ``student`` where a study has one.
        seed: of the student; None for the teacher.
        needs: names of the cells that come before it.
    """

    name: str
    kind: Kind
    fold: int
    student: str = ""
    network: Plugin | None = None
    seed: int | None = None
    method: Method | None = None
    needs: tuple[str, ...] = ()

    @property
    def model_name(self) -> str:
        """What the model is called in tables, the same for all seeds and folds."""
        if self.method is None or self.method.label == ALONE:
            return self.student
        return f"{self.student}-{self.method.label}"


def as_study(recipe: Recipe) -> Recipe:
    """The recipe as a study: without a ``study`` section, one with the recipe's own seed and student."""
    section = recipe.study or StudySection(seeds=(recipe.seed,))
    return recipe.model_copy(update={"study": section})


def plan(recipe: Recipe) -> list[Cell]:
    """All cells of a recipe, each after those it needs: teachers, then each seed's methods.

    A study always has the student alone among its methods, and its teacher. A recipe without a ``study`` section, a
    comparison, has one seed, one student and the methods that it lists.
    """
    study = recipe.study
    students = dict(study.students) if study and study.students else {"student": recipe.student}
    methods = list(recipe.methods)
    if study and ALONE not in [method.name for method in methods]:
        methods.insert(0, Method(name=ALONE))
    cells: list[Cell] = []
    for fold in recipe.folds:
        root = Path() if len(recipe.folds) == 1 else Path(f"fold-{fold}")
        teacher = Cell(str(root / "teacher"), "teacher", fold)
        if study or not recipe.teacher_models:
            cells.append(teacher)
        first = tuple(cell.name for cell in (teacher,) if not recipe.teacher_models)
        for name, network in students.items():
            place = root / name if study and study.students else root
            searched: dict[str, str] = {}
            for method in methods if study and study.search else ():
                if method.name != ALONE and study and study.search and study.search.space.get(method.label) != {}:
                    cell = Cell(str(place / "search" / method.label), "search", fold, name, network)
                    cells.append(_with(cell, study.search.seed, method, first))
                    searched[method.label] = cell.name
            for seed in study.seeds if study else (recipe.seed,):
                folder = place / f"seed-{seed}" if study else place
                for method in methods:
                    run = "student" if method.label == ALONE else f"student-{method.label}"
                    needs = () if method.name == ALONE else first
                    needs += (searched[method.label],) if method.label in searched else ()
                    cells.append(_with(Cell(str(folder / run), "student", fold, name, network), seed, method, needs))
    return cells


def _with(cell: Cell, seed: int, method: Method, needs: tuple[str, ...]) -> Cell:
    return Cell(cell.name, cell.kind, cell.fold, cell.student, cell.network, seed, method, needs)


def chosen(cells: Sequence[Cell], only: str | None) -> list[Cell]:
    """The cells whose name, or its last part, matches a pattern with ``*`` and ``?``, and all that these need."""
    if only is None:
        return list(cells)
    wanted = {c.name for c in cells if fnmatch(c.name, only) or fnmatch(Path(c.name).name, only)}
    if not wanted:
        raise InputError(f"--only {only}: matches no cell{nearest(only, [cell.name for cell in cells])}")
    for cell in reversed(cells):  # each stands after those it needs
        if cell.name in wanted:
            wanted |= set(cell.needs)
    return [cell for cell in cells if cell.name in wanted]


class Ledger:
    """What is on record of a study: ``study.json``, and a file for each cell that is done.

    Args:
        folder: of the study.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def require_same(self, recipe: Recipe) -> dict[str, Any]:
        """What the folder's study is once this recipe joins it, with more methods or students or without.

        Raises:
            InputError: the folder holds a study of another recipe.
        """
        path, now = self.folder / "study.json", _identity(recipe)
        if path.exists():
            before = _read(path)
            _require_same(self.folder, before, now)
            for key in _GROWING:
                now[key] = {**before.get(key, {}), **now[key]}
        return now

    def open(self, recipe: Recipe) -> None:
        """Write down what the study is. Raises as `require_same`."""
        write_json(self.folder / "study.json", self.require_same(recipe))

    def lock(self, cell: Cell) -> Path:
        """The cell's lock file."""
        return self.folder / "cells" / f"{_flat(cell)}.lock"

    def record(self, cell: Cell) -> dict[str, Any] | None:
        """What was written down when the cell was done; None if it isn't."""
        path = self.folder / "cells" / f"{_flat(cell)}.json"
        if not path.exists():
            return None
        found = _read(path)
        # A run that was removed since is to be done again.
        return found if all((self.folder / part).exists() for part in found.get("files", ())) else None

    def done(self, cell: Cell) -> bool:
        """Whether the cell is done."""
        return self.record(cell) is not None

    def write(self, cell: Cell, files: Sequence[Path], **facts: Any) -> None:
        """Record a cell as done: the files that it is, and facts."""
        names = [str(path.relative_to(self.folder)) for path in files]
        write_json(self.folder / "cells" / f"{_flat(cell)}.json", {"cell": cell.name, "files": names, **facts})


def _flat(cell: Cell) -> str:
    return cell.name.replace("/", "__")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError:
        raise InputError(f"{path}: not readable as JSON; remove it, the study then looks at each run again") from None
    return found if isinstance(found, dict) else {}


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What makes two recipes the same study: all that a figure depends on but folds, seeds and further methods.

    Without paths, which differ from machine to machine; a run itself checks the teacher's and the data's content.
    """
    whole = recipe.model_dump(mode="json", by_alias=True)
    study = whole["study"] or {}
    not_results = ("cache", "diagnose_every")
    return {
        "source": {k: v for k, v in whole["source"].items() if k not in ("root", "workers")},
        **{key: whole[key] for key in ("seed", "preprocess", "split", "teacher", "teacher_folds", "unseen_only")},
        "teacher_models": [
            {k: v for k, v in t.items() if k not in ("model", "learned_from")} for t in whole["teacher_models"]
        ],
        **{
            key: {k: v for k, v in whole[key].items() if k not in not_results}
            for key in ("teacher_training", "student_training")
        },
        "students": study.get("students") or {"student": whole["student"]},
        "search": study.get("search"),
        "is_study": recipe.study is not None,
        "several_folds": len(recipe.folds) > 1,
        "methods": {method.label: raw for method, raw in zip(recipe.methods, whole["methods"], strict=True)},
    }


def _require_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key, wanted in now.items():
        sides: list[Any] = [before.get(key, wanted), wanted]
        if key in _GROWING:
            sides = [{k: side[k] for k in side if all(k in other for other in sides)} for side in sides]
        if sides[0] != sides[1]:
            if all(isinstance(side, dict) for side in sides):  # what differs is enough
                names = [k for k in {**sides[0], **sides[1]} if sides[0].get(k) != sides[1].get(k)]
                sides = [{k: side.get(k) for k in names} for side in sides]
            expected, got = (json.dumps(side)[:200] for side in sides)
            raise InputError(
                f"{folder}: holds a study with another {_SAID.get(key, key)}; choose another output or remove it "
                f"(expected {expected}, got {got})"
            )

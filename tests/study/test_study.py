"""A study: every cell once, whoever does it; what is chosen is chosen on validation."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from hlfd import recipe
from hlfd.errors import InputError
from hlfd.evaluation.results import read_evaluation
from hlfd.sections import Method, SearchSection
from hlfd.segmenter import Segmenter, build_network
from hlfd.study import collect, compare, engine, memory, search, steps
from hlfd.study.calibration import calibration_of
from hlfd.study.cells import Cell, Ledger, as_study, chosen, plan
from hlfd.study.compare import rebuild_report, study
from hlfd.study.estimate import estimate, table

SMALL = {"epochs": 2, "samples_per_epoch": 8, "batch_size": 4, "head_steps": 2}
SEARCH = {"trials": 2, "epochs": 1}


@pytest.fixture(scope="module")
def values(make_kits, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("study")
    return {
        "name": "small",
        "output": str(folder / "run"),
        "source": {"name": "kits", "root": str(make_kits(folder / "kits", 6, shape=(4, 32, 32))), "task": "both"},
        "split": {"validation": 1, "test": 2},
        "teacher": {"name": "unet", "width": 3},
        "student": {"name": "unet", "width": 2},
        "teacher_training": SMALL,
        "student_training": SMALL,
        "methods": [{"name": "kd"}, {"name": "cwd", "as": "channels", "weight": 2}],
        "study": {"seeds": [3, 4], "search": {**SEARCH, "space": {"channels": {}}}},
    }


def make(values: dict, **changes) -> recipe.Recipe:
    return recipe.from_values({**values, **changes}, "test")


@pytest.fixture(scope="module")
def results(values) -> dict:
    found = study(make(values), workers=1)
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def _memory_is_measured_once(monkeypatch):
    """Of the study that the others look at alone: a process for each network takes seconds."""
    monkeypatch.setattr(collect, "peak_mib", lambda models, _plane: dict.fromkeys(models, 1.0))


def test_cells_stand_after_what_they_need(values):
    cells = plan(make(values, folds=[0, 1], split={"validation": 1, "folds": 3}))
    names = [cell.name for cell in cells]
    assert names[:4] == ["fold-0/teacher", "fold-0/search/kd", "fold-0/seed-3/student", "fold-0/seed-3/student-kd"]
    assert len(names) == len(set(names)) == 2 * (1 + 1 + 2 * 3)
    for i, cell in enumerate(cells):
        assert set(cell.needs) <= set(names[:i])
    assert cells[3].needs == ("fold-0/teacher", "fold-0/search/kd")
    assert cells[2].needs == ()  # the student alone learns from labels


def test_several_students_have_a_level_of_their_own(values):
    students = {"a": {"name": "unet", "width": 2}, "b": {"name": "unet", "width": 3}}
    cells = plan(make(values, study={"seeds": [0], "students": students}))
    assert [c.name for c in cells][:3] == ["teacher", "a/seed-0/student", "a/seed-0/student-kd"]
    assert {c.model_name for c in cells[1:]} == {"a", "a-kd", "a-channels", "b", "b-kd", "b-channels"}


def test_only_takes_what_is_needed_too(values):
    cells = plan(make(values))
    assert [c.name for c in chosen(cells, "seed-4/*-kd")] == ["teacher", "search/kd", "seed-4/student-kd"]
    assert [c.name for c in chosen(cells, "student")] == ["seed-3/student", "seed-4/student"]
    with pytest.raises(InputError, match="--only seed-5: matches no cell"):
        chosen(cells, "seed-5")


def test_a_comparison_is_one_seed_in_the_folder_itself_with_the_methods_it_lists(values):
    assert [c.name for c in plan(make(values, study=None))] == ["teacher", "student-kd", "student-channels"]


def test_without_a_section_a_study_has_the_recipes_seed_the_student_alone_and_the_teacher(values, tmp_path, hlfd):
    bare = {**values, "study": None, "seed": 7, "output": str(tmp_path / "run"), "preprocess": {"crop": [32, 32]}}
    names = ["teacher", "seed-7/student", "seed-7/student-kd", "seed-7/student-channels"]
    assert [c.name for c in plan(as_study(recipe.from_values(bare, "test")))] == names
    assert as_study(make(values)) == make(values)
    given = {**bare, "teacher_models": ["elsewhere/model"]}  # is measured in a study too
    assert [c.name for c in plan(as_study(recipe.from_values(given, "test")))] == names
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(bare))
    end = hlfd("study", tmp_path / "r.yaml", "--dry-run")
    assert end.code == 0 and [line.split()[0] for line in end.out.splitlines()[:4]] == names
    compared = recipe.from_values(bare, "test")
    Ledger(compared.folder).open(compared)
    with pytest.raises(InputError, match="another layout, is_study: that of hlfd study, or of hlfd compare; choose"):
        Ledger(compared.folder).require_same(as_study(compared))


def test_every_model_over_every_seed(results, values):
    chosen_recipe = make(values)
    assert [m["name"] for m in results["models"]] == ["teacher", "student", "student-kd", "student-channels"]
    assert [m["seeds"] for m in results["models"]] == [[0], [3, 4], [3, 4], [3, 4]]
    assert results["missing"] == []
    assert all(m["peak_mib"] >= 0 and m["ms_per_slice"] > 0 for m in results["models"])
    assert results["machine"]["threads"] == 1 and results["machine"]["cores"] >= 1
    student = results["models"][1]
    assert len(set(student["sha256"])) == 2  # one a seed
    by_hand = []
    for seed in (3, 4):
        document = json.loads((chosen_recipe.folder / f"seed-{seed}" / "student" / "evaluation.json").read_text())
        by_hand.append(np.mean([case["regions"]["tumor"]["dice"] for case in document["cases"]]))
    assert student["seed_means"]["tumor"] == pytest.approx(by_hand)
    assert student["labels"]["tumor"]["dice"]["mean"] == pytest.approx(np.mean(by_hand))


def test_one_teacher_one_budget_different_seeds(results, values):
    folder = make(values).folder
    jobs = {
        (seed, name): json.loads((folder / f"seed-{seed}" / name / "run.json").read_text())["settings"]
        for seed in (3, 4)
        for name in ("student", "student-kd", "student-channels")
    }
    assert {json.dumps(job["training"]) for job in jobs.values()} == {json.dumps(jobs[3, "student"]["training"])}
    assert {job["seed"] for (seed, _), job in jobs.items() if seed == 3} == {3}
    assert len({job["teachers"][0]["sha256"] for (_, name), job in jobs.items() if name != "student"}) == 1
    assert jobs[3, "student"]["cases"] == jobs[4, "student-kd"]["cases"]


def test_the_search_is_on_validation_and_its_best_is_used(results, values):
    folder = make(values).folder
    trials = json.loads((folder / "search" / "kd" / "trials.json").read_text())
    assert len(trials) == 2 and trials[0]["values"] == {"weight": 1.0}
    for k, trial in enumerate(trials):
        run = folder / "search" / "kd" / f"trial-{k}"
        assert not (run / "evaluation.json").exists() and not (run / "predictions").exists()
        facts = Segmenter.load(run / "model").facts
        assert facts["best_validation_dice"] == trial["score"] and facts["training"]["epochs"] == 1
    best = max(trials, key=lambda t: t["score"])["values"]
    for seed in (3, 4):
        method = json.loads((folder / f"seed-{seed}" / "student-kd" / "run.json").read_text())["settings"]["method"]
        assert method.get("weight", 1.0) == best["weight"]
    assert not (folder / "search" / "channels").exists()


def test_hours_count_what_was_trained_before_an_interruption(results, values, monkeypatch):
    small = make(values)
    trained = [
        json.loads(path.read_text())["facts"]["train_seconds"] for path in small.folder.rglob("model/model.json")
    ]
    assert len(trained) == 1 + 2 + 2 * 3  # teacher, trials, students
    record = Ledger.record

    def ended_at_once(ledger: Ledger, cell: Cell) -> dict | None:
        found = record(ledger, cell)
        return found and found | {"seconds": 0.0}

    monkeypatch.setattr(Ledger, "record", ended_at_once)
    assert compare.spent(small) == pytest.approx(sum(trained))


def test_a_second_call_trains_nothing(results, values, monkeypatch):
    def train(*_: object, **__: object):
        raise AssertionError("a training began")

    monkeypatch.setattr(steps, "train_teachers", train)
    monkeypatch.setattr(steps, "train_student", train)
    monkeypatch.setattr(steps, "evaluate", train)
    again = study(make(values), workers=1)
    assert again is not None
    assert [m["labels"] for m in again["models"]] == [m["labels"] for m in results["models"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 7}, "another seed"),
        ({"student": {"name": "unet", "width": 4}}, 'another students; .*"width": 2.*"width": 4'),
        ({"student_training": {**SMALL, "epochs": 3}}, 'another student_training.*"epochs": 2.*"epochs": 3'),
        ({"methods": [{"name": "kd", "weight": 3}, {"name": "cwd", "as": "channels"}]}, "another methods"),
        ({"study": {"seeds": [3, 4]}}, "another search"),
        ({"split": {"validation": 1, "test": 1}}, "another split"),
    ],
)
def test_another_recipe_is_refused(results, values, changes, message):
    with pytest.raises(InputError, match=f"run: holds a study with {message}"):
        engine.ready(make(values, **changes), workers=1)


def test_more_methods_and_seeds_may_come(results, values):
    more = make(values, methods=[*values["methods"], {"name": "at"}], study={**values["study"], "seeds": [3, 5]})
    engine.ready(more, workers=1)
    models, missing = collect.collect(steps.Workspace(more))
    assert [m.name for m in models] == ["teacher"]  # of the students one seed is to come
    assert "search/at" in missing and "seed-5/student" in missing and "seed-3/student" not in missing


def test_the_report_of_a_study(results, values):
    folder = make(values).folder
    (folder / "report.html").unlink()
    page = rebuild_report(folder).read_text()
    assert "student-channels" in page and "2 seeds" in page


def test_a_full_disk_leaves_what_is_done_and_can_be_continued(values, tmp_path, monkeypatch):
    small = make(values, output=str(tmp_path / "run"), study={"seeds": [0]}, methods=[{"name": "seg"}])
    real = steps.write_evaluation

    def full(folder: Path, *rest: object) -> None:
        if folder.name == "student":
            raise OSError(28, "No space left on device", str(folder / "evaluation.json"))
        real(folder, *rest)

    monkeypatch.setattr(steps, "write_evaluation", full)
    with pytest.raises(OSError, match="No space left"):
        study(small, workers=1)
    ledger, cells = Ledger(small.folder), plan(small)
    assert [ledger.done(cell) for cell in cells] == [True, False]
    assert not list((small.folder / "cells").glob("*.lock"))
    monkeypatch.setattr(steps, "write_evaluation", real)
    assert study(small, workers=1) is not None


def test_a_killed_cell_is_picked_up_by_two_others(values, tmp_path):
    long = {**SMALL, "epochs": 40}
    given = {**values, "output": str(tmp_path / "run"), "study": {"seeds": [0]}, "methods": [{"name": "seg"}]}
    given |= {"student_training": long}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(given))
    command = [sys.executable, "-m", "hlfd", "study", str(tmp_path / "r.yaml"), "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    lock = tmp_path / "run" / "cells" / "seed-0__student.lock"
    limit = time.monotonic() + 120
    checkpoint = tmp_path / "run" / "seed-0" / "student" / "checkpoints" / "last.ckpt"
    while not (lock.exists() and checkpoint.exists()):
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert lock.exists()
    done = engine.run(recipe.read(tmp_path / "r.yaml"), jobs=2)
    assert all(Ledger(done.recipe.folder).done(cell) for cell in plan(done.recipe))
    logs = "".join(path.read_text() for path in (tmp_path / "run" / "logs").iterdir())
    assert "continuing after" in logs
    assert Segmenter.load(tmp_path / "run" / "seed-0" / "student" / "model").facts["steps"] == 80


def test_a_failure_of_several_is_one_line_of_the_command(values, tmp_path, hlfd):
    given = {**values, "output": str(tmp_path / "run"), "study": {"seeds": [0]}, "methods": [{"name": "seg"}]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(given))
    engine.ready(recipe.read(tmp_path / "r.yaml"), workers=1)
    (tmp_path / "run" / "teacher").write_text("in the way")
    end = hlfd("study", tmp_path / "r.yaml", "--jobs", 2, "--workers", 1)
    last = end.err.splitlines()[-1]
    assert (end.code, "Traceback" in end.err) == (1, False)
    assert re.fullmatch(r"hlfd: .*/teacher.*; the whole is in .*\.log; what is finished stays", last), end.err


@pytest.mark.timeout(900)
def test_killed_processes_are_buried_and_said_in_one_line(values, tmp_path, hlfd):
    """Whichever of two holds the cell is killed; the other takes it over at once, and is killed too."""
    given = {**values, "output": str(tmp_path / "run"), "study": {"seeds": [0]}, "methods": [{"name": "seg"}]}
    given |= {"teacher_training": {**SMALL, "epochs": 2000}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(given))
    lock, killed = tmp_path / "run" / "cells" / "teacher.lock", []

    def kill():
        limit = time.monotonic() + 800
        while len(killed) < 2 and time.monotonic() < limit:
            time.sleep(0.05)
            with contextlib.suppress(FileNotFoundError, ValueError):
                holder = json.loads(lock.read_text())["process"]
                if holder not in killed:
                    os.kill(holder, signal.SIGKILL)
                    killed.append(holder)

    killer = threading.Thread(target=kill)
    killer.start()
    end = hlfd("study", tmp_path / "r.yaml", "--jobs", 2, "--workers", 1)
    killer.join()
    assert len(set(killed)) == 2 and os.getpid() not in killed
    assert (end.code, "Traceback" in end.err) == (1, False)
    assert "hlfd: a process was killed by signal 9, perhaps for lack of memory" in end.err.splitlines()[-1]


def test_every_process_is_asked_whether_it_lives(values, tmp_path, monkeypatch):
    """A dead child is buried when it is asked: one that isn't seems alive, and its lock is kept for minutes."""
    asked = []

    class Process:
        exitcode = 0

        def __init__(self, args, **_):
            self.number, self.looks = int(args[2].stem.rpartition("-")[2]), 0

        def is_alive(self):
            asked.append(self.number)
            self.looks += 1
            return self.number == 0 and self.looks < 5

        def start(self): ...

        def join(self, timeout=None): ...

    monkeypatch.setattr(engine.multiprocessing, "get_context", lambda _: SimpleNamespace(Process=Process))
    small = make(values, output=str(tmp_path / "run"))
    engine._side_by_side(SimpleNamespace(recipe=small), [], None, 2)
    assert asked.index(1) < 2


def test_a_memory_that_can_not_be_measured_is_a_failure_at_run_time(tmp_path):
    with pytest.raises(OSError, match=f"{tmp_path}: its memory could not be measured: "):
        memory.peak_mib({"a": tmp_path}, (32, 32))


def test_a_model_that_gives_nan_finds_nothing_and_ends_no_study(results, values, tmp_path, capfd):
    workspace, folder = steps.Workspace(make(values), 1), tmp_path / "diverged"
    bad = Segmenter.load(make(values).folder / "seed-3" / "student" / "model")
    for weights in bad.network.parameters():
        weights.data.fill_(float("nan"))
    bad.save(folder / "model")
    found = steps.evaluate(folder / "model", workspace, "test", 0, folder)
    assert [case.regions["tumor"].dice for case in found] == [0.0, 0.0]
    assert [case.nan for case in read_evaluation(folder / "evaluation.json")] == [True, True]
    assert "its network gives NaN, which counts as background" in " ".join(capfd.readouterr().err.split())


def test_a_model_that_gives_nan_is_left_out_of_the_calibration(values, tmp_path, capfd):
    workspace = steps.Workspace(make(values, output=str(tmp_path / "run")), 1)
    store, cases = workspace.store, [case.id for case in workspace.cases(workspace.patients)]
    labels = workspace.source.labels
    networks = (build_network("unet", {"width": 1}, labels.classes) for _ in range(2))
    good, bad = (Segmenter(network, "unet", {"width": 1}, store.preprocess, labels) for network in networks)
    for weights in bad.network.parameters():
        weights.data.fill_(float("nan"))
    assert sum(calibration_of([(good, store, cases)]).voxels) > 0
    left_out = calibration_of([(good, store, cases[:1]), (bad, store, cases[1:])])
    assert sum(left_out.voxels) == 0 and np.isnan(left_out.ece)
    assert (
        f"calibration: unet (no method) is left out, its probabilities of {cases[1]} hold NaN" in capfd.readouterr().err
    )


def test_the_dry_run(results, values, tmp_path, hlfd):
    done = estimate(make(values))
    assert all(one.done and one.hours is not None for one in done)
    fresh = make(values, output=str(tmp_path / "none"), preprocess={"crop": [32, 32]})
    found = estimate(fresh)
    assert not (tmp_path / "none").exists()
    hours = {one.cell.name: one.hours for one in found}
    assert all(one.hours and one.hours > 0 and not one.done for one in found)
    # One epoch in each of two trials, against two epochs, of the same method.
    assert hours["search/kd"] == pytest.approx(hours["seed-3/student-kd"])
    assert hours["seed-3/student"] < hours["seed-3/student-kd"]
    assert "8 cells, 0 done, 8 to do" in table(found, 2)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    end = hlfd("study", tmp_path / "r.yaml", "--dry-run", "--only", "*kd")
    assert end.code == 0 and "4 cells, 4 done, 0 to do" in end.out


def test_the_space_of_a_search():
    section = SearchSection(factor=10, space={"mine": {"weight": (0.5, 2.0)}, "bad": {"heft": (1.0, 2.0)}})
    assert search.space_of(Method(name="hlfd"), section) == {
        "alpha": pytest.approx((0.01, 1.0)),
        "beta": pytest.approx((0.09, 9.0)),
    }
    both = Method.model_validate({"name": "hlfd+cwd", "hlfd": {"beta": 0}})
    assert list(search.space_of(both, section)) == ["hlfd.alpha", "cwd.weight"]
    assert search.space_of(Method.model_validate({"name": "kd", "as": "mine"}), section) == {"weight": (0.5, 2.0)}
    with pytest.raises(InputError, match="no option 'heft'"):
        search.space_of(Method.model_validate({"name": "kd", "as": "bad"}), section)
    changed = search.with_options(both, {"hlfd.alpha": 0.3, "cwd.weight": 5})
    assert changed.parts == {"hlfd": {"beta": 0, "alpha": 0.3}, "cwd": {"weight": 5}}


def test_a_search_finds_the_better_end_and_repeats_itself():
    def score(value: float) -> float:
        return -abs(np.log10(value) - 1)

    space = {"weight": (0.01, 100.0)}
    runs = []
    for _ in range(2):
        history: list = []
        for _ in range(14):
            proposed = search.propose(space, history, seed=0)
            history.append((proposed, score(proposed["weight"])))
        runs.append(history)
    assert runs[0] == runs[1]
    assert all(0.01 <= v["weight"] <= 100 for v, _ in runs[0])
    best, *_ = sorted(runs[0], key=lambda entry: -entry[1])
    assert 2 < best[0]["weight"] < 50
    late = np.mean([s for _, s in runs[0][-5:]])
    assert late > np.mean([s for _, s in runs[0][:4]])


@pytest.mark.parametrize(
    ("study_section", "message"),
    [
        ({"seeds": [1, 1]}, "study.seeds: each at most once"),
        ({"students": {"a/b": {"name": "unet"}}}, "expected a name of letters"),
        ({"students": {"a": {"name": "unett"}}}, "unett"),
        ({"search": {"space": {"hlfdd": {"beta": [1, 2]}}}}, "no method is called 'hlfdd'"),
        ({"search": {"space": {"kd": {"weight": [2, 1]}}}}, "expected 0 < lowest < highest, got 2 and 1"),
        ({"seedz": [1]}, "no key 'study.seedz' .did you mean 'seeds'"),
    ],
)
def test_bad_study_sections(values, study_section, message):
    with pytest.raises(InputError, match=message):
        make(values, study=study_section)


def test_the_command_writes_results(results, values, tmp_path, hlfd):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    end = hlfd("study", tmp_path / "r.yaml", "--workers", "1")
    assert end.code == 0
    assert "student-channels" in end.out
    end = hlfd("study", tmp_path / "r.yaml", "seed=9")
    assert end.code == 2 and end.err.startswith("hlfd: ") and "holds a study with another seed" in end.err

"""The teacher cache: the same training without the teacher, from rows that are nobody else's."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hlfd.errors import InputError
from hlfd.sections import Plugin, TeacherSection
from hlfd.segmenter import Segmenter
from hlfd.training import cache as caches
from hlfd.training import module as modules
from hlfd.training.cache import KnowledgeCache
from hlfd.training.logs import read_curves
from hlfd.training.run import build_cache, run

COMPACT = ("at", "cwd", "dist", "dkd_deep", "emkd", "hlfd", "ifvd", "kd", "pairwise")


def weights(model: Path) -> dict[str, torch.Tensor]:
    return Segmenter.load(model).network.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many samples each call of a cached teacher was about."""
    calls: list[int] = []
    original = KnowledgeCache._ask

    def ask(self, images, *rest):
        calls.append(len(images))
        return original(self, images, *rest)

    monkeypatch.setattr(KnowledgeCache, "_ask", ask)
    return calls


@pytest.mark.parametrize("method", COMPACT)
def test_the_loss_curve_is_that_of_the_live_teacher(method, make_job, teacher, tmp_path, asked, monkeypatch):
    """Every term of every step, on the same batches; without training in between, so that rounding doesn't grow."""
    recorded: dict[str, list[dict[str, float]]] = {"live": [], "kept": []}
    original = modules.Teaching.forward

    def forward(self, *arguments):
        terms = original(self, *arguments)
        recorded[name].append({key: float(value.detach()) for key, value in terms.items()})
        return terms

    monkeypatch.setattr(modules.Teaching, "forward", forward)
    for name, cache in (("live", None), ("kept", tmp_path / "cache")):
        run(make_job(name, method=method, teacher=teacher, cache=cache, lr=1e-12, lr_min=0))
    assert len(recorded["live"]) == len(recorded["kept"]) == 18
    for live, kept in zip(recorded["live"], recorded["kept"], strict=True):
        assert kept == pytest.approx(live, rel=2e-3, abs=2e-4)
    assert 0 < sum(asked) < 18 * 4


def test_a_cold_and_a_warm_cache_train_the_same_student_to_the_bit(make_job, teacher, tmp_path, asked):
    cold = run(make_job("cold", method="hlfd", teacher=teacher, cache=tmp_path / "cache"))
    first = sum(asked)
    assert 30 < first < 72
    asked.clear()
    warm = run(make_job("warm", method="hlfd", teacher=teacher, cache=tmp_path / "cache"))
    assert asked == []
    assert same(weights(cold), weights(warm))
    run(make_job("kd", method="kd", teacher=teacher, cache=tmp_path / "cache"))
    assert asked == []  # it needs what one of HLFD's terms needs
    run(make_job("cwd", method="cwd", teacher=teacher, cache=tmp_path / "cache"))
    assert sum(asked) == first  # other rows, in the same file
    assert len(list((tmp_path / "cache").glob("*.sqlite"))) == 1


def test_a_stopped_run_continues_from_its_cache_as_if_it_had_not_been_stopped(make_job, teacher, tmp_path, monkeypatch):
    whole = run(make_job("whole", method="hlfd", teacher=teacher, cache=tmp_path / "a"))
    job = make_job("stopped", method="hlfd", teacher=teacher, cache=tmp_path / "b")
    step = modules.TrainingModule.training_step

    def stop(self, batch, index):
        if self.global_step == 12:
            raise KeyboardInterrupt
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(modules.TrainingModule, "training_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(job)
    assert same(weights(run(job)), weights(whole))


def test_when_every_row_is_there_the_teacher_is_unloaded(make_job, teacher, tmp_path, monkeypatch):
    job = make_job(method="kd", teacher=teacher, cache=tmp_path / "c", augment=False, epochs=6)
    devices: list[str] = []
    original = modules.Teaching.forward

    def forward(self, *arguments):
        devices.append(next(self.teachers[0].parameters()).device.type)
        return original(self, *arguments)

    monkeypatch.setattr(modules.Teaching, "forward", forward)
    run(job)
    assert devices[0] == "cpu"
    assert devices[-1] == "meta"


def test_another_teacher_has_another_file(make_job, teacher, tmp_path, asked):
    other = run(make_job("teacher", epochs=1, network=Plugin(name="unet", width=3), seed=9))
    for k, model in enumerate((teacher, other)):
        run(make_job(f"kd-{k}", method="kd", teacher=model, cache=tmp_path / "c", epochs=1))
    assert len(list((tmp_path / "c").glob("*.sqlite"))) == 2
    asked.clear()
    both = (TeacherSection(model=teacher), TeacherSection(model=other))
    run(make_job("both", method="kd", teachers=both, cache=tmp_path / "c", epochs=1))
    assert asked == []


def test_changed_voxels_are_asked_for_again(make_job, teacher, tmp_path, asked):
    job = make_job(method="kd", teacher=teacher, cache=tmp_path / "c", epochs=1)
    run(job)
    asked.clear()
    import copy

    store = copy.copy(job.store)
    case = next(iter(store.cases))
    store.cases = {**store.cases, case: replace(store.cases[case], sha256="f" * 64)}
    run(replace(job, folder=tmp_path / "again", store=store))
    assert sum(asked) > 0


def test_a_method_that_needs_whole_features(make_job, teacher, tmp_path, capsys):
    job = make_job(method="hlfd+fitnet", teacher=teacher, cache=tmp_path / "c", epochs=1)
    run(job)
    assert "no teacher cache: fitnet.e3: needs whole feature maps" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "c").glob("*.sqlite"))
    with pytest.raises(InputError, match=r"student_training\.cache: require: fitnet\.e3: needs whole feature maps"):
        run(make_job("required", method="fitnet", teacher=teacher, cache=tmp_path / "c", kept="require"))


def test_never_is_live(make_job, teacher, tmp_path):
    run(make_job(method="kd", teacher=teacher, cache=tmp_path / "c", kept="never", epochs=1))
    assert not (tmp_path / "c").exists()


def test_too_little_disk_is_said_at_the_first_step(make_job, teacher, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 1000))
    with pytest.raises(InputError, match=r"the teacher cache would need about .* are free: make room, or set"):
        run(make_job(method="kd", teacher=teacher, cache=tmp_path / "c"))


def test_a_damaged_cache_is_named(make_job, teacher, tmp_path):
    run(make_job("a", method="kd", teacher=teacher, cache=tmp_path / "c", epochs=1))
    (file,) = (tmp_path / "c").glob("*.sqlite")
    file.write_bytes(b"no database" * 999)
    with pytest.raises(InputError, match=r"\.sqlite: not a store of rows, or damaged"):
        run(make_job("b", method="kd", teacher=teacher, cache=tmp_path / "c", epochs=1))


def test_what_is_kept_is_small(make_job, teacher, tmp_path, monkeypatch):
    made: list[KnowledgeCache] = []
    original = caches.KnowledgeCache.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(caches.KnowledgeCache, "__init__", init)
    run(make_job(method="hlfd", teacher=teacher, cache=tmp_path / "c"))
    (cache,) = made
    cache = KnowledgeCache(cache.rows.path, cache.teacher, cache.distiller, meta={}, addresses=[])
    keys = [row[0] for row in cache.rows._db.execute("select key from keys")]
    assert len(keys) == 8  # e1; e5 for e2, e3, e4, each at its own size; the head; logits for d4, d3, d2
    pixels = 32 * 32
    assert cache.bytes_per_address(keys) < 8 * pixels
    assert read_curves(tmp_path / "run" / "metrics.csv")["loss/plfd.d4"]


def test_built_ahead_no_step_asks_a_teacher(make_job, teacher, tmp_path, asked, monkeypatch):
    live = run(make_job("lazy", method="hlfd", teacher=teacher, cache=tmp_path / "a"))
    job = make_job("ahead", method="hlfd", teacher=teacher, cache=tmp_path / "b")
    asked.clear()
    original = KnowledgeCache._ask

    def stop(self, images, *rest):
        if len(asked) == 5:
            raise KeyboardInterrupt
        return original(self, images, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(KnowledgeCache, "_ask", stop)
        with pytest.raises(KeyboardInterrupt):
            build_cache(job)
    (file,) = build_cache(job)
    slices = 4 * 4
    assert sum(asked) == 8 * slices  # each slice and orientation once, also over the stop
    asked.clear()
    ahead = run(job)
    assert asked == []
    curves = [read_curves(model.parent / "metrics.csv")["loss/total"] for model in (ahead, live)]
    assert curves[0][0][1] == pytest.approx(curves[1][0][1], rel=1e-2)  # other batches, so other rounding, than lazily
    assert file.parent == tmp_path / "b"


def test_there_is_nothing_to_build_for_the_student_alone(make_job, tmp_path):
    with pytest.raises(InputError, match="method 'seg': there is nothing to keep of a teacher"):
        build_cache(make_job(method="seg", cache=tmp_path / "c"))

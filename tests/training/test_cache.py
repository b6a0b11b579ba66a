"""The teacher cache: the same training without the teacher, from rows that are nobody else's."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from hlfd.data import rows
from hlfd.distill.frozen import FrozenTeacher
from hlfd.errors import InputError
from hlfd.sections import Plugin, TeacherSection
from hlfd.segmenter import Segmenter
from hlfd.training import cache as caches
from hlfd.training import module as modules
from hlfd.training.cache import KnowledgeCache
from hlfd.training.logs import read_curves
from hlfd.training.run import build_cache, run
from hlfd.training.setup import Setup, close

COMPACT = {
    **{name: name for name in ("at", "cwd", "dist", "dkd_deep", "emkd", "hifd", "ifd", "ifvd", "pairwise", "skd")},
    "hlfd": "hlfd",
    "hlfd-classes": {"name": "hlfd", "average": "classes"},
    "hlfd-student": {"name": "hlfd", "resolution": "student"},
    "kd": "kd",
    "unlabelled": "hlfd+emkd",
}


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


@pytest.mark.parametrize("which", COMPACT)
def test_the_loss_curve_is_that_of_the_live_teacher(which, make_job, teacher, tmp_path, asked, monkeypatch):
    """Every term of every step, on the same batches; without training in between, so that rounding doesn't grow."""
    recorded: dict[str, list[dict[str, float]]] = {"live": [], "kept": []}
    original = modules.Teaching.forward

    def forward(self, *arguments):
        terms = original(self, *arguments)
        recorded[name].append({key: float(value.detach()) for key, value in terms.items()})
        return terms

    monkeypatch.setattr(modules.Teaching, "forward", forward)
    for name, cache in (("live", None), ("kept", tmp_path / "cache")):
        job = make_job(name, method=COMPACT[which], teacher=teacher, cache=cache, lr=1e-12, lr_min=0, epochs=1)
        if which == "unlabelled":
            split = replace(job.split, train=job.split.train[:2], unlabelled=job.split.train[2:])
            training = job.training.model_copy(update={"unlabelled_share": 0.5})
            job = replace(job, split=split, training=training)
        run(job)
    assert len(recorded["live"]) == len(recorded["kept"]) == 9
    for live, kept in zip(recorded["live"], recorded["kept"], strict=True):
        assert kept == pytest.approx(live, rel=2e-3, abs=2e-4)
    assert 0 < sum(asked) <= 9 * 4


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


def test_when_every_row_is_there_the_teacher_is_unloaded(make_job, tmp_path):
    """With augmentation, after many batches that were there in part, and teachers that may not teach everybody."""
    split = make_job().split
    halves = [replace(split, train=split.train[:2]), replace(split, train=split.train[2:])]
    small = {"epochs": 1, "samples_per_epoch": 4}
    models = [run(make_job(f"teacher-{k}", split=half, **small)) for k, half in enumerate(halves)]
    both = tuple(TeacherSection(model=model) for model in models)
    setup = Setup(make_job(method="kd", teachers=both, unseen_only=True, cache=tmp_path / "c"))
    module = setup.build()
    kept = setup.keep_knowledge(module)
    assert [len(cache.addresses) for cache in kept] == [2 * 4 * 8, 2 * 4 * 8]
    student = setup.student_sizes(module.network)

    def ask(orientations):
        for batch in DataLoader(setup.train, 8):
            for orientation in orientations:
                turned = module.turned(batch, torch.full((len(batch[0]),), orientation))
                module.teaching.learn(
                    turned.teacher, student, turned.target, module.patients_of(batch), turned.addresses
                )

    ask([0, 1, 0, 1])  # batches that were asked about already, and yet not all
    assert not any(cache.unloaded for cache in kept)
    ask(range(8))
    ask(range(2))
    assert all(cache.unloaded for cache in kept)
    close(kept)


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


def test_of_the_same_weights_with_other_taps_or_modules_nothing_is_taken(make_job, teacher, tmp_path):
    setup = Setup(make_job(method="at", teacher=teacher, cache=tmp_path / "c"))
    (opened,) = setup.teachers
    tapped = opened.pretrained.tapped
    other = replace(opened.pretrained, tapped=tapped.with_taps({"e4": tapped.taps["e5"]}))
    for one in (opened, replace(opened, pretrained=other), replace(opened, architecture="another")):
        setup.teachers = [one]
        close(setup.keep_knowledge(setup.build()))
    assert len(list((tmp_path / "c").glob("*.sqlite"))) == 3


def test_heads_are_the_teacher_s_whatever_the_student_its_seed_and_weights(make_job, teacher, tmp_path, asked):
    def fit(name, method="hlfd", **settings):
        run(make_job(name, method=method, teacher=teacher, cache=tmp_path / "c", epochs=1, **settings))
        return set((tmp_path / "c").glob("heads-*.safetensors"))

    first = fit("a")
    assert len(first) == 1
    asked.clear()
    others = {"name": "hlfd", "alpha": 0.7, "as": "other"}
    assert fit("b", others, lr=1e-3, warmup_steps=2) == first
    assert asked == []  # the same batches, all of which were asked about
    assert fit("c", seed=8, network=Plugin(name="unet", width=3), balance="gradnorm") == first
    assert len(fit("d", head_steps=4)) == 2


def test_a_damaged_file_of_heads_is_named(make_job, teacher, tmp_path):
    run(make_job("a", method="hlfd", teacher=teacher, cache=tmp_path / "c", epochs=1))
    (file,) = (tmp_path / "c").glob("heads-*.safetensors")
    file.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"heads-.*: expected the teacher's fitted heads, or no file"):
        run(make_job("b", method="hlfd", teacher=teacher, cache=tmp_path / "c", epochs=1))


def test_a_method_that_needs_whole_features(make_job, teacher, tmp_path, capsys):
    job = make_job(method="hlfd+fitnet", teacher=teacher, cache=tmp_path / "c", epochs=1)
    run(job)
    assert "no teacher cache: fitnet.e3: needs whole feature maps" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "c").glob("*.sqlite"))
    with pytest.raises(InputError, match=r"student_training\.cache: require: fitnet\.e3: needs whole feature maps"):
        run(make_job("required", method="fitnet", teacher=teacher, cache=tmp_path / "c", kept="require"))
    with pytest.raises(InputError, match="require: there is no folder to keep it in"):
        run(make_job("required", method="kd", teacher=teacher, kept="require"))
    assert not (tmp_path / "required" / "run.json").exists()
    run(make_job("alone", method="seg", kept="require", epochs=1))  # nobody is asked


def test_never_is_live(make_job, teacher, tmp_path):
    run(make_job(method="kd", teacher=teacher, cache=tmp_path / "c", kept="never", epochs=1))
    assert not (tmp_path / "c").exists()


def test_too_little_disk_is_said_before_anything_is_fitted_or_written(make_job, teacher, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    needed: list[float] = []
    original = KnowledgeCache.bytes_to_come
    free = 2**40

    def note(self, *arguments):
        needed.append(original(self, *arguments))
        return needed[-1]

    monkeypatch.setattr(KnowledgeCache, "bytes_to_come", note)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, free))
    other = run(make_job("teacher", epochs=1, network=Plugin(name="unet", width=3), seed=9))
    both = {"teachers": (TeacherSection(model=teacher), TeacherSection(model=other)), "cache": tmp_path / "c"}
    run(make_job("enough", method="kd", **both, epochs=1))
    assert len(needed) == 2 and min(needed) > 0
    file = next((tmp_path / "c").glob("*.sqlite"))
    assert 0.3 * file.stat().st_size < needed[0]
    shutil.rmtree(tmp_path / "c")
    free = 1.5 * max(needed)  # for one of them
    with pytest.raises(InputError, match=r"the teacher cache would need about .* are free: make room, or set"):
        run(make_job("little", method="hlfd", **both))
    assert not (tmp_path / "little").exists()
    assert not list((tmp_path / "c").glob("heads*"))


def test_a_cache_that_cannot_be_written(make_job, teacher, tmp_path, monkeypatch, asked):
    job = make_job("ahead", method="kd", teacher=teacher, cache=tmp_path / "c", epochs=1)
    (file,) = build_cache(job)
    asked.clear()
    monkeypatch.setattr(rows.os, "access", lambda *_: False)
    run(job)
    assert asked == []
    with pytest.raises(InputError, match=r"\.sqlite: can't be written, and lacks up to 128 of 128 answers"):
        run(make_job("more", method="cwd", teacher=teacher, cache=tmp_path / "c", epochs=1))
    assert file.exists()


def test_no_cache_of_a_job_that_wants_none(make_job, teacher, tmp_path):
    with pytest.raises(InputError, match=r"student_training.cache: expected auto or require, .* got never"):
        build_cache(make_job(method="hlfd", teacher=teacher, cache=tmp_path / "cache", kept="never"))


def test_an_answer_that_is_no_number_is_not_kept(make_job, teacher, tmp_path, monkeypatch):
    real = FrozenTeacher.forward

    def broken(self, *arguments, **options):
        return {role: found * float("nan") for role, found in real(self, *arguments, **options).items()}

    monkeypatch.setattr(FrozenTeacher, "forward", broken)
    with pytest.raises(
        InputError, match="a teacher's answer holds NaN, infinity or values above 65504, which can't be kept"
    ):
        build_cache(make_job(method="kd", teacher=teacher, cache=tmp_path / "cache", kept="require"))


def test_a_cache_is_built_in_the_precision_of_the_training(make_job, teacher, tmp_path, monkeypatch):
    seen: list[bool] = []
    original = KnowledgeCache._ask

    def ask(self, *arguments):
        seen.append(torch.is_autocast_enabled("cpu"))
        return original(self, *arguments)

    monkeypatch.setattr(KnowledgeCache, "_ask", ask)
    small = {"method": "kd", "teacher": teacher, "cache": tmp_path / "c", "augment": False, "precision": "bf16"}
    build_cache(make_job(**small))
    assert seen and all(seen)


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
    kept = rows.RowStore(cache.rows.path, {})
    (keys,) = kept._db.execute("select count(*) from keys").fetchone()
    assert keys == 8  # e1; e5 for e2, e3, e4, each at its own size; the head; logits for d4, d3, d2
    (size,) = kept._db.execute("select sum(length(bytes)) / count(distinct address) from rows").fetchone()
    assert size < 8 * 32 * 32
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


@pytest.mark.parametrize("method", ["hlfd", "kd"])
def test_training_goes_as_with_the_live_teacher(method, make_job, teacher, tmp_path):
    """Thirty steps that change the student: what the cache rounds doesn't grow."""
    curves = []
    for kept in ("never", "require"):
        settings = {"kept": kept, "epochs": 1, "samples_per_epoch": 120, "batch_size": 4, "lr": 1e-3}
        model = run(make_job(kept, method=method, teacher=teacher, cache=tmp_path / "c", **settings))
        curves.append(read_curves(model.parent / "metrics.csv"))
    names = [name for name in curves[0] if name.startswith("loss/")]
    steps = [step for step, _ in curves[0]["loss/seg"]]
    assert len(names) > 2 and steps[-1] >= 29
    for name in names:
        live, kept = ([value for _, value in curve[name]] for curve in curves)
        assert kept == pytest.approx(live, rel=1e-2, abs=1e-5), name
    live = [value for _, value in curves[0]["loss/total"]]
    assert live[-1] < 0.97 * live[0]  # it did learn


def test_there_is_nothing_to_build_for_the_student_alone(make_job, tmp_path):
    with pytest.raises(InputError, match="method 'seg': there is nothing to keep of a teacher"):
        build_cache(make_job(method="seg", cache=tmp_path / "c"))

"""Training on slices with their neighbours (2.5D) and on patches (2D, 3D): run, cached, continued, measured."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from hlfd import plugins
from hlfd.data.prepare import prepare
from hlfd.data.preprocess import Preprocess
from hlfd.data.splits import Split
from hlfd.data.store import Store
from hlfd.errors import InputError
from hlfd.segmenter import Segmenter
from hlfd.training.logs import read_curves
from hlfd.training.run import build_cache, run
from hlfd.training.setup import Setup

PATIENTS = tuple(f"case_{n:05}" for n in range(7))
OPTIONS = {"25d": {"neighbours": 1}, "2d": {"patch": (16, 32)}, "3d": {"patch": (16, 16, 16)}}
SHAPES = {"25d": (3, 32, 32), "2d": (1, 16, 32), "3d": (1, 16, 16, 16)}


@pytest.fixture(scope="module", params=list(OPTIONS))
def shown(request, volumes: Path, tmp_path_factory) -> tuple[str, Store]:
    preprocess = Preprocess(window_hu=(-200, 300), **OPTIONS[request.param])
    make_source = partial(plugins.load, "sources", "kits", volumes)
    return request.param, prepare(make_source, preprocess, tmp_path_factory.mktemp(request.param) / "store")


@pytest.fixture(scope="module")
def job_of(shown, job_in, tmp_path_factory):
    """Jobs on the prepared store."""
    return partial(job_in.func, shown[1], tmp_path_factory.mktemp("runs"), samples_per_epoch=20, epochs=2)


@pytest.fixture(scope="module")
def teacher(job_of) -> Path:
    return run(job_of("teacher", epochs=1))


def test_a_student_is_distilled_and_knows_what_it_is_shown(shown, job_of, teacher):
    name, store = shown
    model = Segmenter.load(run(job_of("kd", method="kd", teacher=teacher)))
    assert model.preprocess == store.preprocess
    assert (model.network.in_channels, model.network.dims) == (3 if name == "25d" else 1, 3 if name == "3d" else 2)
    losses = read_curves(job_of("kd").folder / "metrics.csv")
    assert np.isfinite([v for _, v in losses["loss/total"]]).all()
    setup = Setup(job_of("look"))
    module = setup.build()
    batch = next(iter(setup.loaders.train_dataloader(0, 1)))
    assert tuple(batch[0].shape[1:]) == SHAPES[name]
    prepared = module.prepare_batch(batch, 0)
    assert not torch.equal(prepared.student, batch[0])  # it was turned
    assert torch.equal(prepared.student, prepared.teacher)


def test_an_interrupted_run_sees_the_same_batches(job_of, teacher, monkeypatch):
    from hlfd.training.module import TrainingModule

    whole = run(job_of("whole", method="hlfd", teacher=teacher))
    step, count = TrainingModule.training_step, 0

    def until(self, batch, index):
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", until)
    with pytest.raises(KeyboardInterrupt):
        run(job_of("parts", method="hlfd", teacher=teacher))
    monkeypatch.setattr(TrainingModule, "training_step", step)
    again = Segmenter.load(run(job_of("parts", method="hlfd", teacher=teacher))).network.state_dict()
    for key, value in Segmenter.load(whole).network.state_dict().items():
        assert torch.equal(again[key], value), key


def test_what_the_teacher_knows_is_kept_for_every_sample_in_eight_orientations(shown, job_of, teacher, tmp_path):
    split = Split(train=PATIENTS[:1], validation=PATIENTS[4:5], test=PATIENTS[6:])
    of = partial(job_of, method="kd", teacher=teacher, split=split, samples_per_epoch=8)
    job = of("cached", cache=tmp_path, kept="require")
    assert len(build_cache(job)) == 1
    setup = Setup(job)
    module = setup.build()
    (cache,) = setup.keep_knowledge(module)
    assert len(cache.addresses) == (4 if shown[0] == "2d" else 8) * len(setup.train)  # a rectangle is not turned
    assert not cache.rows.missing([row[0] for row in cache.rows._db.execute("select key from keys")], cache.addresses)
    cache.rows.close()
    live = Segmenter.load(run(of("live"))).network.state_dict()
    kept = Segmenter.load(run(job)).network.state_dict()
    for key, value in live.items():
        torch.testing.assert_close(kept[key].float(), value.float(), atol=0.05, rtol=0.05, msg=key)


def test_the_validation_dice_counts_each_voxel_once(shown, job_of, teacher):
    job = job_of("teacher", epochs=1)
    setup = Setup(job)
    samples = (setup.build(), setup.validation)[1]
    counted = sum(int((samples[i][1] >= 0).sum()) for i in range(len(samples)))
    cases = [c for c in job.store.cases.values() if c.patient in job.split.validation]
    assert counted == sum(int(np.prod(case.shape)) for case in cases)
    assert 0 <= read_curves(job.folder / "metrics.csv")["val/dice"][-1][1] <= 1


def test_changing_intensities_for_the_student_alone_keeps_the_cache(job_of, teacher, tmp_path, capfd):
    alone = {"intensity": "student"}
    job = job_of("noisy", method="kd", teacher=teacher, cache=tmp_path, kept="require", augment=alone)
    setup = Setup(job)
    module = setup.build()
    batch = next(iter(setup.loaders.train_dataloader(0, 1)))
    prepared = [module.prepare_batch(batch, step) for step in range(6)]
    assert any(not torch.equal(p.student, p.teacher) for p in prepared)
    assert all(p.addresses for p in prepared)
    again = module.prepare_batch(batch, 2)
    assert torch.equal(again.student, prepared[2].student)
    run(job)
    assert list(tmp_path.glob("*.sqlite"))


@pytest.mark.parametrize(
    ("augment", "name"), [({"spatial": True}, "spatial"), ({"intensity": "both"}, "intensity: both")]
)
def test_images_that_never_come_again_need_a_live_teacher(job_of, teacher, tmp_path, capfd, augment, name):
    options = {"method": "kd", "teacher": teacher, "cache": tmp_path, "augment": augment}
    message = f"augment.{name}: every image is new to the teacher"
    with pytest.raises(InputError, match=f"cache: require: {message}"):
        run(job_of(f"required-{name[0]}", kept="require", **options))
    with pytest.raises(InputError, match=f"{message}: there is nothing to keep"):
        build_cache(job_of(f"built-{name[0]}", **options))
    capfd.readouterr()
    run(job_of(f"live-{name[0]}", epochs=1, **options))
    assert f"no teacher cache: {message}" in capfd.readouterr().err
    assert not list(tmp_path.glob("*.sqlite"))


def test_a_patch_that_the_strides_do_not_divide(volumes: Path, job_in, tmp_path: Path):
    make_source = partial(plugins.load, "sources", "kits", volumes)
    store = prepare(make_source, Preprocess(window_hu=(-200, 300), patch=(8, 16, 16)), tmp_path / "store")
    with pytest.raises(InputError, match="network 'unet' needs multiples of 16 x 16 x 16, got 8 x 16 x 16"):
        run(job_in.func(store, tmp_path))

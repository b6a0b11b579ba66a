"""Training runs in a folder: what they write, what they refuse, and that they continue as if nothing had happened."""

import copy
import csv
import errno
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hlfd import plugins
from hlfd.data.splits import Split
from hlfd.distill.distiller import Distiller
from hlfd.distill.frozen import FrozenTeacher
from hlfd.distill.losses import SegmentationLoss
from hlfd.errors import InputError
from hlfd.labels import Labels
from hlfd.sections import Plugin
from hlfd.segmenter import Segmenter, build_network, patient_keys
from hlfd.training import run as running
from hlfd.training import setup
from hlfd.training.logs import CsvLog, read_curves
from hlfd.training.module import TrainingModule
from hlfd.training.run import run
from hlfd.training.teachers import check_leakage, open_teacher

PATIENTS = tuple(f"case_{n:05}" for n in range(7))
HLFD_TERMS = (
    *(f"flfd.{tap}" for tap in ("e1", "e2", "e3", "e4")),
    *(f"plfd.{tap}" for tap in ("d5", "d4", "d3", "d2")),
)


def rows(folder: Path) -> list[tuple[str, ...]]:
    with (folder / "metrics.csv").open() as file:
        return [tuple(row) for row in csv.reader(file)]


def weights(model: Path) -> dict[str, torch.Tensor]:
    return Segmenter.load(model).network.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def last_checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> None:
    """The next run gets ``error`` in the middle of the training step of that number."""
    original = TrainingModule.training_step

    def training_step(self, batch, batch_index):
        if self.global_step == step:
            raise error
        return original(self, batch, batch_index)

    monkeypatch.setattr(TrainingModule, "training_step", training_step)


# What a run writes.


@pytest.fixture(scope="module")
def finished(job_in, teacher, tmp_path_factory):
    """A whole run of HLFD, two epochs of nine steps: its folder."""
    job = job_in(tmp_path_factory.mktemp("finished"), method="hlfd", teacher=teacher)
    assert run(job) == job.folder / "model"
    return job.folder


def test_a_run_logs_every_term_by_name(finished):
    curves = read_curves(finished / "metrics.csv")
    losses = {"loss/seg", "loss/total", *(f"loss/{term}" for term in HLFD_TERMS)}
    pulls = {name for name in curves if name.startswith(("grad/", "cos/"))}
    for term in HLFD_TERMS:  # at its own tap, at the first step
        assert {f"grad/{term}/{term[-2:]}", f"cos/{term}/{term[-2:]}"} <= pulls
    for name in pulls:
        ((step, value),) = curves[name]
        assert step == 0 and (value > 0 if name.startswith("grad/") else -1 <= value <= 1), name
    assert set(curves) - pulls == {*losses, "head.plfd.d5", "val/dice", "val/dice_kidney", "val/dice_tumor"}
    assert [step for step, _ in curves["head.plfd.d5"]] == [-3, -1]
    for name in losses:
        assert [step for step, _ in curves[name]] == [9], name
    assert len(curves["val/dice"]) == 2
    last = {name: curves[name][-1][1] for name in losses}
    assert last["loss/total"] == pytest.approx(sum(v for name, v in last.items() if name != "loss/total"), rel=1e-4)


def test_a_run_writes_a_model_and_its_facts(finished):
    model = Segmenter.load(finished / "model")
    best = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert same({f"network.{key}": v for key, v in model.network.state_dict().items()}, {
        key: v for key, v in best.items() if key.startswith("network.")
    })  # fmt: skip
    dice = [value for _, value in read_curves(finished / "metrics.csv")["val/dice"]]
    assert model.facts["best_validation_dice"] == pytest.approx(max(dice), rel=1e-5)
    assert model.facts["method"] == {"name": "hlfd"}
    assert model.facts["steps"] == 18
    assert model.facts["patients"] == {"train": 4, "validation": 2, "test": 1}
    assert len(model.learned_from) == 6


def test_the_model_is_that_of_the_best_epoch_not_of_the_last(make_job, monkeypatch):
    def worse_each_time(self):
        self.log("val/dice", 0.5 / (1 + self.current_epoch))

    monkeypatch.setattr(TrainingModule, "on_validation_epoch_end", worse_each_time)
    job = make_job(epochs=3, samples_per_epoch=4)  # a step an epoch
    with monkeypatch.context() as patch:
        stop_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(job)
    assert last_checkpoint(job.folder)["global_step"] == 2  # an interrupted run loses an epoch at most
    folder = run(job).parent  # and remembers which epoch was the best before
    model = Segmenter.load(folder / "model")
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    last = last_checkpoint(folder)["state_dict"]
    exported = {f"network.{key}": value for key, value in model.network.state_dict().items()}
    assert all(torch.equal(value, best[key]) for key, value in exported.items())
    assert not all(torch.equal(value, last[key]) for key, value in exported.items())
    assert model.facts["best_validation_dice"] == 0.5
    assert last_checkpoint(folder)["global_step"] == 3


def test_the_model_folder_holds_no_pickle_no_patient_and_no_teacher(finished, store):
    folder = finished / "model"
    assert {path.name for path in folder.iterdir()} == {"model.json", "model.safetensors"}
    assert not any(patient in (folder / "model.json").read_text() for patient in store.patients)
    assert set(weights(folder)) == set(build_network("unet", {"width": 2}, 3).state_dict())


def tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in values for tensor in tensors(item)]


def test_a_checkpoint_holds_network_heads_and_optimiser_but_no_teacher(finished, teacher):
    checkpoint = last_checkpoint(finished)
    state = checkpoint["state_dict"]
    assert {key.split(".")[0] for key in state} == {"network", "teaching"}
    heads = [key for key in state if "_head." in key]
    assert len(heads) == 2 * 5  # weight and bias of four heads of the student and one of the teacher
    trained = sum(key.startswith("network.") and "running" not in key and "num_" not in key for key in state)
    assert len(checkpoint["optimizer_states"][0]["state"]) == trained + 2 * 4
    forbidden = [weight for weight in weights(teacher).values() if weight.numel() > 20]
    assert len(forbidden) > 20
    for tensor in tensors(checkpoint):
        assert not any(tensor.shape == weight.shape and torch.equal(tensor, weight) for weight in forbidden)


def test_the_logged_validation_dice_is_the_mean_over_patients_of_whole_volumes(finished, store):
    network = build_network("unet", {"width": 2}, 3)
    state = last_checkpoint(finished)["state_dict"]
    network.load_state_dict({k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")})
    network.eval()
    dice = {"kidney": [], "tumor": []}
    for patient in ("case_00004", "case_00005"):
        image, label = store.slices(patient)
        reference, predicted = label[:], []
        for slice_ in image[:]:
            with torch.no_grad():
                predicted.append(network(torch.from_numpy(slice_).float()[None, None])["logits"][0].argmax(0).numpy())
        for region, members in (("kidney", (1, 2)), ("tumor", (2,))):
            p, g = np.isin(predicted, members), np.isin(reference, members)
            dice[region].append(2 * (p & g).sum() / (p.sum() + g.sum()))
    logged = {name: curve[-1][1] for name, curve in read_curves(finished / "metrics.csv").items()}
    assert 0.05 < logged["val/dice"] < 0.95
    assert abs(dice["kidney"][0] - dice["kidney"][1]) > 1e-4
    assert logged["val/dice_kidney"] == pytest.approx(np.mean(dice["kidney"]), abs=1e-4)
    assert logged["val/dice_tumor"] == pytest.approx(np.mean(dice["tumor"]), abs=1e-4)
    assert logged["val/dice"] == pytest.approx(np.mean([dice["kidney"], dice["tumor"]]), abs=1e-4)


# Interrupted and continued.


def full_disk(monkeypatch: pytest.MonkeyPatch, name: str, at: int) -> None:
    """The ``at``-th time that a file of that name is written, the disk is full when half of it is there."""
    written, original = [0], Path.write_bytes

    def write_bytes(self, data):
        if name in self.name:
            written[0] += 1
            if written[0] == at:
                original(self, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return original(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


def stop_before_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "_export", stopped)


STOPS = {
    "Ctrl-C in the first epoch": (KeyboardInterrupt, lambda m: stop_at(m, 4, KeyboardInterrupt())),
    "Ctrl-C after the tenth step": (KeyboardInterrupt, lambda m: stop_at(m, 12, KeyboardInterrupt())),
    "Ctrl-C before the model is written": (KeyboardInterrupt, stop_before_export),
    "disk full at the first checkpoint": (OSError, lambda m: full_disk(m, "best.ckpt", 1)),
    "disk full at the last checkpoint": (OSError, lambda m: full_disk(m, "last.ckpt", 2)),
    "disk full at the model": (OSError, lambda m: full_disk(m, "model.safetensors", 1)),
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_run_continues_as_if_it_had_not_been_stopped(stop, finished, make_job, teacher, monkeypatch):
    error, interfere = STOPS[stop]
    job = make_job(method="hlfd", teacher=teacher)
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interfere(patch)
        with pytest.raises(error) as raised:
            run(job)
    if error is OSError:
        assert raised.value.errno == errno.ENOSPC
    assert signal.getsignal(signal.SIGINT) is handler  # the next Ctrl-C works too
    assert not (job.folder / "model" / "model.json").exists()
    model = run(job)
    assert same(weights(model), weights(finished / "model"))
    assert same(last_checkpoint(job.folder)["state_dict"], last_checkpoint(finished)["state_dict"])
    assert rows(job.folder) == rows(finished)
    assert not list(job.folder.rglob("*.tmp"))


def test_a_finished_run_returns_at_once(make_job, finished, teacher, monkeypatch):
    job = make_job(method="hlfd", teacher=teacher)
    os.symlink(finished, job.folder)
    monkeypatch.setattr(setup, "build_network", lambda *_: pytest.fail("it trains again"))
    assert run(job) == job.folder / "model"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"lr": 1e-3}, "training"),
        ({"epochs": 3}, "training"),
        ({"seed": 4}, "seed"),
        ({"method": "kd"}, "method"),
        ({"network": Plugin(name="unet", width=4)}, "network"),
        ({"split": Split(train=("case_00000",), validation=("case_00004",), test=("case_00006",))}, "split"),
        ({"method": "hlfd", "teacher": None}, "teachers"),
    ],
    ids=["lr", "epochs", "seed", "method", "network", "split", "teacher"],
)
def test_another_setting_in_the_same_folder_is_refused(change, key, make_job, finished, teacher):
    job = make_job(**({"method": "hlfd", "teacher": teacher} | change))
    os.symlink(finished, job.folder)
    before = rows(finished)
    with pytest.raises(InputError, match=f"run: holds a run with another {key}; choose another output or remove it"):
        run(job)
    assert rows(finished) == before


def test_the_seed_decides_the_weights(make_job):
    first, again, other = [
        run(make_job(name, epochs=1, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]  # fmt: skip
    assert same(weights(first), weights(again))
    assert not same(weights(first), weights(other))


def test_validation_every_second_epoch(make_job):
    folder = make_job(epochs=4, validate_every=2, samples_per_epoch=4).folder
    run(make_job(epochs=4, validate_every=2, samples_per_epoch=4))
    assert [step for step, _ in read_curves(folder / "metrics.csv")["val/dice"]] == [1, 3]


# Which teachers are refused.


def test_a_teacher_that_learned_from_test_patients_is_refused(make_job, teacher):
    leaking = Split(train=("case_00002",), validation=("case_00003",), test=("case_00000", "case_00004", "case_00006"))
    job = make_job(method="kd", teacher=teacher, split=leaking)
    with pytest.raises(InputError, match="the teacher learned from 2 of the 3 test patients"):
        run(job)
    opened = open_teacher(job.teachers[0], job.data, PATIENTS)
    check_leakage(opened, "lits", leaking)  # other patients of the same ids


def test_a_teacher_of_other_classes_or_images_is_refused(make_job, teacher, tmp_path):
    model = Segmenter.load(teacher)
    for name, change, message in (
        ("classes", {"labels": Labels(model.labels.raw, model.labels.regions, ("kidney", "cyst"))}, "cyst"),
        ("images", {"preprocess": model.preprocess.model_copy(update={"window_hu": (-900.0, 300.0)})}, "window_hu to"),
    ):
        parts = {field: getattr(model, field) for field in model.__dataclass_fields__} | change
        with pytest.raises(InputError, match=message):
            run(make_job(name, method="kd", teacher=Segmenter(**parts).save(tmp_path / f"model-{name}")))


@pytest.mark.parametrize("method", ["at", "kd", "hlfd"])
def test_a_method_that_needs_a_teacher_says_so(method, make_job):
    with pytest.raises(InputError, match=f"method '{method}' needs a teacher"):
        run(make_job(method=method))


def test_a_folder_that_is_no_teacher_is_named(make_job, tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}/nothing: no such folder"):
        run(make_job(method="kd", teacher=tmp_path / "nothing"))


# The log.


def test_the_log_drops_what_will_be_computed_again(tmp_path):
    path = tmp_path / "metrics.csv"
    first = CsvLog(path)
    for step in (-2, 8, 9, 10):
        first.log_metrics({"loss/seg": step / 3, "epoch": 1}, step)
    assert rows(tmp_path)[1:] == [(str(s), "loss/seg", f"{s / 3:.6g}") for s in (-2, 8, 9, 10)]
    CsvLog(path, before_step=9)
    assert [row[0] for row in rows(tmp_path)[1:]] == ["-2", "8"]
    CsvLog(path)
    assert rows(tmp_path) == [("step", "name", "value")]
    assert read_curves(tmp_path / "none.csv") == {}


# The first losses of a fixed student, teacher and image: a change of any formula, weight or network shows here.

GOLDEN = {
    "seg": [0.84692, 0.76757, 0.70857, 0.67997, 0.65755],
    "flfd": [1.76254, 1.60827, 1.47108, 1.40899, 1.23856],
    "plfd": [0.47999, 0.46784, 0.45133, 0.43958, 0.41914],
    "head": [0.60003, 0.58723, 0.58094, 0.57708, 0.57377],
}


def fixed_weights(network: nn.Module) -> None:
    """Weights that no random generator decides."""
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim > 1:
                i = torch.arange(p.numel(), dtype=torch.float64)
                p.copy_((torch.sin(12.9898 * i + p.numel()) * 2 / p[0].numel() ** 0.5).reshape(p.shape))


def disc() -> tuple[torch.Tensor, torch.Tensor]:
    """Two slices: a disc with a smaller one in it, over faint stripes."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    target = torch.stack([((y - m).hypot(x - 15) < 9).long() + ((y - m).hypot(x - 17) < 4) for m in (13, 17)])
    return (0.5 * target - 0.6 + 0.1 * torch.sin(y + 2 * x))[:, None], target


def test_golden_loss_curve():
    student, teacher = [build_network("unet", {"width": width}, 3) for width in (2, 4)]
    distiller = Distiller(plugins.load("methods", "hlfd", student.info(), teacher.info(), classes=3))
    for network in (student, teacher, distiller):
        fixed_weights(network)
    image, target = disc()
    teacher.train()(image)
    frozen = FrozenTeacher(teacher)
    optimizer = torch.optim.Adam([*student.train().parameters(), *distiller.parameters()], lr=1e-2)
    curves = {name: [] for name in ("seg", "flfd", "plfd", "head")}
    for _ in range(5):
        features = student(image)
        losses = {"seg": SegmentationLoss()(features["logits"], target)}
        losses |= distiller(features, frozen(image), target)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        for name, curve in curves.items():
            curve.append(sum(float(v.detach()) for key, v in losses.items() if key.startswith(name)))
    for name, expected in GOLDEN.items():
        assert curves[name] == pytest.approx(expected, rel=5e-2), name


def test_a_student_remembers_what_its_teacher_learned_from(make_job, teacher):
    job = make_job(method="kd", teacher=teacher)
    student, taught = Segmenter.load(run(job)), Segmenter.load(teacher)
    own = patient_keys(job.data, (*job.split.train, *job.split.validation))
    assert student.learned_from == own | taught.learned_from
    elsewhere = make_job("lits", method="kd", teacher=teacher, data="lits")  # other patients than the teacher's
    assert Segmenter.load(run(elsewhere)).learned_from > taught.learned_from


def test_changed_voxels_are_another_run(make_job):
    job = make_job()
    run(job)
    case = next(iter(job.store.cases))
    changed = {**job.store.cases, case: replace(job.store.cases[case], sha256="other")}
    store = copy.copy(job.store)
    store.cases = changed
    with pytest.raises(InputError, match="holds a run with another cases"):
        run(replace(job, store=store))

"""On one process or several, measured or not: the same training."""

import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from hlfd.data.samples import EpochSampler, Share
from hlfd.distill.frozen import FrozenTeacher
from hlfd.errors import InputError
from hlfd.machine import Machine, first_process, keep_freed_memory, peak_mib, program_start, require_started
from hlfd.segmenter import Segmenter
from hlfd.training import module as modules
from hlfd.training.loaders import Loaders
from hlfd.training.logs import read_curves
from hlfd.training.module import rank_seed
from hlfd.training.run import run
from hlfd.training.setup import Setup

HLFD = [sys.executable, "-m", "hlfd"]
INSTANCE = {"name": "unet", "width": 2, "norm": "instance"}  # PyTorch synchronises batch norm on GPUs only


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """Seven small patients, and a recipe on them whose student has no batch norm."""
    root = tmp_path_factory.mktemp("several")
    affine = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    for patient in range(7):
        random, folder = np.random.default_rng(patient), root / "data" / f"case_{patient:05}"
        k, rows, columns = np.indices((5 + patient % 2, 32, 32))
        distance = np.hypot(rows - random.integers(12, 20), columns - random.integers(12, 20))
        label = ((distance < 9) & (k > 0)).astype(np.uint8)
        label[(distance < 4) & (k > 1)] = 2
        image = np.array([-100, 80, 200])[label] + random.normal(0, 40, label.shape)
        folder.mkdir(parents=True)
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / "imaging.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), folder / "segmentation.nii.gz")
    training = {"epochs": 2, "samples_per_epoch": 40, "head_steps": 20, "lr": 1e-4, "diagnose_every": 2}
    section = {
        "name": "several",
        "output": str(root / "one"),
        "source": {"name": "kits", "root": str(root / "data")},
        "split": {"validation": 2, "test": 1, "labelled": 2},
        "preprocess": {"window_hu": [-200, 300]},
        "teacher": {**INSTANCE, "width": 3},
        "student": INSTANCE,
        "methods": [{"name": "hlfd"}],
        "teacher_training": {**training, "batch_size": 4},
        "student_training": {**training, "batch_size": 4, "unlabelled_share": 0.5},
    }
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump(section))
    return path


def command(*arguments: str | Path, launcher: list[str] | None = None) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        environment.pop(name, None)
    done = subprocess.run(
        [*(launcher or HLFD), *map(str, arguments)],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,  # processes that wait for each other
    )
    assert done.returncode == 0, done.stderr[-2000:]


def curve(folder: Path, name: str) -> list[float]:
    return [value for _, value in read_curves(folder / "metrics.csv")[name]]


def hashes(*folders: Path) -> dict[str, str]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.timeout(600)
def test_two_processes_are_one_with_twice_the_batch(recipe, hlfd):
    root = recipe.parent
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hlfd"]
    for name in ("train", "distill"):
        assert hlfd(name, recipe).code == 0
    shutil.copytree(root / "one" / "teacher", root / "two" / "teacher")
    halves = [f"output={root / 'two'}", "student_training.batch_size=2"]
    command("distill", recipe, *halves, "--devices", "2", launcher=torchrun)  # all from the start together
    files = [next((root / where / "cache").glob("heads-*.safetensors")) for where in ("one", "two")]
    for name, head in load_file(files[0]).items():
        torch.testing.assert_close(load_file(files[1])[name], head, rtol=1e-2, atol=1e-3)
    one, two = root / "one" / "student-hlfd", root / "two" / "student-hlfd"
    for name in ("val/dice", "val/dice_tumor"):  # a pixel more or less
        assert curve(two, name) == pytest.approx(curve(one, name), abs=1e-2), name
    assert len(curve(two, "val/dice")) == 2
    facts = [Segmenter.load(folder / "model").facts for folder in (one, two)]
    assert facts[0]["steps"] == facts[1]["steps"] == 20
    seed = yaml.safe_load(recipe.read_text()).get("seed", 0)
    assert facts[1]["rank_seeds"] == [rank_seed(seed, 0, rank, 2) for rank in (0, 1)]
    weights = [Segmenter.load(folder / "model").network.state_dict() for folder in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=5e-2, atol=5e-3)
    for name in ("loss/total", "loss/seg"):
        assert curve(two, name) == pytest.approx(curve(one, name), rel=2e-3, abs=1e-4), name
    terms = [name for name in read_curves(one / "metrics.csv") if name.startswith("loss/")]
    assert len(terms) > 5
    for name in terms:
        assert curve(two, name) == pytest.approx(curve(one, name), rel=5e-3, abs=2e-4), name
    assert len(list((root / "two" / "cache").glob("*.sqlite"))) == 1  # both wrote into it
    assert not list((root / "two").rglob("*.tmp*"))

    assert hlfd("cache", recipe, *halves).code == 0
    shared = root / "two" / "store", root / "two" / "cache"
    before = hashes(*shared)
    again = [*halves, "methods=[{name: hlfd, as: again}]"]
    again += ["--method", "again", "--cache", "require"]
    command("distill", recipe, *again, "--devices", "2")  # the second joins when the first begins to train
    assert hashes(*shared) == before  # both only read
    for name in terms:
        assert curve(root / "two" / "student-again", name) == pytest.approx(curve(two, name), rel=1e-6, abs=1e-9), name


def test_a_start_leaves_the_garbage_collector_as_it_was():
    before = gc.get_freeze_count()
    try:
        with program_start():
            assert not gc.isenabled()
        assert gc.isenabled() and gc.get_freeze_count() > before
    finally:
        gc.unfreeze()


def test_a_seed_for_each_process_and_step():
    seeds = {rank_seed(3, step, rank, 2) for step in range(50) for rank in range(2)}
    assert len(seeds) == 100
    assert rank_seed(3, 7, 0, 1) == 3 * 1_000_003 + 7


STARTED = {"torchrun": {"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "srun": {"SLURM_STEP_NUM_TASKS": "2"}}


@pytest.mark.parametrize("launcher", STARTED)
def test_as_many_processes_as_were_started(launcher, make_job, monkeypatch):
    """Two that each believe to be alone would write the same files."""
    for name, value in STARTED[launcher].items():
        monkeypatch.setenv(name, value)
    require_started(Machine(devices=2))
    job = make_job("alone")
    with pytest.raises(
        InputError, match="--devices 1, --num-nodes 1: expected 1 processes, the launcher has started 2"
    ):
        run(job)
    assert not job.folder.exists()
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # a shell that srun opened
    if launcher == "srun":
        require_started(Machine(devices=4))


def test_other_machines_have_to_be_started():
    with pytest.raises(InputError, match="--num-nodes 3: expected to be started on every machine, by torchrun or srun"):
        require_started(Machine(nodes=3))


def test_more_gpus_than_there_are(make_job, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="--devices 3: expected as many GPUs, PyTorch sees 2"):
        run(replace(make_job(), machine=Machine(devices=3)))


def test_a_run_goes_on_with_as_many_processes(make_job):
    job = make_job(epochs=1)
    run(job)
    with pytest.raises(InputError, match=r"another processes; .*expected 1, got 2"):
        run(replace(job, machine=Machine(devices=2)))


def test_a_validation_sample_for_each_process(make_job, monkeypatch):
    setup = Setup(make_job())
    setup.build()
    monkeypatch.setattr(Loaders, "_ranks", 100)
    with pytest.raises(InputError, match="expected a validation sample for each of 100 processes, got"):
        setup.loaders.val_dataloader()


def test_bf16_where_the_processor_has_none_is_said(make_job, teacher, monkeypatch, capfd):
    job = make_job(method="kd", teacher=teacher, kept="never", teacher_precision="bf16")
    for has in (True, False):
        monkeypatch.setattr("hlfd.training.setup.computes_bf16", lambda has=has: has)
        Setup(job).build()
        assert ("no instructions for it" in " ".join(capfd.readouterr().err.split())) is not has


def test_too_many_processes_for_an_epoch(make_job):
    setup = Setup(make_job(samples_per_epoch=3))
    setup.build()
    with pytest.raises(InputError, match="a sample an epoch for each of 4 processes, got 3"):
        setup.loaders.train_dataloader(0, 4)


def test_the_shares_of_an_epoch_and_of_the_validation(make_job):
    setup = Setup(make_job(samples_per_epoch=15, batch_size=2))
    setup.build()
    whole = [int(p) for batch in setup.loaders.train_dataloader(0, 1) for p in batch[2]]
    shares = [[int(p) for batch in setup.loaders.train_dataloader(rank, 2) for p in batch[2]] for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == 6
    assert [p for pair in zip(*shares, strict=True) for p in pair] == whole[:12]
    slices = range(9)
    assert sorted(p for rank in range(4) for p in Share(slices, rank, 4, even=False)) == [*slices]  # each once
    assert [len(Share(slices, rank, 4, even=False)) for rank in range(4)] == [3, 2, 2, 2]


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_process_has_its_part_without_labels(ranks):
    labelled, batch = np.arange(40) % 4 > 0, 6
    options = {"samples": 72, "rare_share": None, "seed": 1, "labelled": labelled, "unlabelled_share": 0.5}
    order = EpochSampler(np.zeros(40, bool), **options, batch=batch * ranks)
    for rank in range(ranks):
        share = np.array(list(Share(order, rank, ranks)))
        assert ((~labelled[share]).reshape(-1, batch).sum(1) == batch / 2).all()


class Strategy:
    """Two processes: this one, and one that has read ``other``."""

    def __init__(self, other: torch.Tensor):
        self.other = other

    def reduce(self, own: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "sum" and own.shape == self.other.shape
        return own + self.other


def test_readings_are_exchanged_whatever_a_process_has(make_job, monkeypatch):
    module = Setup(make_job()).build()
    module.ranks = 2
    other = torch.tensor([[3.0, 1], [5.0, 1], [0, 0]])
    monkeypatch.setattr(modules.TrainingModule, "trainer", SimpleNamespace(strategy=Strategy(other)))
    assert module._mean_of_ranks({"a": 1.0}, ["a", "b", "c"]) == {"a": 2.0, "b": 5.0}
    assert module._mean_of_ranks({}, ["a", "b", "c"]) == {"a": 3.0, "b": 5.0}  # nothing is labelled here


def test_readers_beside_the_training_change_nothing(make_job):
    alone = run(make_job("alone", epochs=1))
    job = replace(make_job("beside", epochs=1), machine=Machine(loader_workers=1, threads=1))
    beside = run(job)
    first, second = (Segmenter.load(model).network.state_dict() for model in (alone, beside))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_accumulated_batches_are_a_step(make_job, monkeypatch):
    drawn: list[torch.Tensor] = []
    original = modules.draw_orientations

    def draw(*arguments):
        drawn.append(original(*arguments))
        return drawn[-1]

    monkeypatch.setattr(modules, "draw_orientations", draw)
    model = run(make_job("accumulated", epochs=1, accumulate=3, batch_size=4))
    assert Segmenter.load(model).facts["steps"] == 3
    assert len({tuple(orientations.tolist()) for orientations in drawn}) > 5  # each batch has its own


def test_profile(make_job, teacher, capsys):
    job = make_job("measured", method="hlfd", teacher=teacher, kept="never", epochs=1)
    run(replace(job, machine=Machine(profile=True, threads=1)))
    found = json.loads((job.folder / "profile.json").read_text())
    parts = {row["part"]: row for row in found["parts"]}
    own = {"heads fitted", "export", "logging", "checkpoints", "loop"}
    shared = {"data", "student, forward", "teacher", "losses, forward", "backward", "optimiser", "validation"}
    assert own | shared <= set(parts)
    assert "cache, read and written" not in parts
    assert sum(row["seconds"] for row in parts.values()) == pytest.approx(found["seconds"], abs=0.02)
    assert sum(row["share"] for row in parts.values()) == pytest.approx(1, abs=0.01)
    assert all(row["seconds"] > 0 for row in parts.values())
    assert found["batches"] == 9
    assert "teacher" in capsys.readouterr().err


def test_a_compiled_teacher_teaches_the_same(make_job, teacher, monkeypatch):
    monkeypatch.setattr(FrozenTeacher, "compile", compile_plainly)
    plain, compiled = (make_job(name, method="kd", teacher=teacher, kept="never") for name in ("a", "b"))
    run(plain)
    run(replace(compiled, machine=Machine(compile=True)))
    losses = [taught(job.folder) for job in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def taught(folder: Path) -> list[float]:
    """What the one term of ``kd`` was."""
    (name,) = {n for n in read_curves(folder / "metrics.csv") if n.startswith("loss/")} - {"loss/seg", "loss/total"}
    return curve(folder, name)


def compile_plainly(teacher) -> None:
    teacher.compiled = True
    torch.nn.Module.compile(teacher, backend="aot_eager")  # Inductor needs a C++ compiler and a minute


def test_a_teacher_in_bf16_is_near_and_not_the_same(make_job, teacher):
    exact, near = (
        make_job(precision, method="kd", teacher=teacher, kept="never", teacher_precision=precision)
        for precision in ("same", "bf16")
    )
    run(exact)
    run(near)
    losses = [taught(job.folder)[0] for job in (exact, near)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


def test_only_the_first_process_speaks(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert first_process()
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert not first_process()


def test_the_peak_is_that_of_the_process_alone():
    """A large program that starts `hlfd` has no part in what its report says."""
    large = np.ones(2**26)  # 512 MiB
    code = [sys.executable, "-c", "from hlfd.machine import peak_mib; print(peak_mib())"]
    child = float(subprocess.run(code, capture_output=True, text=True, check=True).stdout)
    assert 5 < child < 256 < large.nbytes / 2**20 < peak_mib()


def test_memory_is_kept_where_the_c_library_can():
    assert keep_freed_memory() == (sys.platform.startswith("linux") and os.confstr("CS_GNU_LIBC_VERSION") is not None)

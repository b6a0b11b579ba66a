"""A disk that is too full is said before the first step, and one that fills leaves nothing half-written."""

import errno
import shutil
import sqlite3
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from hlfd import recipe
from hlfd.data.rows import RowStore
from hlfd.errors import InputError
from hlfd.segmenter import build_network
from hlfd.study import collect, engine, room
from hlfd.study.cells import plan

SMALL = {"epochs": 1, "samples_per_epoch": 8, "batch_size": 4, "head_steps": 2}
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def chosen(make_kits, tmp_path_factory) -> recipe.Recipe:
    folder = tmp_path_factory.mktemp("room")
    values = {
        "name": "small",
        "output": str(folder / "run"),
        "source": {"name": "kits", "root": str(make_kits(folder / "kits", 6, shape=(4, 32, 32))), "task": "both"},
        "split": {"validation": 1, "test": 2},
        "teacher": {"name": "unet", "width": 3},
        "student": {"name": "unet", "width": 2},
        "teacher_training": SMALL,
        "student_training": SMALL,
        "methods": [{"name": "seg"}, {"name": "kd"}],
    }
    return recipe.from_values(values, "test")


@pytest.fixture
def free(monkeypatch):
    """``free(bytes)``: the disk has that much left."""
    return lambda size: monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(2**40, 2**40 - size, size))


def parameters(name: str, width: int) -> int:
    return sum(p.numel() for p in build_network(name, {"width": width}, 3).parameters())


def test_a_full_disk_is_said_before_anything_is_written(chosen, free):
    free(10 * 2**20)
    with pytest.raises(InputError, match=r"run: about \d+ MiB are to be written .* 10 MiB are free: make room"):
        engine.ready(chosen, workers=1)
    assert not (chosen.folder / "store").exists()
    assert not (chosen.folder / "study.json").exists()


def test_what_it_expects_is_what_is_written(chosen, free, monkeypatch, capfd):
    """Checkpoints of three networks to a fifth, the teacher's answers to a factor of three."""
    monkeypatch.setattr(collect, "peak_mib", lambda models, _plane: dict.fromkeys(models, 1.0))
    monkeypatch.setattr(room, "RESULTS", 0)
    workspace = engine.ready(chosen, workers=1)
    said = capfd.readouterr().err
    assert "disk: about" in said and "teacher cache" in said
    expected = room._runs(workspace, plan(chosen)), room._cache(workspace, plan(chosen))
    assert expected[0] > 28 * (parameters("unet", 3) + 2 * parameters("unet", 2))
    engine.run(chosen, workers=1)
    written = [f for f in chosen.folder.rglob("*") if f.is_file() and f.suffix in (".ckpt", ".safetensors")]
    runs = sum(f.stat().st_size for f in written if "cache" not in f.parts)
    assert 0.8 * expected[0] < runs < 1.1 * expected[0]
    (rows,) = (chosen.folder / "cache").glob("*.sqlite")
    kept = sqlite3.connect(rows).execute("select avg(length(bytes)) from rows").fetchone()[0]
    slices = 3 * 4 * 8
    assert expected[1] / 3 < kept * slices < 3 * expected[1]
    capfd.readouterr()
    free(0)
    engine.run(chosen, workers=1)  # there is nothing left to do
    assert "disk:" not in capfd.readouterr().err


def test_rows_that_find_no_room_are_the_systems_error(tmp_path: Path):
    rows = RowStore(tmp_path / "rows.sqlite", {"teacher": "t"})
    rows.write(["a"], {"key": np.zeros((1, 4), np.float32)}, {"key": "half"})
    pages = rows._db.execute("pragma page_count").fetchone()[0]
    rows._db.execute(f"pragma max_page_count = {pages}")
    noise = np.random.default_rng(0).normal(size=(64, 4096)).astype(np.float32)
    with pytest.raises(OSError, match="full") as caught:
        rows.write([str(i) for i in range(64)], {"key2": noise}, {"key2": "half"})
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "rows.sqlite"))
    assert list(rows.read("key", ["a", "b"])) == ["a"]
    assert rows.read("key2", ["0"]) == {}
    rows.close()

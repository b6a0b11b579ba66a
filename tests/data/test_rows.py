"""Rows come back as they went in, to the precision of their code, and only whole."""

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlfd.data import rows
from hlfd.data.rows import RowStore, decode, encode
from hlfd.errors import InputError


def probabilities(seed: int, classes: int, *shape: int) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(0, 3, (classes, *shape))
    e = np.exp(scores)
    return (e / e.sum(0)).astype(np.float32)


shapes = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


@given(st.integers(0, 99), shapes)
def test_half(seed, shape):
    row = np.random.default_rng(seed).normal(0, 10, shape).astype(np.float32)
    np.testing.assert_array_equal(decode(encode(row, "half"), "half", shape), row.astype(np.float16).astype(np.float32))


@given(st.integers(0, 99), st.integers(2, 4), shapes)
def test_probabilities_come_back_within_half_a_step(seed, classes, shape):
    p = probabilities(seed, classes, *shape)
    logs = decode(encode(np.log(p), "log_probabilities"), "log_probabilities", p.shape)
    assert logs.dtype == np.float32
    np.testing.assert_allclose(np.exp(logs)[1:], p[1:], atol=0.51 / 2**14)
    np.testing.assert_allclose(np.exp(logs).sum(0), 1, atol=1e-5)
    row = np.concatenate([p, np.full((1, *shape), -0.37, np.float32)])
    back = decode(encode(row, "gathered"), "gathered", row.shape)
    np.testing.assert_allclose(back[1:-1], p[1:], atol=0.51 / 2**14)
    np.testing.assert_allclose(back[-1], row[-1], atol=1e-3)  # moved with the rounded probabilities
    assert np.ptp(back[-1]) == 0


def test_a_sure_answer_stays_sure_and_finite():
    p = np.zeros((3, 4, 4), np.float32)
    p[2] = 1
    logs = decode(encode(np.log(np.maximum(p, 1e-30)), "log_probabilities"), "log_probabilities", p.shape)
    assert np.isfinite(logs).all()
    np.testing.assert_allclose(np.exp(logs), p, atol=1e-6)


def test_smooth_answers_are_small():
    y, x = (np.mgrid[:128, :128] + 1) / 129
    p = np.stack([1 - x * y / 2, x * y / 2]).astype(np.float32)
    assert len(encode(np.log(p), "log_probabilities")) < 128 * 128 / 4


def test_rows_are_found_by_key_and_address(tmp_path: Path):
    store = RowStore(tmp_path / "a" / "rows.sqlite", {"teacher": "x"})
    rows = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    store.write(["a", "b"], {"map": rows[:2]}, {"map": "half"})
    store.write(["b", "c"], {"map": rows[1:3] + 100}, {"map": "half"})  # b is there already
    store.write(["a"], {"other": rows[3:]}, {"other": "half"})
    assert store.read("none", ["a"]) == {}
    found = store.read("map", ["c", "a", "b", "d"])
    assert set(found) == {"a", "b", "c"}
    np.testing.assert_array_equal(found["b"], rows[1])
    np.testing.assert_array_equal(found["c"], rows[2] + 100)
    assert store.missing(["map", "other"], ["a", "b", "d"]) == ["b", "d"]
    assert store.missing(["map"], ["c", "a"]) == []
    store.close()
    again = RowStore(tmp_path / "a" / "rows.sqlite", {"teacher": "x"})
    np.testing.assert_array_equal(again.read("other", ["a"])["a"], rows[3])


def test_rows_of_another_teacher_are_refused(tmp_path: Path):
    RowStore(tmp_path / "rows.sqlite", {"teacher": "x"}).close()
    with pytest.raises(InputError, match=r"rows\.sqlite: made from another teacher; remove it"):
        RowStore(tmp_path / "rows.sqlite", {"teacher": "y"})


def test_something_else_is_refused(tmp_path: Path):
    (tmp_path / "rows.sqlite").write_bytes(b"not a database at all" * 99)
    with pytest.raises(InputError, match=r"rows\.sqlite: not a store of rows, or damaged"):
        RowStore(tmp_path / "rows.sqlite", {})


def test_a_killed_write_leaves_no_part(tmp_path: Path):
    store = RowStore(tmp_path / "rows.sqlite", {})
    store.write(["a"], {"map": np.ones((1, 4), np.float32)}, {"map": "half"})
    with pytest.raises(ValueError, match="shorter"):  # the third row can't be encoded: none of the three is there
        store.write(["b", "c", "d"], {"map": np.ones((2, 4), np.float32)}, {"map": "half"})
    assert store.missing(["map"], ["a", "b", "c"]) == ["b", "c"]
    reader = sqlite3.connect(tmp_path / "rows.sqlite")  # another process reads while this one holds the file
    assert reader.execute("select count(*) from rows").fetchone() == (1,)
    reader.close()


def test_a_locked_file_is_not_called_damaged(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(rows, "PATIENCE_S", 0.05)
    store = RowStore(tmp_path / "rows.sqlite", {})
    other = sqlite3.connect(tmp_path / "rows.sqlite")
    other.execute("begin exclusive")
    with pytest.raises(InputError, match=r"rows\.sqlite: locked by another process for 0\.05 s; wait for it"):
        store.write(["a"], {"map": np.ones((1, 4), np.float32)}, {"map": "half"})
    with pytest.raises(InputError, match="locked by another process"):
        RowStore(tmp_path / "rows.sqlite", {})
    other.close()
    store.write(["a"], {"map": np.ones((1, 4), np.float32)}, {"map": "half"})


def test_a_file_that_cannot_be_written_is_read(tmp_path: Path, monkeypatch):
    path = tmp_path / "rows.sqlite"
    store = RowStore(path, {"teacher": "x"})
    store.write(["a"], {"map": np.ones((1, 4), np.float32)}, {"map": "half"})
    store.close()
    monkeypatch.setattr(os, "access", lambda *_: False)
    store = RowStore(path, {"teacher": "x"})
    assert not store.writable
    assert set(store.read("map", ["a", "b"])) == {"a"}
    with pytest.raises(OSError, match=r"readonly database.*rows\.sqlite"):
        store.write(["b"], {"map": np.ones((1, 4), np.float32)}, {"map": "half"})
    with pytest.raises(OSError, match="unable to open"):
        RowStore(tmp_path / "none.sqlite", {})

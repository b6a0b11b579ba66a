"""Rows of numbers kept on disk by address: what a teacher knows of a slice, compressed, in one SQLite file."""

import errno
import os
import sqlite3
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import blosc2
import numpy as np

from hlfd.errors import InputError

Code = Literal["half", "log_probabilities", "gathered"]
"""How numbers become bytes.

``half``: float16. ``log_probabilities``: K x spatial, kept as probabilities in steps of 2^-14, without the first class,
which is the rest. ``gathered``: K probabilities likewise, and a last channel that is constant: the mean of sum t log t.
It is moved as rounding moves t, so that t stays at no distance from itself.
"""

ENCODING = "2"
"""Version of how rows become bytes."""

PATIENCE_S = 60
"""How long another process may keep the file to itself."""

_STEPS = 2**14  # with the step from one to its neighbour the most that 16 bits hold
_OF_THE_SYSTEM = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
}


class RowStore:
    """Arrays by (key, address), written once, never changed. Any number of processes may read and write.

    A row is whole or not there: SQLite's journal sees to it, also when the process is killed. It is the one that needs
    no memory shared between processes, so that machines can share a folder whose file system has locks. A file that
    can't be written is read.

    Args:
        path: the file; made if it doesn't exist.
        meta: what the rows were made from; another file's is refused.

    Raises:
        InputError: a file of something else, or damaged, or locked.
        OSError: it can't be made or read.
    """

    def __init__(self, path: Path, meta: Mapping[str, str]):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.writable = os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
        mode = "rwc" if self.writable else "ro"
        with self._told():
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=PATIENCE_S)
            if not self._db.execute("select 1 from sqlite_master where name = 'place'").fetchone():
                self._make(meta)
            found = dict(self._db.execute("select name, value from meta"))
        for name, value in meta.items():
            if found.get(name) != value:
                self.close()
                raise InputError(f"{path}: made from another {name}; remove it, or choose another folder")
        self._keys: dict[str, tuple[int, Code, tuple[int, ...]]] = {}

    def _make(self, meta: Mapping[str, str]) -> None:
        with self._db:
            self._db.execute("begin immediate")
            self._db.execute("create table if not exists meta (name text primary key, value text)")
            self._db.execute(
                "create table if not exists keys (id integer primary key, key text unique, code text, shape text)"
            )
            self._db.execute("create table if not exists rows (key integer, address text, bytes blob)")
            self._db.execute("create unique index if not exists place on rows (key, address)")
            self._db.executemany("insert or ignore into meta values (?, ?)", list(meta.items()))

    @contextmanager
    def _told(self) -> Generator[None]:
        """SQLite's errors in our words, or as the system's own."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code in _OF_THE_SYSTEM:
                raise OSError(_OF_THE_SYSTEM[code], str(error), str(self.path)) from None
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise InputError(
                    f"{self.path}: locked by another process for {PATIENCE_S} s; wait for it, or end it"
                ) from None
            raise InputError(f"{self.path}: not a store of rows, or damaged ({error}); remove it") from None

    def close(self) -> None:
        """Give the file back."""
        self._db.close()

    def _key(self, key: str) -> tuple[int, Code, tuple[int, ...]] | None:
        if key not in self._keys:
            row = self._db.execute("select id, code, shape from keys where key = ?", (key,)).fetchone()
            if row is None:
                return None
            self._keys[key] = row[0], row[1], tuple(int(n) for n in row[2].split())
        return self._keys[key]

    def write(self, addresses: Sequence[str], rows: Mapping[str, np.ndarray], codes: Mapping[str, Code]) -> None:
        """Keep the rows of each key (N x ..., float32), one an address, all or none; those already there stay.

        Raises:
            OSError: the disk is full, or can't be written.
            InputError: the file is damaged, or locked.
        """
        packed = {key: [encode(row, codes[key]) for row in values] for key, values in rows.items()}
        try:
            with self._told(), self._db:
                self._db.execute("begin immediate")
                for key, values in rows.items():
                    shape = " ".join(map(str, values.shape[1:]))
                    entry = (key, codes[key], shape)
                    self._db.execute("insert or ignore into keys (key, code, shape) values (?, ?, ?)", entry)
                    known = self._key(key)
                    if known is None or known[1:] != (codes[key], values.shape[1:]):
                        raise InputError(
                            f"{self.path}: expected '{key}' as {entry[1:]}, it is {known}; delete the file"
                        )
                    placed = [(known[0], *row) for row in zip(addresses, packed[key], strict=True)]
                    self._db.executemany("insert or ignore into rows values (?, ?, ?)", placed)
        except BaseException:
            self._keys.clear()  # entries made here are taken back too
            raise

    def read(self, key: str, addresses: Sequence[str]) -> dict[str, np.ndarray]:
        """Address -> row, float32, for those that are there."""
        marks = ",".join("?" * len(addresses))
        with self._told():
            known = self._key(key)
            if known is None:
                return {}
            found = self._db.execute(
                f"select address, bytes from rows where key = ? and address in ({marks})", (known[0], *addresses)
            ).fetchall()
        return {address: decode(data, known[1], known[2]) for address, data in found}

    def missing(self, keys: Iterable[str], addresses: Iterable[str]) -> list[str]:
        """The addresses that lack the row of any key, in their order."""
        lacking: set[str] = set()
        addresses = list(addresses)
        for key in keys:
            there: set[Any] = set()
            with self._told():
                if known := self._key(key):
                    there = {row[0] for row in self._db.execute("select address from rows where key = ?", (known[0],))}
            lacking |= set(addresses) - there
        return [address for address in addresses if address in lacking]


_LARGEST = float(np.finfo(np.float16).max)


def encode(row: np.ndarray, code: Code) -> bytes:
    """A row (float32) as bytes. See `Code`. Raises `InputError` for what can't be kept."""
    if not (np.abs(row) <= _LARGEST).all():
        raise InputError(f"a teacher's answer holds NaN, infinity or values above {_LARGEST:g}, which can't be kept")
    if code == "half":
        return _pack(row.astype(np.float16).view(np.uint16))
    shares, constant = row, np.zeros(0, np.float32)
    if code == "log_probabilities":
        shares = np.exp(row)
    else:
        shares, constant = row[:-1], row[-1].ravel()[:1]
    steps = np.rint(shares[1:] * _STEPS).astype(np.int16)
    if code == "gathered":
        moved = _shares(steps) - shares
        constant = constant + (moved * np.log(np.maximum(shares, 1e-12))).sum(0).mean()
    apart = np.diff(steps, axis=-1, prepend=np.int16(0))  # neighbours are alike
    return constant.astype(np.float32).tobytes() + _pack(((apart << 1) ^ (apart >> 15)).astype(np.uint16))


def decode(data: bytes, code: Code, shape: tuple[int, ...]) -> np.ndarray:
    """What `encode` wrote, float32, of that shape."""
    if code == "half":
        return _unpack(data, shape).view(np.float16).astype(np.float32)
    classes = shape[0] - (code == "gathered")
    head = 4 if code == "gathered" else 0
    folded = _unpack(data[head:], (classes - 1, *shape[1:]))
    apart = (folded >> 1).astype(np.int16) ^ -(folded & 1).astype(np.int16)
    shares = _shares(np.cumsum(apart, axis=-1, dtype=np.int16))
    if code == "gathered":
        constant = np.frombuffer(data[:head], np.float32)
        return np.concatenate([shares, np.broadcast_to(constant.reshape(-1, *[1] * (len(shape) - 1)), (1, *shape[1:]))])
    return np.log(np.maximum(shares, 1e-9) / np.maximum(shares, 1e-9).sum(0, keepdims=True))


def _shares(steps: np.ndarray) -> np.ndarray:
    """Probabilities of all classes from the steps of all but the first."""
    shares = steps.astype(np.float32) / _STEPS
    return np.concatenate([np.maximum(1 - shares.sum(0, keepdims=True), 0), shares])


_ONE_THREAD: Any = {"nthreads": 1}  # starting more takes longer than a row
_CODEC: Any = {"filters": [blosc2.Filter.BITSHUFFLE], "codec": blosc2.Codec.ZSTD, "clevel": 5, "nthreads": 1}


def _pack(values: np.ndarray) -> bytes:
    packed: Any = blosc2.compress2(np.ascontiguousarray(values), typesize=2, **_CODEC)  # pyright: ignore[reportArgumentType]
    return bytes(packed)


def _unpack(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    raw: Any = blosc2.decompress2(data, **_ONE_THREAD)
    return np.frombuffer(raw, np.uint16).reshape(shape)

"""Rows of numbers kept on disk by address: what a teacher knows of a slice, compressed, in one SQLite file."""

import errno
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import blosc2
import numpy as np

from hlfd.errors import InputError

Code = Literal["half", "log_probabilities", "gathered"]
"""How numbers become bytes.

``half``: float16. ``log_probabilities``: K x spatial, kept as probabilities in steps of 2^-11, a float16's near 1,
without the first class, which is the rest. ``gathered``: K probabilities likewise, and a last channel that is constant.
"""

_STEPS = 2**11


class RowStore:
    """Arrays by (key, address), written once, never changed. Any number of processes may read while one writes.

    A row is whole or not there: SQLite's write-ahead log sees to it, also when the process is killed.

    Args:
        path: the file; made if it doesn't exist.
        meta: what the rows were made from; another file's is refused.

    Raises:
        InputError: a file of something else, or damaged.
    """

    def __init__(self, path: Path, meta: Mapping[str, str]):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=60)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = normal")
            with self._db:
                self._db.execute("create table if not exists meta (name text primary key, value text)")
                self._db.execute(
                    "create table if not exists keys (id integer primary key, key text unique, code text, shape text)"
                )
                self._db.execute("create table if not exists rows (key integer, address text, bytes blob)")
                self._db.execute("create unique index if not exists place on rows (key, address)")
                self._db.executemany("insert or ignore into meta values (?, ?)", list(meta.items()))
            found = dict(self._db.execute("select name, value from meta"))
        except sqlite3.DatabaseError as error:
            _tell_of_the_disk(error, path)
            raise InputError(f"{path}: not a store of rows, or damaged ({error}); remove it") from None
        for name, value in meta.items():
            if found.get(name) != value:
                raise InputError(f"{path}: made from another {name}; remove it, or choose another folder")
        self._keys: dict[str, tuple[int, Code, tuple[int, ...]]] = {}

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

    def write(self, key: str, code: Code, addresses: Sequence[str], rows: np.ndarray) -> None:
        """Keep ``rows`` (N x ..., float32), one an address; those already there stay.

        Raises:
            OSError: the disk is full; nothing of these rows is kept.
        """
        try:
            self._write(key, code, addresses, rows)
        except sqlite3.OperationalError as error:
            self._keys.pop(key, None)  # its entry is taken back too
            _tell_of_the_disk(error, self.path)
            raise

    def _write(self, key: str, code: Code, addresses: Sequence[str], rows: np.ndarray) -> None:
        with self._db:
            shape = " ".join(map(str, rows.shape[1:]))
            self._db.execute("insert or ignore into keys (key, code, shape) values (?, ?, ?)", (key, code, shape))
            known = self._key(key)
            assert known is not None and known[1:] == (code, rows.shape[1:]), f"{key}: {known}, {code}, {rows.shape}"
            packed = [(known[0], address, encode(row, code)) for address, row in zip(addresses, rows, strict=True)]
            self._db.executemany("insert or ignore into rows values (?, ?, ?)", packed)

    def read(self, key: str, addresses: Sequence[str]) -> dict[str, np.ndarray]:
        """Address -> row, float32, for those that are there."""
        known = self._key(key)
        if known is None:
            return {}
        marks = ",".join("?" * len(addresses))
        found = self._db.execute(
            f"select address, bytes from rows where key = ? and address in ({marks})", (known[0], *addresses)
        )
        return {address: decode(data, known[1], known[2]) for address, data in found}

    def missing(self, keys: Iterable[str], addresses: Iterable[str]) -> list[str]:
        """The addresses that lack the row of any key, in their order."""
        lacking: set[str] = set()
        addresses = list(addresses)
        for key in keys:
            known = self._key(key)
            there: set[Any] = set()
            if known is not None:
                there = {row[0] for row in self._db.execute("select address from rows where key = ?", (known[0],))}
            lacking |= set(addresses) - there
        return [address for address in addresses if address in lacking]

    def bytes_per_row(self, key: str) -> float:
        """Mean size of the key's rows; 0 without any."""
        known = self._key(key)
        if known is None:
            return 0.0
        return self._db.execute("select avg(length(bytes)) from rows where key = ?", (known[0],)).fetchone()[0] or 0.0


def _tell_of_the_disk(error: sqlite3.Error, path: Path) -> None:
    """Raise what SQLite says of a full or broken disk as the system's own error."""
    code = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}.get(error.sqlite_errorcode & 0xFF)
    if code is not None:
        raise OSError(code, str(error), str(path)) from None


def encode(row: np.ndarray, code: Code) -> bytes:
    """A row (float32) as bytes. See `Code`."""
    if code == "half":
        return _pack(row.astype(np.float16).view(np.uint16))
    shares, constant = row, np.zeros(0, np.float32)
    if code == "log_probabilities":
        shares = np.exp(row)
    else:
        shares, constant = row[:-1], row[-1].ravel()[:1]
    steps = np.rint(shares[1:] * _STEPS).astype(np.int16)
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
    shares = np.cumsum(apart, axis=-1, dtype=np.int16).astype(np.float32) / _STEPS
    shares = np.concatenate([np.maximum(1 - shares.sum(0, keepdims=True), 0), shares])
    if code == "gathered":
        constant = np.frombuffer(data[:head], np.float32)
        return np.concatenate([shares, np.broadcast_to(constant.reshape(-1, *[1] * (len(shape) - 1)), (1, *shape[1:]))])
    return np.log(np.maximum(shares, 1e-9) / np.maximum(shares, 1e-9).sum(0, keepdims=True))


_ONE_THREAD: Any = {"nthreads": 1}  # starting more takes longer than a row
_CODEC: Any = {"filters": [blosc2.Filter.BITSHUFFLE], "codec": blosc2.Codec.ZSTD, "clevel": 5, "nthreads": 1}


def _pack(values: np.ndarray) -> bytes:
    packed: Any = blosc2.compress2(np.ascontiguousarray(values), typesize=2, **_CODEC)  # pyright: ignore[reportArgumentType]
    return bytes(packed)


def _unpack(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    raw: Any = blosc2.decompress2(data, **_ONE_THREAD)
    return np.frombuffer(raw, np.uint16).reshape(shape)

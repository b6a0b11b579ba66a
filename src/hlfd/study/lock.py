"""A lock on a cell of a study, for processes and machines that share a folder.

A file made with O_EXCL, which every network file system knows, rather than a lock of the kernel's, which some of them
keep to one machine. Whoever holds it touches it every `BEAT_S`. A lock is left behind, and taken over, when its holder
was a process of this machine that is gone, or has not been touched for `STALE_S`.
"""

import _thread
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from hlfd.progress import console

BEAT_S, STALE_S = 15.0, 300.0


@contextmanager
def claim(path: Path, *, beat_s: float = BEAT_S, stale_s: float = STALE_S) -> Generator[bool]:
    """Hold the lock at ``path`` for a block: True, or False at once where another process holds it.

    If the lock is lost meanwhile (this process was suspended for so long that another took over), the block is
    interrupted like by Ctrl-C, so that two never write the same files.
    """
    token = _acquire(path, stale_s)
    if token is None:
        yield False
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(beat_s):
            if _read(path) != token:
                if not ended.is_set():
                    console.print(f"{path}: another process has taken over; stopping here", highlight=False)
                    _thread.interrupt_main()
                return
            with suppress(OSError):
                os.utime(path)

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield True
    finally:
        ended.set()
        heart.join()
        if _read(path) == token:
            path.unlink(missing_ok=True)


@contextmanager
def hold(path: Path, poll_s: float = 1.0) -> Generator[None]:
    """Hold the lock at ``path`` for a block, however long others hold it before."""
    while True:
        with claim(path) as mine:
            if mine:
                yield
                return
        time.sleep(poll_s)


def _acquire(path: Path, stale_s: float) -> str | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    token = json.dumps({"machine": _machine(), "process": os.getpid(), "id": uuid.uuid4().hex})
    if _create(path, token):
        return token
    holder = _read(path)
    if holder is None:
        return token if _create(path, token) else None
    if not _left_behind(path, holder, stale_s):
        return None
    # Of those who see this same lock left behind, one may exchange it: who makes this file, and finds it unchanged.
    exchange = path.with_name(f"{path.name}.{uuid.uuid5(uuid.NAMESPACE_OID, holder).hex}")
    if exchange.exists() and _age(exchange) > stale_s:
        exchange.unlink(missing_ok=True)  # its maker was killed in the act
    if not _create(exchange, token):
        return None
    try:
        if _read(path) != holder:
            return None
        os.replace(exchange, path)
        return token
    finally:
        exchange.unlink(missing_ok=True)


def _create(path: Path, token: str) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    try:
        os.write(handle, token.encode())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    return True


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _left_behind(path: Path, holder: str, stale_s: float) -> bool:
    try:
        found = json.loads(holder)
        machine, process = found["machine"], int(found["process"])
    except (ValueError, KeyError, TypeError):  # its maker has not written it yet, or never will
        return _age(path) > stale_s
    if machine == _machine() and not _alive(process):
        return True
    return _age(path) > stale_s


def _age(path: Path) -> float:
    """Seconds since the file was touched, by the clock that stamps files there, whichever machine's it is."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".clock.") as probe:
            return os.stat(probe.name).st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _machine() -> str:
    """The machine, and where containers number their processes apart, the container."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()} {space}".strip()

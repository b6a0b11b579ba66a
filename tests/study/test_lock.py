"""Locks: one holder, left behind by the killed, taken over once."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hlfd.study import lock
from hlfd.study.lock import claim, hold


def test_one_holder(tmp_path: Path):
    path = tmp_path / "cells" / "a.lock"
    with claim(path) as first, claim(path) as second:
        assert (first, second) == (True, False)
    with claim(path) as again:
        assert again
    assert list(path.parent.iterdir()) == []


def test_an_error_gives_it_back(tmp_path: Path):
    with pytest.raises(OSError, match="full"), claim(tmp_path / "a"):
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []


def test_the_killed_leave_it_behind(tmp_path: Path):
    path = tmp_path / "a"
    program = (
        "import os; from pathlib import Path; from hlfd.study.lock import claim\n"
        f"with claim(Path({str(path)!r})): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert path.exists()
    with claim(path) as mine:
        assert mine


def of_another_machine(path: Path, age_s: float) -> None:
    path.write_text(json.dumps({"machine": "elsewhere", "process": os.getpid(), "id": "x"}))
    stamp = time.time() - age_s
    os.utime(path, (stamp, stamp))


def test_another_machine_is_judged_by_its_heartbeat(tmp_path: Path):
    of_another_machine(tmp_path / "a", 100)
    with claim(tmp_path / "a", stale_s=200) as mine:
        assert not mine
    with claim(tmp_path / "a", stale_s=50) as mine:
        assert mine
    assert list(tmp_path.iterdir()) == []


def test_a_torn_lock_is_judged_by_its_age(tmp_path: Path):
    (tmp_path / "a").write_text("{")
    with claim(tmp_path / "a") as mine:
        assert not mine
    os.utime(tmp_path / "a", (1, 1))
    with claim(tmp_path / "a") as mine:
        assert mine


def test_of_many_who_find_it_stale_one_takes_it(tmp_path: Path):
    for attempt in range(10):
        path = tmp_path / str(attempt)
        of_another_machine(path, 1000)
        held, gate = [], threading.Barrier(8)

        def take(path: Path = path, held: list = held, gate: threading.Barrier = gate) -> None:
            gate.wait()
            if token := lock._acquire(path, 50.0):
                held.append(token)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(held) == 1
        assert path.read_text() == held[0]


def test_the_holder_touches_it_and_stops_when_it_is_lost(tmp_path: Path):
    path = tmp_path / "a"

    def lose() -> None:
        with claim(path, beat_s=0.02):
            os.utime(path, (1, 1))
            while path.stat().st_mtime < 2:
                time.sleep(0.01)
            path.write_text("another's")
            for _ in range(500):
                time.sleep(0.01)  # an interrupt of the main thread waits for the end of a sleep

    with pytest.raises(KeyboardInterrupt):
        lose()
    assert path.read_text() == "another's"


def test_hold_waits(tmp_path: Path):
    path, order = tmp_path / "a", []

    def other() -> None:
        with claim(path):
            started.set()
            time.sleep(0.2)
            order.append("other")

    started = threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    started.wait()
    with hold(path, poll_s=0.02):
        order.append("this")
    thread.join()
    assert order == ["other", "this"]

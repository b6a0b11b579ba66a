"""Worker processes: none outlives its parent, however that ends."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import hlfd
from hlfd.processes import worker_pool

PROGRAM = """
import os, sys, time
from hlfd.processes import worker_pool


def work(_):
    print("working", flush=True)
    time.sleep(float(sys.argv[1]))


if __name__ == "__main__":
    with worker_pool(2) as pool:
        list(pool.map(work, range(2)))
        print("done", flush=True)
        time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize(("seconds", "until"), [(600, "working"), (0, "done")], ids=["at work", "idle"])
def test_workers_end_with_a_killed_parent(tmp_path: Path, seconds: int, until: str):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, program, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        lines = ["", ""]
        while lines[-1].strip() != until or lines[-2].strip() != "working":
            lines.append(process.stdout.readline())
            assert lines[-1]
        process.kill()
        process.communicate(timeout=30)  # to the pipe's end: nobody holds it any more
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_killed_worker_is_a_failure_with_a_reason():
    with (
        pytest.raises(OSError, match="a worker was killed, perhaps for lack of memory"),
        worker_pool(2) as pool,
    ):
        pool.submit(signal.raise_signal, signal.SIGKILL).result()


def test_all_workers_are_of_that_kind():
    package = Path(hlfd.__file__).parent
    made = [path.name for path in package.rglob("*.py") if "ProcessPoolExecutor(" in path.read_text()]
    assert made == ["processes.py"]

"""Files are written whole or not at all, and JSON holds no NaN."""

import errno
import json
import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hlfd.io import files
from hlfd.io.files import replacing, write_atomic, write_json


def test_text_and_bytes_reach_a_new_folder(tmp_path: Path):
    assert write_atomic(tmp_path / "a" / "b.txt", "°é\n") == tmp_path / "a" / "b.txt"
    assert (tmp_path / "a" / "b.txt").read_bytes() == "°é\n".encode()
    write_atomic(str(tmp_path / "a" / "b.txt"), b"\x00\x01")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"\x00\x01"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_atomic(tmp_path / "a.txt", "old")

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomic(tmp_path / "a.txt", "new")
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["mkstemp", "replace"])
def test_a_folder_that_can_not_be_written_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    def refuse(*names: object, **options: object) -> None:
        name = names[0] if names else f"{options['dir']}/{options['prefix']}1.tmp"
        raise OSError(errno.EROFS, "Read-only file system", str(name))

    monkeypatch.setattr(files.tempfile if call == "mkstemp" else files.os, call, refuse)
    with pytest.raises(OSError, match="Read-only file system") as caught:
        write_atomic(tmp_path / "a.txt", "new")
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path):
    (tmp_path / "there").mkdir()
    for name, link in (("old.txt", "here"), ("new.txt", "dangling")):
        (tmp_path / link).symlink_to(tmp_path / "there" / name)
    (tmp_path / "there" / "old.txt").write_text("old")
    for link in ("here", "dangling"):
        write_atomic(tmp_path / link, link)
        assert (tmp_path / link).is_symlink()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["dangling", "here", "there"]
    assert [p.read_text() for p in sorted((tmp_path / "there").iterdir())] == ["dangling", "here"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_a_pipe_is_written_into_and_stays(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        pool.submit(write_json, pipe, {"a": 1}).result(timeout=60)
        assert json.loads(os.read(reader, 1000)) == {"a": 1}
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_names_that_are_no_utf8(tmp_path: Path):
    name = os.fsdecode(b"M\xfcller")
    assert json.loads(write_json(tmp_path / "a.json", {name: "é"}).read_text()) == {name: "é"}
    assert write_atomic(tmp_path / "a.txt", f"é {name}").read_text() == "é M\\udcfcller"


def test_replacing_removes_what_a_failing_writer_left(tmp_path: Path):
    def half() -> None:
        with replacing(tmp_path / "a.nii.gz", ".nii.gz") as temporary:
            assert temporary.parent == tmp_path
            assert temporary.name.endswith(".nii.gz")
            temporary.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        half()
    assert list(tmp_path.iterdir()) == []


def test_permissions_are_the_usual_ones_and_those_of_the_old_file(tmp_path: Path):
    (tmp_path / "plain").write_text("")
    path = write_atomic(tmp_path / "a", "")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    path.chmod(0o640)
    write_atomic(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_json_takes_numpy_and_paths_and_turns_nan_into_null(tmp_path: Path):
    path = write_json(
        tmp_path / "a.json",
        {
            "f": np.float32(0.5),
            "i": np.int64(3),
            "n": float("nan"),
            "a": np.array([1.0, np.inf]),
            "p": Path("x"),
            1: (True, None),
        },
    )
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()
    assert json.loads(path.read_text()) == {"f": 0.5, "i": 3, "n": None, "a": [1.0, None], "p": "x", "1": [True, None]}


def test_json_refuses_what_it_has_no_form_for(tmp_path: Path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []

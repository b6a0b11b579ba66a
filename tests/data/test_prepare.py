"""prepare: what is finished stays, whatever happens, and is not done again."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlfd import plugins
from hlfd.data import parallel as module
from hlfd.data.prepare import case_named, prepare
from hlfd.data.preprocess import Preprocess
from hlfd.data.store import Store
from hlfd.errors import InputError
from hlfd.io import nifti

PREPROCESS = Preprocess(window_hu=(-200.0, 300.0))


def run(kits: Path, root: Path, preprocess: Preprocess = PREPROCESS, **options) -> Store:
    return prepare(partial(plugins.load, "sources", "kits", kits, **options), preprocess, root)


def times(root: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (root / "cases").iterdir()}


def finished_files(*cases: str) -> set[str]:
    return {f"{case}{end}" for case in cases for end in (".json", ".image.b2nd", ".label.b2nd")}


def test_only_a_case_whose_files_changed_is_prepared_again(kits_root: Path, tmp_path: Path):
    before = times(run(kits_root, tmp_path / "store").root)
    assert times(run(kits_root, tmp_path / "store").root) == before
    path = kits_root / "case_00001" / "imaging.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj)[:, ::-1], image.affine), path)
    os.utime(path, ns=(1, 1))
    store = run(kits_root, tmp_path / "store")
    changed = {name for name, when in times(store.root).items() if when != before[name]}
    assert changed == finished_files("case_00001")
    source = plugins.load("sources", "kits", kits_root)
    expected = PREPROCESS.prepared(source.read_image(source.cases[1])).voxels
    np.testing.assert_array_equal(store.slices("case_00001")[0][:], expected)


def test_what_is_kept_names_no_file(kits_root: Path, tmp_path: Path):
    path = kits_root / "case_00001" / "imaging.nii.gz"
    path.rename(kits_root / "Doe_Jane.nii.gz")
    path.symlink_to(kits_root / "Doe_Jane.nii.gz")
    store = run(kits_root, tmp_path / "store")
    said = "".join(file.read_text() for file in store.root.rglob("*.json"))
    assert "case_00001.image.b2nd" in said
    assert not any(name in said for name in ("imaging", "segmentation", "Doe", str(kits_root)))


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_a_name_that_is_no_utf8(kits_root: Path, tmp_path: Path):
    (kits_root / "case_00001").rename(kits_root / os.fsdecode(b"case_M\xfcller"))
    store = run(kits_root, tmp_path / "store")
    assert store.slices(r"case_M\udcfcller")[0][0].shape == (20, 24)
    assert store.damage() == []
    assert store.digest(store.patients)


def test_cases_added_later_join(kits_root: Path, make_kits, tmp_path: Path):
    before = times(run(kits_root, tmp_path / "store").root)
    make_kits(tmp_path / "more", 4)
    (tmp_path / "more" / "case_00003").rename(kits_root / "case_00003")
    store = run(kits_root, tmp_path / "store")
    assert len(store.cases) == 4
    assert times(store.root).items() >= before.items()


def test_cases_added_later_leave_the_split_as_it_was(kits_root: Path, make_kits, tmp_path: Path, hlfd):
    recipe, splits = tmp_path / "recipe.yaml", tmp_path / "out" / "splits.json"
    recipe.write_text(f"name: t\noutput: {tmp_path / 'out'}\nsource: {{name: kits, root: {kits_root}}}\n")
    assert hlfd("prepare", recipe, "--workers", 1).code == 0
    before = splits.read_text()
    make_kits(tmp_path / "more", 4)
    (tmp_path / "more" / "case_00003").rename(kits_root / "case_00003")
    ended = hlfd("prepare", recipe, "--workers", 1)
    assert (ended.code, "1 patients are not in it (first 'case_00003'): to keep it," in ended.err) == (2, True)
    ended = hlfd("prepare", recipe, f"split.file={splits}", "--workers", 1, "--verify")
    assert (ended.code, "store: 4 cases" in ended.err) == (0, True)
    assert "1 train, 1 validation, 1 test patients" in ended.err
    assert splits.read_text() == before


@pytest.mark.parametrize(
    ("preprocess", "options", "key"),
    [
        (Preprocess(window_hu=(-100.0, 300.0)), {}, "preprocess"),
        (PREPROCESS, {"task": "organ"}, "classes"),
        (PREPROCESS, {"ignore": (5,)}, "raw_labels"),
    ],
)
def test_other_settings_need_another_folder(kits_root: Path, tmp_path: Path, preprocess, options, key):
    before = times(run(kits_root, tmp_path / "store").root)
    message = f"store: was prepared with {key} = .* now .*; choose another folder"
    with pytest.raises(InputError, match=message):
        run(kits_root, tmp_path / "store", preprocess, **options)
    assert times(tmp_path / "store") == before


def test_all_bad_cases_are_named_and_the_good_ones_are_written(kits_root: Path, tmp_path: Path):
    for case, name in ((0, "imaging"), (2, "segmentation")):
        path = kits_root / f"case_0000{case}" / f"{name}.nii.gz"
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"case_00000.imaging.*; .*case_00002.segmentation") as caught:
        run(kits_root, tmp_path / "store")
    assert "case_00001" not in str(caught.value)
    assert set(times(tmp_path / "store")) == finished_files("case_00001")
    with pytest.raises(InputError, match="preparation has not finished, 2 of 3 cases are missing"):
        Store(tmp_path / "store")


def test_a_source_without_labels(kits_root: Path, tmp_path: Path):
    for path in kits_root.glob("*/segmentation.nii.gz"):
        path.unlink()
    with pytest.raises(InputError, match="source kits: expected cases with labels, none of the 3 has any"):
        run(kits_root, tmp_path / "store")


def test_a_case_by_name(kits_root: Path):
    source = plugins.load("sources", "kits", kits_root)
    assert case_named(source, "case_00001") is source.cases[1]
    with pytest.raises(InputError, match=r"source kits has no case 'case_0001' \(did you mean 'case_0000"):
        case_named(source, "case_0001")


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch):
    """From the named file on, the disk takes half of what is written."""

    def fill(name: str) -> None:
        write = Path.write_bytes

        def until_full(path: Path, data: bytes) -> int:
            if name not in path.name:
                return write(path, data)
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        monkeypatch.setattr(Path, "write_bytes", until_full)

    return fill


@pytest.mark.parametrize("name", ["case_00001.image", "case_00001.label", "case_00001.json"])
def test_a_full_disk_leaves_no_part_of_a_case_that_counts(kits_root, tmp_path, hlfd, full_disk, monkeypatch, name: str):
    recipe, root = tmp_path / "recipe.yaml", tmp_path / "out" / "store"
    recipe.write_text(f"name: t\noutput: {tmp_path / 'out'}\nsource: {{name: kits, root: {kits_root}}}\n")
    full_disk(name)
    ended = hlfd("prepare", recipe, "--workers", 1)
    assert ended.code == 1
    assert ended.err.startswith("hlfd: No space left on device: ")
    assert ended.err.endswith("what is finished stays\n")
    assert ended.err.count("\n") == 1
    before = times(root)
    assert finished_files("case_00000") <= set(before) < finished_files("case_00000", "case_00001")
    assert "case_00001.json" not in before
    monkeypatch.undo()
    ended = hlfd("prepare", recipe, "--workers", 1)
    assert (ended.code, "3 cases" in ended.err) == (0, True)
    after = times(root)
    assert set(after) == finished_files("case_00000", "case_00001", "case_00002")
    assert all(after[name] == before[name] for name in finished_files("case_00000"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_target_that_can_not_be_written(kits_root, tmp_path, hlfd, workers: int):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: t\noutput: {tmp_path / 'out'}\nsource: {{name: kits, root: {kits_root}}}\n")
    (tmp_path / "out" / "store").mkdir(parents=True)
    (tmp_path / "out" / "store" / "cases").write_text("in the way")
    ended = hlfd("prepare", recipe, "--workers", workers)
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert ended.err.startswith(f"hlfd: File exists: {tmp_path / 'out' / 'store' / 'cases'}")


def test_a_target_that_is_read_only(kits_root, tmp_path, hlfd, monkeypatch):
    recipe, root = tmp_path / "recipe.yaml", tmp_path / "out" / "store"
    recipe.write_text(f"name: t\noutput: {tmp_path / 'out'}\nsource: {{name: kits, root: {kits_root}}}\n")
    assert hlfd("prepare", recipe, "--workers", 1).code == 0
    before = times(root)
    os.utime(kits_root / "case_00001" / "imaging.nii.gz", ns=(1, 1))  # so that there is something to do

    def refuse(*_: object, **options: object):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(options["dir"]))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    ended = hlfd("prepare", recipe, "--workers", 1)
    assert (ended.code, "Traceback" in ended.err) == (1, False)
    path = root / "cases" / "case_00001.image.b2nd"
    assert f"hlfd: Read-only file system: {path}; what is finished stays" in ended.err
    assert {n: t for n, t in before.items() if "00001" not in n}.items() <= times(root).items()


def test_verify(kits_root, tmp_path, hlfd):
    recipe, root = tmp_path / "recipe.yaml", tmp_path / "out" / "store"
    recipe.write_text(f"name: t\noutput: {tmp_path / 'out'}\nsource: {{name: kits, root: {kits_root}}}\n")
    ended = hlfd("prepare", recipe, "--workers", 1, "--verify")
    assert (ended.code, "every file is as the manifest says" in ended.err) == (0, True)
    path = root / "cases" / "case_00002.label.b2nd"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    ended = hlfd("prepare", recipe, "--workers", 1, "--verify")
    assert ended.code == 2
    assert f"hlfd: {path}: damaged, expected sha256" in ended.err
    for file in (root / "cases").glob("case_00002.*"):
        file.unlink()
    assert hlfd("prepare", recipe, "--workers", 1, "--verify").code == 0


def test_the_manifest_is_of_what_was_prepared_in_part(kits_root: Path, tmp_path: Path):
    run(kits_root, tmp_path / "store")
    good, bad = (kits_root / f"case_0000{case}" / "segmentation.nii.gz" for case in (0, 1))
    shutil.copy2(bad, tmp_path / "kept.nii.gz")
    label = nib.load(good)
    nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), good)
    bad.write_bytes(bad.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"case_00001.segmentation"):
        run(kits_root, tmp_path / "store")
    shutil.copy2(tmp_path / "kept.nii.gz", bad)
    store = run(kits_root, tmp_path / "store")
    assert store.damage() == []
    before = (store.root / "manifest.json").stat().st_mtime_ns
    assert run(kits_root, tmp_path / "store").damage() == []
    assert (store.root / "manifest.json").stat().st_mtime_ns == before  # a later change would show


def test_the_manifest_forgets_a_case_that_is_taken_away(kits_root: Path, tmp_path: Path):
    run(kits_root, tmp_path / "store")
    shutil.rmtree(kits_root / "case_00001")
    assert run(kits_root, tmp_path / "store").damage() == []


def test_an_interrupt_leaves_what_is_finished(kits_root, tmp_path, hlfd, monkeypatch):
    recipe, root = tmp_path / "recipe.yaml", tmp_path / "out" / "store"
    recipe.write_text(f"name: t\noutput: {tmp_path / 'out'}\nsource: {{name: kits, root: {kits_root}}}\n")
    read = nifti.read_image

    def until_interrupted(path: Path, *arguments, **options):
        if "case_00001" in str(path):
            raise KeyboardInterrupt
        return read(path, *arguments, **options)

    monkeypatch.setattr(nifti, "read_image", until_interrupted)
    ended = hlfd("prepare", recipe, "--workers", 1)
    assert ended.code == 130
    assert "preparing: interrupted after 1 of 3; what is finished stays" in ended.err
    assert "Traceback" not in ended.err
    before = times(root)
    assert set(before) == finished_files("case_00000")
    monkeypatch.setattr(nifti, "read_image", read)
    assert hlfd("prepare", recipe, "--workers", 1).code == 0
    assert times(root).items() > before.items()
    assert len(Store(root).cases) == 3


def test_an_interrupted_case_that_is_done_anew_does_not_pass_for_the_old_one(kits_root, tmp_path, full_disk):
    run(kits_root, tmp_path / "store")
    os.utime(kits_root / "case_00002" / "imaging.nii.gz", ns=(1, 1))
    full_disk("case_00002.label")
    with pytest.raises(OSError, match="No space left"):
        run(kits_root, tmp_path / "store")
    with pytest.raises(InputError, match="1 of 3 cases are missing"):
        Store(tmp_path / "store")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_case_that_needs_more_memory_than_there_is(kits_root, tmp_path, hlfd, monkeypatch, workers: int):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: t\noutput: {tmp_path / 'out'}\nsource: {{name: kits, root: {kits_root}}}\n")

    def too_large(*_: object, **__: object):
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr(nifti, "_inflate", too_large)
    if workers == 2:  # processes would not see the patch: as they hand it over
        monkeypatch.setattr(module, "_pool", lambda *_: nullcontext(lambda *_: iter([failed])))
        failed: Future[None] = Future()
        failed.set_exception(MemoryError("case case_00000: Unable to allocate 3 TiB"))
    ended = hlfd("prepare", recipe, "--workers", workers)
    assert (ended.code, "Traceback" in ended.err) == (1, False)
    message = "hlfd: not enough memory: case case_00000: Unable to allocate 3 TiB; what is finished stays\n"
    assert ended.err.endswith(message)


PROGRAM = """
import sys, time
from dataclasses import replace
from functools import partial
from pathlib import Path
from hlfd import plugins
from hlfd.data.prepare import prepare
from hlfd.data.preprocess import Preprocess


def slow_source(root):
    source = plugins.load("sources", "kits", root)
    return replace(source, read_image=lambda case: (time.sleep(0.2), source.read_image(case))[1])


if __name__ == "__main__":
    kits, root = map(Path, sys.argv[1:])
    try:
        prepare(partial(slow_source, kits), Preprocess(window_hu=(-200.0, 300.0)), root, workers=2)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals to a process group")
def test_ctrl_c_with_worker_processes(make_kits, tmp_path: Path):
    cases = 20
    kits, root, program = make_kits(tmp_path / "kits", cases), tmp_path / "store", tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, program, kits, root], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        limit = time.monotonic() + 120
        while not list(root.glob("cases/*.json")) and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.startswith("preparing: interrupted after ")
    assert errors.count("\n") == 1
    names = set(times(root))
    done = {name.split(".")[0] for name in names}
    assert 0 < len(done) < cases
    assert names == finished_files(*done)  # no part of a case, no temporary file
    before = times(root)
    store = run(kits, root)
    assert len(store.cases) == cases
    assert times(root).items() > before.items()

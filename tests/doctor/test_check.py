"""hlfd check: the table, the JSON, the exit codes, several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from hlfd.doctor import SCHEMA, check_root
from hlfd.doctor.checks import CHECKS
from hlfd.doctor.table import report_table
from hlfd.errors import InputError


def spoil(root: Path) -> None:
    """An error, a warning and a note."""
    (root / "case_00000" / "segmentation.nii.gz").write_bytes(b"no NIfTI")
    path = root / "case_00001" / "segmentation.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((30, 44, 52), np.uint8), nib.load(path).affine), path)
    (root / "case_00002" / "segmentation.nii.gz").unlink()


def test_sound_data(hlfd, sound: Path):
    ended = hlfd("check", sound, "--deep", "--strict", "--workers", 1)
    assert ended.code == 0
    assert "source kits, 3 cases, 3 with labels; headers and voxels" in " ".join(ended.out.split())
    assert "nothing found" in ended.out


def test_errors_and_with_strict_warnings_give_exit_code_1(hlfd, sound: Path):
    spoil(sound)
    (sound / "case_00000" / "segmentation.nii.gz").unlink()  # a case without labels is a note
    assert hlfd("check", sound, "--deep", "--workers", 1).code == 0
    ended = hlfd("check", sound, "--deep", "--strict", "--workers", 1)
    assert (ended.code, "1 warning, 2 notes" in ended.out) == (1, True)
    (sound / "case_00001" / "imaging.nii.gz").unlink()
    ended = hlfd("check", sound, "--workers", 1)
    assert ended.code == 1
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        ([".", "--source", "kit"], "there is no source 'kit' (did you mean 'kits'?"),
        (["empty", "--source", "kits"], "expected folders with imaging.nii.gz"),
        (["data", "tsak=organ", "--source", "kits"], "source 'kits' has no option 'tsak' (did you mean 'task'?"),
        (["data", "organ"], "'organ': expected key=value"),
        (["data", "--source", "kits", "--against", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_wrong_arguments_give_exit_code_2(hlfd, sound: Path, monkeypatch, arguments, message):
    monkeypatch.chdir(sound.parent)
    (sound.parent / "empty").mkdir()
    ended = hlfd("check", *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_two_plain_folders(hlfd, sound: Path):
    for case in sorted(sound.iterdir()):
        for folder, name in (("ct", "imaging"), ("masks", "segmentation")):
            (sound / folder).mkdir(exist_ok=True)
            (case / f"{name}.nii.gz").rename(sound / folder / f"{case.name}.nii.gz")
        case.rmdir()
    ended = hlfd("check", sound, "labels={kidney: 1, tumor: 2}", "--images", "ct", "--labels", "masks", "--workers", 1)
    assert ended.code == 0
    assert "source pairs, 3 cases, 3 with labels" in " ".join(ended.out.split())
    ended = hlfd("check", sound, "--source", "kits", "--images", "ct")
    assert (ended.code, "are of source pairs, got --source kits" in ended.err) == (2, True)


def test_worst_first_in_table_and_json(hlfd, sound: Path, tmp_path: Path):
    spoil(sound)
    ended = hlfd("check", sound, "--deep", "--json", tmp_path / "out" / "found.json", "--workers", 1)
    assert ended.code == 1
    rows = [ended.out.index(code) for code in ("unreadable", "empty-label", "no-label")]
    assert rows == sorted(rows)
    assert "1 error, 1 warning, 1 note" in ended.out
    document = json.loads((tmp_path / "out" / "found.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert document["version"] == 1
    assert document["counts"] == {"error": 1, "warning": 1, "note": 1}
    assert [finding["severity"] for finding in document["findings"]] == ["error", "warning", "note"]
    error = document["findings"][0]
    assert (error["code"], error["case"]) == ("unreadable", "case_00000")
    assert error["text"].startswith("case_00000/segmentation.nii.gz: expected a whole NIfTI file")
    assert ended.out.count("instead:") == 3
    assert "instead: no option" not in ended.out
    case = document["cases"][1]
    assert case["spacing_mm"] == [5, 5, 5]
    assert (case["shape"], case["axes"], case["stored_as"]) == ([30, 44, 52], "SPL", "int16")
    assert case["label_voxels"] == {"0": 30 * 44 * 52}
    voxels = np.asanyarray(nib.load(sound / "case_00001" / "imaging.nii.gz").dataobj)
    assert (case["hu"]["minimum"], case["hu"]["maximum"]) == (voxels.min(), voxels.max())
    assert case["hu"]["percentiles"]["50"] == pytest.approx(np.percentile(voxels, 50), abs=1)
    assert case["hu"]["percentiles"]["0.5"] == pytest.approx(np.percentile(voxels, 0.5), abs=1)


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_names_that_are_no_utf8_come_out_as_they_are(sound: Path, tmp_path: Path):
    (sound / "case_00001" / "segmentation.nii.gz").unlink()
    (sound / "case_00001").rename(sound / os.fsdecode(b"case_M\xfcller"))
    (sound / "case_00002" / "imaging.nii.gz").rename(sound / os.fsdecode(b"M\xfcller.nii.gz"))
    command = [sys.executable, "-m", "hlfd", "check", sound, "--json", tmp_path / "a.json"]
    ended = subprocess.run(command, check=False, capture_output=True, env=os.environ | {"PYTHONUTF8": "1"})
    assert (ended.returncode, b"Traceback" in ended.stderr) == (1, False)
    assert b"M\xfcller.nii.gz" in ended.stdout
    cases = json.loads((tmp_path / "a.json").read_text())["cases"]
    assert [case["case"] for case in cases] == ["case_00000", r"case_M\udcfcller"]


def test_no_option_is_said_too(hlfd, sound: Path, tmp_path: Path):
    path = sound / "case_00001" / "segmentation.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((29, 44, 52), np.uint8), nib.load(path).affine), path)
    ended = hlfd("check", sound, "--json", tmp_path / "a.json")
    assert "instead: no option" in ended.out
    (found,) = json.loads((tmp_path / "a.json").read_text())["findings"]
    assert (found["code"], found["option"]) == ("shape-mismatch", None)


def test_several_processes_find_the_same(sound: Path):
    spoil(sound)
    alone, together = (check_root(sound, "kits", deep=True, workers=workers).document() for workers in (1, 2))
    assert together == alone


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits(sound: Path, width: int):
    spoil(sound)
    for case in range(3):
        nib.save(nib.load(sound / "case_00001" / "imaging.nii.gz"), sound / f"case_0000{case}" / f"{'long' * 9}.nii")
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(report_table(check_root(sound, "kits", deep=True, workers=1)))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "3 NIfTI files belong to no case" in text
    assert "kept: a case without any organ" in text


def test_a_case_too_large_for_the_memory_is_a_finding(sound: Path, monkeypatch: pytest.MonkeyPatch):
    from hlfd.io import nifti

    read = nifti.read_stored

    def small(path: Path, *more):
        if path.parent.name == "case_00001" and path.name == "imaging.nii.gz":
            raise MemoryError
        return read(path, *more)

    monkeypatch.setattr(nifti, "read_stored", small)
    (found,) = check_root(sound, "kits", deep=True, workers=1).findings
    assert (found.code, found.text) == ("unreadable", "case_00001/imaging.nii.gz: not enough memory for its voxels")


def test_a_mistake_of_ours_is_not_a_finding(sound: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hlfd.doctor.facts.describe_image", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check_root(sound, "kits", deep=True, workers=1)


DOC = Path(__file__).parents[2] / "docs" / "check.md"


def test_the_guide_lists_every_check():
    rows = [f"| `{c.code}` | {c.severity} | {c.about} | {told(c.by_default, c.option, c.special)} |" for c in CHECKS]
    guide = DOC.read_text()
    for row in rows:
        assert row in guide
    assert guide.count("| error |") + guide.count("| warning |") + guide.count("| note |") == len(rows)


def told(by_default: str, option: str, special: dict) -> str:
    plain = f"{by_default}; {option or 'no option'}"
    return "; ".join([plain, *(f"source {name}: {told(*remedy, {})}" for name, remedy in special.items())])


def test_a_folder_of_no_known_layout(tmp_path: Path):
    with pytest.raises(InputError, match="expected"):
        check_root(tmp_path)

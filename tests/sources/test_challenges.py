"""KiTS21, KiTS23 and LiTS: the labels of each year, the batches, the volumes without a spacing."""

import json
from pathlib import Path

import numpy as np
import pytest

from hlfd import recipe
from hlfd.errors import InputError, collecting
from hlfd.evaluation import protocols
from hlfd.evaluation.protocols import _hierarchical
from hlfd.sources import open_source
from hlfd.study.steps import Workspace
from hlfd.volume import Volume


@pytest.fixture
def cysts(volumes) -> dict[str, tuple[Volume, Volume]]:
    image, mask = volumes()
    return {"case_00400": (image, Volume((np.indices(mask.shape).sum(0) % 4).astype(np.uint8), mask.affine))}


@pytest.mark.parametrize("layout", ["kits21", "kits23"])
def test_cysts_and_what_the_protocols_ask_for(layouts, cysts, tmp_path: Path, layout: str):
    root = layouts[layout](tmp_path, cysts)
    source = open_source("kits", root, {})
    assert source.labels.names == ("kidney", "tumor", "cyst")
    assert source.labels.regions == _hierarchical.REGIONS
    assert protocols.load(layout).regions(source.labels) == _hierarchical.REGIONS
    values = np.asanyarray(cysts["case_00400"][1].voxels)
    np.testing.assert_array_equal(source.read_label(source.cases[0]).voxels, values)
    for options, names, classes in (
        ({"task": "organ"}, ("kidney",), [0, 1, 1, 1]),
        ({"task": "tumor"}, ("tumor",), [0, 0, 1, 0]),
        ({"labels": {"kidney": 1, "mass": [2, 3]}}, ("kidney", "mass"), [0, 1, 2, 2]),
        ({"labels": {"kidney": 1, "tumor": [2, 3]}, "task": "tumor"}, ("tumor",), [0, 0, 1, 1]),
    ):
        source = open_source("kits", root, options)
        assert source.labels.names == names
        np.testing.assert_array_equal(source.read_label(source.cases[0]).voxels, np.array(classes)[values])
    assert open_source("kits", root, {"labels": {"kidney": 1, "mass": [2, 3]}}).labels.regions == {
        "kidney": (1, 2),
        "mass": (2,),
    }


def test_the_year_can_be_said(layouts, cysts, tmp_path: Path):
    root = layouts["kits"](tmp_path, cysts)
    with pytest.raises(InputError, match=r"unknown label values 3; expected only \[0, 1, 2\]"):
        (source := open_source("kits", root, {})).read_label(source.cases[0])
    (root / "kits23.json").write_text("[]")
    assert open_source("kits", root, {}).labels.names == ("kidney", "tumor", "cyst")
    (root / "kits23.json").unlink()
    assert open_source("kits", root, {"year": 2023}).labels.names == ("kidney", "tumor", "cyst")
    (case,) = open_source("kits", root, {"year": 2021}).cases
    assert case.label is None
    (case,) = open_source("kits", root, {"year": 2021, "segmentation": "segmentation"}).cases
    assert case.label is not None
    with pytest.raises(InputError, match="source 'kits': 'year': input should be 2019, 2021 or 2023, got 2020"):
        open_source("kits", root, {"year": 2020})


IDENTITY = np.eye(4)
IDENTITY[:3, 3] = 7


@pytest.fixture
def ircad(volumes, tmp_path: Path, layouts) -> Path:
    """Volumes 0 to 28, 28 with an identity as affine, 27 too, as data that are resampled to 1 mm have it."""
    cases = {str(n): volumes(n, shape=(4, 5, 6)) for n in range(27)}
    cases |= {str(n): volumes(n, shape=(4, 5, 6), affine=IDENTITY) for n in (27, 28)}
    return layouts["lits"](tmp_path / "lits", cases)


def test_volumes_without_a_spacing_are_known(ircad: Path, tmp_path: Path, capfd):
    source = open_source("lits", ircad, {})
    assert [case.id for case in source.cases] == [f"volume-{n}" for n in range(28)]
    (note,) = source.notes
    assert note.startswith("1 of volumes 28 to 47 have an identity as affine") and "unknown_spacing=keep" in note
    kept = open_source("lits", ircad, {"unknown_spacing": "keep"})
    assert kept.cases[-1].id == "volume-28" and kept.read_image(kept.cases[-1]).spacing_mm == (1, 1, 1)
    assert "count as" in kept.notes[0]
    placed = open_source("lits", ircad, {"spacing_mm": {"volume-28": [0.57, 0.57, 1.6]}})
    assert placed.notes == () and len(placed.cases) == 29
    image, label = placed.read_image(placed.cases[-1]), placed.read_label(placed.cases[-1])
    image.require_same_grid(label, "label")
    np.testing.assert_allclose(image.affine, [[0.57, 0, 0, 7], [0, 0.57, 0, 7], [0, 0, 1.6, 7], [0, 0, 0, 1]])
    with pytest.raises(InputError, match="spacing_mm: there is no volume-99 in "):
        open_source("lits", ircad, {"spacing_mm": {"volume-99": [1, 1, 1]}})
    wrong = open_source("lits", ircad, {"spacing_mm": {"volume-3": [1, 1, 1]}})
    with pytest.raises(InputError, match=r"spacing_mm: volume-3 has a spacing, .*expected an identity"):
        wrong.read_image(wrong.cases[3])
    chosen = recipe.from_values(
        {"name": "x", "output": str(tmp_path / "out"), "source": {"name": "lits", "root": str(ircad)}}, "x"
    )
    assert len(Workspace(chosen, 1).store.cases) == 28
    assert "1 of volumes 28 to 47" in capfd.readouterr().err


def test_cases_that_are_read_otherwise_are_prepared_again(ircad: Path, tmp_path: Path):
    def workspace(**options) -> Workspace:
        source = {"name": "lits", "root": str(ircad), "spacing_mm": {"volume-28": [0.5, 0.5, 2.0]}, **options}
        values = {"name": "x", "output": str(tmp_path / "out"), "source": source}
        return Workspace(recipe.from_values({**values, "preprocess": {"fingerprint": True}}, "x"), 1)

    def spacing_mm(found: Workspace) -> list[float]:
        return np.linalg.norm(found.store.cases["volume-28"].geometry.affine[:3, :3], axis=0).round(3).tolist()

    first = workspace()
    plan, case = tmp_path / "out" / "plan.json", tmp_path / "out" / "store" / "cases" / "volume-0.json"
    before = spacing_mm(first)
    times = [path.stat().st_mtime_ns for path in (plan, case)]
    said = {"unknown_spacing": "keep", "regions": {"tumor": "tumor"}, "task": "both"}  # that, or the default
    assert spacing_mm(workspace(**said)) == before
    assert [path.stat().st_mtime_ns for path in (plan, case)] == times
    after = spacing_mm(workspace(spacing_mm={"volume-28": [0.5, 0.5, 4.0]}))
    assert (before != after) and 4.0 in after
    assert all(path.stat().st_mtime_ns > time for path, time in zip((plan, case), times, strict=True))
    assert "volume-28" not in plan.read_text().split("made_from")[1].replace('"volume-28":', "")


def test_the_test_half_and_what_does_not_pair(layouts, three, tmp_path: Path):
    root = layouts["lits"](tmp_path, three)
    (root / "Training Batch 1" / "volume-0.nii").rename(root / "test-volume-0.nii")
    with pytest.raises(InputError, match="Training Batch 1: segmentation-0 has no volume-0 beside it"):
        open_source("lits", root, {})
    with collecting() as found:
        source = open_source("lits", root, {})
    assert len(found) == 1
    assert {case.id: case.label is not None for case in source.cases} == {
        "test-volume-0": False,
        "volume-1": True,
        "volume-2": True,
    }


def test_several_scans_of_a_patient(layouts, three, tmp_path: Path):
    root = layouts["kits"](tmp_path / "kits", three)
    path = tmp_path / "patients.json"
    path.write_text(json.dumps({"case_00000": "a", "case_00001": "b", "case_00002": "a"}))
    values = {"name": "x", "output": str(tmp_path / "out"), "source": {"root": str(root), "patient_of": str(path)}}
    workspace = Workspace(recipe.from_values(values, "x"), 1)
    assert workspace.patients == ["a", "b"]
    assert [case.id for case in workspace.cases(["a"])] == ["case_00000", "case_00002"]
    assert {c.id: c.patient for c in workspace.store.cases.values()}["case_00002"] == "a"
    path.write_text(json.dumps({"case_00000": "a", "case_00001": "b", "case_00002": "c"}))
    workspace = Workspace(recipe.from_values(values, "x"), 1)
    assert workspace.store.patients == ["a", "b", "c"]  # the store keeps up
    by_pattern = open_source("kits", root, {}, patient_of=r"case_0000(\d)")
    assert [case.patient for case in by_pattern.cases] == ["0", "1", "2"]
    assert {case.patient for case in open_source("kits", root, {}, patient_of="case").cases} == {"case"}
    path.write_text(json.dumps({"case_00000": "a"}))
    for given, message in (
        (str(path), r"patients\.json: doesn't say whose case case_00001 is"),
        (str(tmp_path / "no.json"), r"source\.patient_of: .*no\.json: no such file"),
        ("scan_(.*)", r"source\.patient_of: 'scan_\(\.\*\)' finds no patient in the case case_00000"),
        ("(", r"source\.patient_of: expected FILE\.json or a regular expression, got '\('"),
    ):
        with pytest.raises(InputError, match=message):
            open_source("kits", root, {}, patient_of=given)
    for text, message in (("{", "expected JSON"), ('{"case_00000": 1}', "expected {CASE: PATIENT}")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            open_source("kits", root, {}, patient_of=str(path))

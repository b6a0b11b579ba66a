"""The KiTS19 layout."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlfd import plugins
from hlfd.errors import InputError


def build(root: Path, **options):
    return plugins.load("sources", "kits", root, **options)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_cases_are_the_folders(make_kits, tmp_path: Path, suffix: str):
    source = build(make_kits(tmp_path / "kits", 2, suffix=suffix))
    assert [case.id for case in source.cases] == [case.patient for case in source.cases] == ["case_00000", "case_00001"]
    assert source.window_hu == (-200, 300)
    assert source.labels.names == ("kidney", "tumor")
    for case in source.cases:
        image, label = source.read_image(case), source.read_label(case)
        image.require_same_grid(label, "label")
        stored = nib.load(case.label[0])
        np.testing.assert_array_equal(label.voxels, np.asanyarray(stored.dataobj))
        np.testing.assert_array_equal(label.affine, stored.affine)


def test_one_case_folder_and_other_names(kits_root: Path):
    source = build(kits_root / "case_00001", task="organ", organ="liver")
    assert [case.id for case in source.cases] == ["case_00001"]
    assert source.labels.names == ("liver",)
    assert set(np.unique(source.read_label(source.cases[0]).voxels)) == {0, 1}


def test_links_go_by_their_own_names(make_kits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "kits"
    root.mkdir()
    for name in ("a", "b"):
        (make_kits(tmp_path / name, 1) / "case_00000").rename(tmp_path / name / "nifti")
        (root / f"case_{name}").symlink_to(tmp_path / name / "nifti")
    assert [case.id for case in build(root).cases] == ["case_a", "case_b"]
    monkeypatch.chdir(root / "case_a")
    assert [case.id for case in build(Path()).cases] == ["nifti"]


def test_a_case_without_labels(kits_root: Path):
    (kits_root / "case_00002" / "segmentation.nii.gz").unlink()
    (kits_root / "notes").mkdir()
    source = build(kits_root)
    assert [case.label is None for case in source.cases] == [False, False, True]
    with pytest.raises(InputError, match="case case_00002: has no label file"):
        source.read_label(source.cases[2])


def test_folders_that_hold_no_data(kits_root: Path, tmp_path: Path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        build(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: expected folders with imaging\.nii\.gz and segmentation\.nii\.gz"):
        build(tmp_path / "empty")
    (kits_root / "case_00001" / "imaging.nii.gz").unlink()
    with pytest.raises(InputError, match=r"case_00001: has a segmentation and no imaging\.nii\.gz"):
        build(kits_root)


def replaced(voxels=None, affine=None):
    def change(path: Path) -> None:
        image = nib.load(path)
        data = np.asanyarray(image.dataobj).copy()
        nib.save(nib.Nifti1Image(voxels(data) if voxels else data, affine(image.affine) if affine else None), path)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced(lambda v: v * 2, np.array), r"unknown label values 4; expected only \[0, 1, 2\]"),
        (replaced(lambda v: v[:-1], np.array), r"expected shape \(4, 20, 24\), got \(3, 20, 24\)"),
        (replaced(lambda v: v.transpose(0, 2, 1), np.array), r"expected shape \(4, 20, 24\), got \(4, 24, 20\)"),
        (replaced(None, lambda a: a + np.eye(4, k=3)), "the affines differ, a corner lies 1 mm away"),
        (replaced(None, lambda a: a @ np.diag([-1, 1, 1, 1])), "the affines differ"),
        (replaced(lambda v: v.astype(np.float32) / 2, np.array), "expected whole numbers as labels"),
        (replaced(lambda v: v[..., None].repeat(2, 3), np.array), "expected a volume with 3 axes, got 4"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(kits_root: Path, change, message: str):
    source = build(kits_root)
    path = source.cases[1].label[0]
    change(path)
    with pytest.raises(InputError, match=message) as caught:
        source.read_label(source.cases[1])
    assert str(caught.value).startswith(str(path))
    source.read_label(source.cases[0])

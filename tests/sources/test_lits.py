"""The LiTS17 layout."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlfd import plugins
from hlfd.errors import InputError

LABEL = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.uint8)


def write(root: Path, *names: str, suffix: str = ".nii") -> Path:
    for name in names:
        voxels = LABEL if name.startswith("segmentation") else LABEL.astype(np.int16) * 50
        nib.save(nib.Nifti1Image(voxels, np.diag([1, 2, 3, 1.0])), root / (name + suffix))
    return root


def build(root: Path, **options):
    return plugins.load("sources", "lits", root, **options)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_files_side_by_side_in_the_order_of_their_numbers(tmp_path: Path, suffix: str):
    names = [f"{kind}-{n}" for kind in ("volume", "segmentation") for n in (0, 2, 10)]
    source = build(write(tmp_path, *names, suffix=suffix), task="both")
    assert [case.id for case in source.cases] == ["volume-0", "volume-2", "volume-10"]
    assert [case.label[0].name for case in source.cases] == [f"segmentation-{n}{suffix}" for n in (0, 2, 10)]
    assert source.labels.names == ("liver", "tumor")
    assert source.window_hu == (-40, 160)
    np.testing.assert_array_equal(source.read_label(source.cases[2]).voxels, LABEL)


def test_a_volume_without_segmentation_is_a_case_without_labels(tmp_path: Path):
    source = build(write(tmp_path, "volume-1", "volume-11", "segmentation-11"))
    assert [case.label is None for case in source.cases] == [True, False]


def test_folders_that_hold_no_data(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        build(tmp_path / "nowhere")
    (tmp_path / "volume-1.nii.part").touch()
    with pytest.raises(InputError, match=r"expected volume-N\.nii and segmentation-N\.nii, found none"):
        build(tmp_path)
    write(tmp_path, "volume-1", "segmentation-1", "segmentation-7")
    with pytest.raises(InputError, match="segmentation-7 has no volume-7 beside it"):
        build(tmp_path)


def test_a_volume_in_two_files(tmp_path: Path):
    write(tmp_path, "volume-1", "segmentation-1")
    write(tmp_path, "volume-1", suffix=".nii.gz")
    with pytest.raises(InputError, match=r"volume-1\.nii\.gz: expected each volume once, got .*volume-1\.nii too"):
        build(tmp_path)

"""A folder of 2D slices."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hlfd import plugins
from hlfd.errors import InputError
from hlfd.sources import slices

IMAGE = np.random.default_rng(0).integers(0, 255, (9, 12)).astype(np.uint8)
MASK = (IMAGE > 128).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels).save(path)


def write(root: Path, *names: str, suffix: str = ".png", mask_suffix: str = ".png") -> Path:
    for n, name in enumerate(names):
        save(root / "images" / (name + suffix), IMAGE - np.uint8(n))
        save(root / "masks" / (name + mask_suffix), MASK)
    return root


def build(root: Path, **options):
    return plugins.load("sources", "slices", root, **options)


@pytest.mark.parametrize("suffix", [".png", ".npy"])
@pytest.mark.parametrize("mask_suffix", [".png", ".npy"])
def test_slices_of_a_patient_are_one_case_in_the_order_of_their_numbers(tmp_path: Path, suffix, mask_suffix):
    names = ["case_2_slice_0009", "case_1_slice_0100", "case_1_slice_99"]
    source = build(write(tmp_path, *names, suffix=suffix, mask_suffix=mask_suffix), organ="liver")
    assert [(case.id, case.patient, len(case.image)) for case in source.cases] == [
        ("case_1", "case_1", 2),
        ("case_2", "case_2", 1),
    ]
    volume, label = (read(source.cases[0]) for read in (source.read_image, source.read_label))
    np.testing.assert_array_equal(volume.voxels, [IMAGE - np.uint8(2), IMAGE - np.uint8(1)])
    np.testing.assert_array_equal(label.voxels, [MASK, MASK])
    volume.require_same_grid(label, "label")
    assert source.labels.names == ("liver",)
    assert source.window_hu == (0, 255)


def test_gaps_are_said(tmp_path: Path):
    names = [f"case_1_slice_{n}" for n in (3, 4, 5, 9, 10)] + [f"case_2_slice_{n}" for n in (0, 5, 10, 15)]
    source = build(write(tmp_path, *names))
    assert [slices.gaps(case) for case in source.cases] == [[(5, 9)], []]  # every fifth slice is no gap
    assert source.notes == ("1 of 2 cases lack slices (case_1): those beside a gap count as neighbours",)
    (tmp_path / "images" / "case_1_slice_9.png").rename(tmp_path / "images" / "case_1_slice_6.png")
    (tmp_path / "masks" / "case_1_slice_9.png").rename(tmp_path / "masks" / "case_1_slice_6.png")
    for folder in ("images", "masks"):
        (tmp_path / folder / "case_1_slice_10.png").rename(tmp_path / folder / "case_1_slice_7.png")
    assert build(tmp_path).notes == ()


def test_both_tasks_and_a_window(tmp_path: Path):
    write(tmp_path, "case_1_slice_1")
    save(tmp_path / "masks" / "case_1_slice_1.png", MASK * 255)
    source = build(tmp_path, task="both", organ_value=128, tumor_value=255, window_hu=(-40, 160))
    assert set(np.unique(source.read_label(source.cases[0]).voxels)) == {0, 2}
    assert source.window_hu == (-40, 160)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (r / "masks" / "case_1_slice_2.png").unlink(), r"images.case_1_slice_2\.png: has no mask, expected"),
        (
            lambda r: (r / "images" / "case_1_slice_2.png").unlink(),
            r"masks.case_1_slice_2\.png: has no image, expected",
        ),
        (
            lambda r: save(r / "images" / "case_1_slice_2.npy", IMAGE),
            r"case_1_slice_2\.png: expected each slice once, got case_1_slice_2\.npy too",
        ),
        (
            lambda r: [save(r / f / "case_1_slice_02.png", p) for f, p in (("images", IMAGE), ("masks", MASK))],
            r"case_1_slice_2\.png: expected each slice once, got case_1_slice_02\.png too",
        ),
        (
            lambda r: save(r / "masks" / "case_1_slice_2.npy", MASK),
            r"masks.case_1_slice_2\.png: expected one mask for case_1_slice_2\.png, got case_1_slice_2\.npy too",
        ),
        (lambda r: save(r / "images" / "scan.png", IMAGE), r"scan\.png: expected a name like case_XXXXX_slice_YYYY"),
        (lambda r: [p.unlink() for p in (r / "images").iterdir()], r"images: expected case_XXXXX_slice_YYYY\.png"),
        (lambda r: (r / "images").rename(r / "imgs"), "images: no such folder"),
    ],
)
def test_a_folder_that_does_not_fit(tmp_path: Path, change, message):
    root = write(tmp_path, "case_1_slice_1", "case_1_slice_2")
    change(root)
    with pytest.raises(InputError, match=message):
        build(root)


@pytest.mark.parametrize(
    ("path", "pixels", "message"),
    [
        ("masks/case_1_slice_2.png", MASK * 3, r"slice_2\.png: unknown label values 3; expected only \[0, 1\]"),
        ("masks/case_1_slice_2.png", MASK[:5], r"expected the image's shape \(9, 12\), got \(5, 12\)"),
        ("images/case_1_slice_2.png", IMAGE[:, :5], r"expected shape \(9, 12\) as case_1_slice_1\.png has"),
        ("images/case_1_slice_2.png", IMAGE * 0, "got the constant value 0"),
    ],
)
def test_a_slice_that_does_not_fit_is_named(tmp_path: Path, path: str, pixels, message: str):
    source = build(write(tmp_path, "case_1_slice_1", "case_1_slice_2"))
    save(tmp_path / path, pixels)
    with pytest.raises(InputError, match=message) as caught:
        (source.read_label if "masks" in path else source.read_image)(source.cases[0])
    assert str(caught.value).startswith(str(tmp_path / path))

"""Decathlon and nnU-Net raw, which say in dataset.json what they hold, and pairs, which say nothing."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlfd.errors import InputError, collecting
from hlfd.sources import open_source
from hlfd.volume import Volume


def described(root: Path, change) -> None:
    path = root / "dataset.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def unlabelled(cases: dict[str, tuple[Volume, Volume]], *names: str) -> dict:
    return {name: (image, None if name in names else mask) for name, (image, mask) in cases.items()}


def test_decathlon(layouts, three, tmp_path: Path):
    source = open_source("msd", layouts["msd"](tmp_path, unlabelled(three, "case_00001")), {})
    assert {case.id: case.label is not None for case in source.cases} == {
        "case_00000": True,
        "case_00001": False,
        "case_00002": True,
    }
    assert source.labels.regions == {"liver": (1, 2), "cancer": (2,)}
    assert source.window_hu == (-160, 240)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_a_channel_of_four_axes(layouts, three, tmp_path: Path, suffix: str):
    root = layouts["msd"](tmp_path, three, channels=3)
    if suffix == ".nii":
        for path in root.glob("imagesTr/*.nii.gz"):
            nib.save(nib.load(path), path.with_name(path.name.removesuffix(".gz")))
        path = root / "dataset.json"
        path.write_text(path.read_text().replace("imagesTr/case_00000.nii.gz", "imagesTr/case_00000.nii"))
    for channel in (2, "CT"):
        source = open_source("msd", root, {"channel": channel})
        image = source.read_image(source.cases[0])
        np.testing.assert_array_equal(image.voxels, three["case_00000"][0].voxels)
        image.require_same_grid(source.read_label(source.cases[0]), "label")
    for options, message in (
        ({}, r"dataset\.json: channel 0 is 'MRI0', expected CT; for another, set source\.window_hu"),
        ({"channel": 3}, r"dataset\.json: there is no channel 3 \("),
        ({"channel": "PET"}, r"there is no channel 'PET' \("),
        ({"channel": -1}, "source 'msd': 'channel.*': input should be"),
    ):
        with pytest.raises(InputError, match=message):
            open_source("msd", root, options)
    described(root, lambda d: d["modality"].update({"3": "CT"}))
    source = open_source("msd", root, {"channel": 3})
    with pytest.raises(InputError, match="expected channel 3, counted from 0, of the fourth axis, got shape"):
        source.read_image(source.cases[0])
    with pytest.raises(InputError, match=r"case_00000.* the constant value 0"):
        (source := open_source("msd", root, {"window_hu": [0, 1]})).read_image(source.cases[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("modality"), r"expected the names of the channels, {\"0\": \"CT\"}, got None"),
        (lambda d: d.pop("labels"), 'labels: expected {"0": "background", "1": NAME, ...}, got None'),
        (lambda d: d["labels"].update(x="liver"), "labels: expected .*got {"),
        (lambda d: d["labels"].update({"3": "liver"}), "labels: expected each name once"),
        (lambda d: d.update(training=3), "training: expected a list, got 3"),
        (lambda d: d.update(training=[]), "expected cases under 'training', got none"),
        (
            lambda d: d["training"].append("a.nii.gz"),
            "expected the paths of image and label for each case, got {'image'",
        ),
        (lambda d: d["training"].append(d["training"][0]), "lists case_00000 more than once"),
        (
            lambda d: d["training"][0].update(image="imagesTr/no.nii.gz"),
            r"imagesTr/no\.nii\.gz: no such file, dataset\.json lists it",
        ),
    ],
)
def test_a_decathlon_that_does_not_fit(layouts, three, tmp_path: Path, change, message: str):
    root = layouts["msd"](tmp_path, three)
    described(root, change)
    with pytest.raises(InputError, match=message) as caught:
        open_source("msd", root, {})
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(root))


REGIONS = {"background": 0, "kidney_and_mass": [1, 2, 3], "mass": [2, 3], "tumor": 2}


def test_nnunet_regions_are_values_that_names_share(layouts, volumes, tmp_path: Path):
    image, mask = volumes()
    four = Volume((np.indices(mask.shape).sum(0) % 4).astype(np.uint8), mask.affine)
    root = layouts["nnunet"](tmp_path, {"a": (image, four)}, labels=REGIONS, regions_class_order=[1, 3, 2])
    source = open_source("nnunet", root, {})
    assert source.labels.regions == {"kidney_and_mass": (1, 2, 3), "mass": (2, 3), "tumor": (2,)}
    assert source.labels.names == ("kidney_and_mass", "tumor", "mass")
    np.testing.assert_array_equal(source.read_label(source.cases[0]).voxels, four.voxels)
    for region, values in (("kidney_and_mass", [1, 2, 3]), ("mass", [2, 3]), ("tumor", [2])):
        found = source.labels.region(source.read_label(source.cases[0]).voxels, region)
        np.testing.assert_array_equal(found, np.isin(four.voxels, values))


def test_nnunet_cases_channels_and_test_part(layouts, three, volumes, tmp_path: Path):
    root = layouts["nnunet"](tmp_path, three, channel_names={"0": "MRI", "1": "CT"})
    for path in (root / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace("_0000.", "_0001.")))
    (root / "imagesTr" / "._case_00000_0001.nii.gz").touch()  # as macOS leaves them
    for name, labelled in (("t1", True), ("t2", False)):
        for kind, volume in zip(("images", "labels"), volumes(), strict=True):
            if kind == "images" or labelled:
                (root / f"{kind}Ts").mkdir(exist_ok=True)
                channel = "_0001" * (kind == "images")
                nib.save(nib.Nifti1Image(volume.voxels, volume.affine), root / f"{kind}Ts" / f"{name}{channel}.nii.gz")
    source = open_source("nnunet", root, {"channel": "CT"})
    assert [case.id for case in source.cases] == [*three, "t1", "t2"]
    assert source.cases[-1].label is None and source.test == {"t1"} and source.splits is None
    np.testing.assert_array_equal(source.read_image(source.cases[0]).voxels, three["case_00000"][0].voxels)
    path = tmp_path / "of.json"
    path.write_text(json.dumps({**dict.fromkeys(three, "p"), "t1": "p", "t2": "q"}))
    with pytest.raises(InputError, match=r"patient p has cases among the test cases, and case_00000 outside"):
        open_source("nnunet", root, {"channel": 1}, patient_of=str(path))


def test_nnunet_files_elsewhere(layouts, three, tmp_path: Path):
    files = {c: {"images": [f"imagesTr/{c}_0000.nii.gz"], "label": f"labelsTr/{c}.nii.gz"} for c in list(three)[:2]}
    root = layouts["nnunet"](tmp_path, three, dataset=files)
    assert [case.id for case in open_source("nnunet", root, {}).cases] == ["case_00000", "case_00001"]
    (root / "labelsTr" / "case_00001.nii.gz").unlink()
    with pytest.raises(InputError, match=r"labelsTr/case_00001\.nii\.gz: no such file, dataset\.json lists it"):
        open_source("nnunet", root, {})
    described(root, lambda d: d["dataset"].update({"../x": d["dataset"]["case_00000"]}))
    with pytest.raises(InputError, match=r"dataset: expected a name of a case without a path, got '\.\./x'"):
        open_source("nnunet", root, {})
    described(root, lambda d: d.update(dataset=["x"]))
    with pytest.raises(InputError, match=r'dataset: expected {CASE: {"images"'):
        open_source("nnunet", root, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: (r / "labelsTr" / "case_00001.nii.gz").unlink(),
            r"case_00001_0000\.nii\.gz: has no label, expected .*labelsTr",
        ),
        (
            lambda r: (r / "imagesTr" / "case_00001_0000.nii.gz").unlink(),
            r"labelsTr.case_00001\.nii\.gz: has no image, expected .*_0000",
        ),
        (
            lambda r: described(r, lambda d: d.update(file_ending=".png")),
            r"file_ending: expected \.nii\.gz or \.nii, got '\.png'",
        ),
        (lambda r: described(r, lambda d: d.pop("channel_names")), "expected the names of the channels"),
        (lambda r: described(r, lambda d: d.update(labels=[1])), "labels: expected {.background"),
        (lambda r: described(r, lambda d: d["labels"].update(cyst="3")), "labels: expected {.background"),
        (
            lambda r: described(r, lambda d: d["labels"].update(ignore=3)),
            "the label 'ignore' .value 3. marks what nobody has labelled",
        ),
        (lambda r: (r / "dataset.json").unlink(), r"dataset\.json: no such file, which says what the labels mean"),
        (lambda r: (r / "imagesTr").rename(r / "imagesTs"), "has no image, expected"),
    ],
)
def test_a_raw_folder_that_does_not_fit(layouts, three, tmp_path: Path, change, message: str):
    root = layouts["nnunet"](tmp_path, three)
    change(root)
    with pytest.raises(InputError, match=message) as caught:
        open_source("nnunet", root, {})
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(root))


def test_what_is_left_of_a_raw_folder_with_faults(layouts, three, tmp_path: Path):
    root = layouts["nnunet"](tmp_path, three)
    (root / "imagesTr" / "case_00001_0000.nii.gz").unlink()
    (root / "labelsTr" / "case_00002.nii.gz").unlink()
    with collecting() as found:
        source = open_source("nnunet", root, {})
    assert len(found) == 2
    assert [(case.id, case.label is None) for case in source.cases] == [("case_00000", False), ("case_00002", True)]


def test_the_ignored_label_can_be_given_a_meaning(layouts, volumes, tmp_path: Path):
    image, mask = volumes()
    root = layouts["nnunet"](tmp_path, {"a": (image, mask)}, labels={"background": 0, "kidney": 1, "ignore": 2})
    source = open_source("nnunet", root, {"labels": {"background": 2, "kidney": 1}})
    np.testing.assert_array_equal(source.read_label(source.cases[0]).voxels, mask.voxels == 1)


def pair(root: Path, volumes, image: str, label: str | None) -> None:
    for name, volume in zip((f"images/{image}", f"labels/{label}"), volumes(), strict=True):
        if not name.endswith("None"):
            (root / name).parent.mkdir(exist_ok=True, parents=True)
            nib.save(nib.Nifti1Image(volume.voxels, volume.affine), root / name)


def test_pairs_are_matched_by_name(volumes, tmp_path: Path):
    for image, label in (
        ("a.nii.gz", "a.nii"),
        ("b_0000.nii", "b.nii.gz"),
        ("case_0000.nii.gz", "case_0000.nii.gz"),  # a number, no channel
        ("case_0001.nii.gz", "case_0001.nii.gz"),
        ("z.nii.gz", None),
    ):
        pair(tmp_path, volumes, image, label)
    pair(tmp_path, volumes, "b_0001.nii.gz", None)  # another channel of b
    source = open_source("pairs", tmp_path, {"labels": {"kidney": 1, "tumor": 2}})
    found = {case.id: (case.image[0].name, case.label and case.label[0].name) for case in source.cases}
    assert found == {
        "a": ("a.nii.gz", "a.nii"),
        "b": ("b_0000.nii", "b.nii.gz"),
        "case_0000": ("case_0000.nii.gz", "case_0000.nii.gz"),
        "case_0001": ("case_0001.nii.gz", "case_0001.nii.gz"),
        "z": ("z.nii.gz", None),
    }
    default = open_source("pairs", tmp_path, {})
    assert default.labels.names == ("foreground",)
    with pytest.raises(InputError, match=r"unknown label values 2; expected only \[0, 1\]"):
        default.read_label(default.cases[0])
    (tmp_path / "labels").rename(tmp_path / "masks")
    assert len(open_source("pairs", tmp_path, {"label_files": "masks"}).cases) == 5
    with pytest.raises(InputError, match="labels: no such folder"):
        open_source("pairs", tmp_path, {})
    pair(tmp_path, volumes, "a.nii", None)
    with pytest.raises(InputError, match=r"images: expected each volume once, got a\.nii and a\.nii\.gz"):
        open_source("pairs", tmp_path, {"label_files": "masks"})


def test_pairs_that_do_not_pair(volumes, tmp_path: Path):
    pair(tmp_path, volumes, "a.nii.gz", "a.nii.gz")
    pair(tmp_path, volumes, "a_0000.nii.gz", "b.nii.gz")
    with pytest.raises(InputError, match=r"a_0000\.nii\.gz: expected one image for .*a\.nii\.gz, got"):
        open_source("pairs", tmp_path, {})
    (tmp_path / "images" / "a_0000.nii.gz").unlink()
    with pytest.raises(InputError, match=r"labels.b\.nii\.gz: has no image, expected .*images.b\.nii\.gz"):
        open_source("pairs", tmp_path, {})
    for path in tmp_path.glob("*/*"):
        path.unlink()
    with pytest.raises(InputError, match=r"images: expected volumes, \.nii or \.nii\.gz, found none"):
        open_source("pairs", tmp_path, {})

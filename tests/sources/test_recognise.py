"""The layout of a folder says which source it is for."""

import json
import shutil
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
from PIL import Image

from dicom_files import write_series
from hlfd import recipe
from hlfd.doctor import check_root
from hlfd.errors import InputError
from hlfd.sources import open_source, recognise

NAMES = {
    "kits": "kits",
    "kits21": "kits",
    "kits23": "kits",
    "lits": "lits",
    "msd": "msd",
    "nnunet": "nnunet",
    "pairs": "pairs",
}
DICOM = bytes(128) + b"DICM" + bytes(20)
BARE = bytes([8, 0, 5, 0]) + b"CS" + bytes(20)


@pytest.mark.parametrize(("layout", "name"), NAMES.items())
def test_each_layout_is_known_for_its_source(layouts, three, tmp_path: Path, layout: str, name: str):
    root = layouts[layout](tmp_path / "data", three)
    assert recognise(root) == name
    values = {"name": "x", "source": {"root": str(root)}}
    chosen = recipe.from_values(values, "x")
    assert chosen.source.name == name
    assert len(chosen.make_source().cases) == 3
    (tmp_path / "again.yaml").write_text(recipe.dump(chosen))
    assert recipe.read(tmp_path / "again.yaml") == chosen


@pytest.mark.parametrize("layout", ["msd", "nnunet", "pairs"])
def test_cases_called_as_lits_calls_them(layouts, volumes, tmp_path: Path, layout: str):
    cases = {f"volume-{n}": volumes(n) for n in range(2)}
    root = layouts[layout](tmp_path / "all" / "data", cases)
    assert recognise(root) == layout
    with pytest.raises(InputError, match=r"no data set itself, did you mean .*data\?"):
        recognise(root.parent)


def test_lits_in_folders_of_other_names(layouts, volumes, tmp_path: Path):
    root = layouts["lits"](tmp_path / "data", {"0": volumes(0)})
    (root / "Training Batch 1").rename(root / "images")
    (root / "labels").mkdir()
    (root / "images" / "segmentation-0.nii").rename(root / "labels" / "segmentation-0.nii")
    assert recognise(root) == "lits"


def test_slices_and_a_single_case(tmp_path: Path, layouts, three):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / "images" / "case_1_slice_1.png")
    assert recognise(tmp_path) == "slices"
    assert recognise(layouts["kits"](tmp_path / "kits", three) / "case_00001") == "kits"


def test_a_zip_with_damaged_members_is_no_dicom(tmp_path: Path):
    path = tmp_path / "root" / "x.zip"
    path.parent.mkdir()
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.writestr("one/IM1", DICOM * 50)
    whole = bytearray(path.read_bytes())
    whole[40:60] = bytes(255 - b for b in whole[40:60])
    path.write_bytes(whole)
    with pytest.raises(InputError, match="expected the layout of a source"):
        recognise(path.parent)


def zipped(path: Path, content: bytes) -> bytes:
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.writestr("one/IM1", content)
    return path.read_bytes()


def cut(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def encrypted(whole: bytes) -> bytes:
    flags = whole.find(b"PK\1\2") + 8  # in the directory
    return whole[:flags] + b"\1" + whole[flags + 1 :]


def bomb(whole: bytes) -> bytes:
    return whole.replace((500).to_bytes(4, "little"), (3 * 2**30).to_bytes(4, "little"))


ZIPS = {
    cut: "expected a whole zip, it can't be read: File is not a zip file",
    encrypted: "can't be read from the zip: .* is encrypted",
    bomb: "claim to hold 3 GiB, refused above 200 times",
}


@pytest.mark.parametrize("source", [None, "dicom"])
@pytest.mark.parametrize(("spoil", "message"), ZIPS.items())
def test_a_zip_alone_says_what_is_wrong_with_it(tmp_path: Path, spoil, message: str, source: str | None):
    path = tmp_path / "x.zip"
    path.write_bytes(spoil(zipped(path, (DICOM * 50)[:500])))
    with pytest.raises(InputError, match=message) as caught:
        check_root(path, source, workers=1)
    assert str(caught.value).startswith(str(path)) and len(str(caught.value)) < 2 * len(str(path)) + 120


@pytest.mark.parametrize("source", [None, "dicom", "kits", "lits", "msd", "nnunet", "slices"])
def test_data_elsewhere_are_not_read(source: str | None):
    with pytest.raises(InputError, match=r"^s3://bucket/kits.*: data are read from local disks: .*aws s3 sync"):
        check_root(Path("s3://bucket/kits"), source, workers=1)


def test_links_to_folders_are_followed(tmp_path: Path, layouts, three):
    store = tmp_path / "store"
    layouts["lits"](store, three)
    write_series(store / "scan")
    root, scans = tmp_path / "root", tmp_path / "scans"
    root.mkdir()
    scans.mkdir()
    for n in (1, 2):
        (root / f"batch {n}").symlink_to(store / f"Training Batch {n}")
    (scans / "patient").symlink_to(store / "scan")
    assert recognise(root) == "lits"
    assert len(open_source("lits", root, {}).cases) == 3
    assert recognise(scans) == "dicom"
    (root / "more").symlink_to(store / "Training Batch 1" / "volume-0.nii")
    shutil.copy(store / "Training Batch 1" / "volume-0.nii", store / "Training Batch 1" / "other.nii")
    (found,) = [f for f in check_root(root, workers=1).findings if f.code == "unused-file"]
    assert "batch 1/other.nii" in found.text


@pytest.mark.parametrize("content", [DICOM, BARE])
@pytest.mark.parametrize("place", ["a.dcm", "study/series 1/IM0001", "x.zip"])
def test_dicom_in_a_tree_or_a_zip(tmp_path: Path, place: str, content: bytes):
    root = tmp_path / "root"
    path = root / place
    path.parent.mkdir(parents=True)
    (root / "README.txt").write_text("x" * 500)
    if place == "x.zip":
        with ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "nothing")
            archive.writestr("one/IM1", content)
        assert recognise(path) == "dicom"
    else:
        path.write_bytes(content)
    assert recognise(root) == "dicom"


def test_what_is_no_layout_is_said_with_what_was_found(tmp_path: Path, layouts, three):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        recognise(tmp_path / "nowhere")
    root = tmp_path / "root"
    root.mkdir()
    for n in range(7):
        (root / f"file{n}.txt").touch()
    (root / "bad.zip").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError) as caught:
        recognise(root)
    message = str(caught.value)
    assert message.startswith(f"{root}: expected the layout of a source that is known: dicom (")
    assert "lits (volume-0.nii" in message and "nnunet (dataset.json with 'channel_names'" in message
    assert message.endswith("found bad.zip, file0.txt, file1.txt, file2.txt, file3.txt and 3 more")
    assert "\n" not in message
    layouts["msd"](root / "Task03_Liver", three)
    with pytest.raises(InputError, match=r"no data set itself, did you mean .*Task03_Liver\?"):
        recognise(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"found nothing$"):
        recognise(tmp_path / "empty")


def test_a_recipe_without_a_name_whose_root_is_unknown(tmp_path: Path):
    with pytest.raises(InputError, match=r"^x: .*gone: no such folder$"):
        recipe.from_values({"name": "x", "source": {"root": str(tmp_path / "gone")}}, "x")
    with pytest.raises(InputError, match=r"^x: 'source.name' is missing$"):
        recipe.from_values({"name": "x", "source": {"task": "both"}}, "x")


def test_a_damaged_description_is_named(tmp_path: Path):
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset\.json: expected JSON, it can't be read"):
        recognise(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match=r"dataset\.json: expected a mapping, got list"):
        recognise(tmp_path)

"""Splits: by patient, seeded, and a file that says so."""

import json
import shutil
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlfd import plugins
from hlfd.data.prepare import prepare
from hlfd.data.preprocess import Preprocess
from hlfd.data.split_files import is_nnunet, read_nnunet_splits, read_splits, write_splits
from hlfd.data.splits import Split, inner_splits, make_splits, require_distinct, tumor_volumes
from hlfd.errors import InputError

PATIENTS = [f"p{n:02}" for n in range(20)]


@given(
    patients=st.sets(st.integers(0, 99).map(str), min_size=6, max_size=40),
    seed=st.integers(0, 2**32 - 1),
    folds=st.none() | st.integers(2, 5),
    share=st.sampled_from([0.1, 0.25, 1, 2]),
)
def test_every_patient_is_in_one_part_and_each_fold_tests_others(patients, seed, folds, share):
    several_cases_each = [*patients, *patients]
    splits = make_splits(several_cases_each, seed=seed, validation=share, test=share, folds=folds)
    assert len(splits) == (folds or 1)
    for split in splits:
        parts = [*split.train, *split.validation, *split.test]
        assert sorted(parts) == sorted(patients)
        assert split.train and split.validation and split.test
    if folds:
        tested = [p for split in splits for p in split.test]
        assert sorted(tested) == sorted(patients)


def test_the_seed_decides_and_the_order_of_the_files_does_not():
    options = {"validation": 0.1, "test": 0.25}
    first = make_splits(PATIENTS, seed=1, **options)
    assert make_splits(PATIENTS[::-1], seed=1, **options) == first
    assert make_splits(PATIENTS, seed=2, **options) != first
    assert [len(getattr(first[0], part)) for part in ("train", "validation", "test")] == [13, 2, 5]
    (counted,) = make_splits(PATIENTS, seed=1, validation=4, test=10)
    assert [len(counted.train), len(counted.validation), len(counted.test)] == [6, 4, 10]


def test_labels_kept_back_make_patients_unlabelled():
    options = {"seed": 1, "validation": 2, "test": 5}
    (full,) = make_splits(PATIENTS, **options)
    for labelled, count in ((4, 4), (0.5, 6), (13, 13), (0.001, 1), (1.0, 1)):
        (split,) = make_splits(PATIENTS, **options, labelled=labelled, unlabelled=["q1", "q0"])
        assert (split.validation, split.test) == (full.validation, full.test)
        assert len(split.train) == count
        assert sorted(split.train + split.unlabelled) == sorted([*full.train, "q0", "q1"])
        assert {"q0", "q1"} <= set(split.unlabelled)


@given(st.integers(2, 6), st.integers(0, 99))
def test_each_training_patient_is_left_out_by_one_teacher(folds, seed):
    (split,) = make_splits(PATIENTS, seed=seed, validation=3, test=4)
    inner = inner_splits(split, folds, seed)
    assert sorted(p for s in inner for p in s.test) == sorted(split.train)
    for s in inner:
        assert s.validation == split.validation
        assert sorted(s.train + s.test) == sorted(split.train)
        assert not set(s.train + s.test) & set(split.test)


def test_too_few_patients_for_the_teachers():
    with pytest.raises(InputError, match="2 training patients are too few for 3 teachers"):
        inner_splits(Split(("a", "b"), ("c",), ("d",)), 3, 0)


def test_unlabelled_patients_in_a_file(tmp_path: Path):
    split = Split(("p00",), ("p01",), ("p02",), ("p03", "p04"))
    write_splits(tmp_path / "s.json", [split])
    assert read_splits(tmp_path / "s.json", PATIENTS) == [split]
    with pytest.raises(InputError, match="there is no patient 'p04' in the data"):
        read_splits(tmp_path / "s.json", PATIENTS[:4])
    assert read_splits(tmp_path / "s.json", PATIENTS[:3], PATIENTS[3:]) == [split]
    for part, without in (("train", "p00"), ("validation", "p01"), ("test", "p02")):
        others = [p for p in PATIENTS if p != without]
        with pytest.raises(InputError, match=f"patient '{without}' has no labels, it can only be unlabelled"):
            read_splits(tmp_path / "s.json", others, [without])
        assert without in getattr(split, part)
    with pytest.raises(InputError, match="patient p02 is both in test and in unlabelled"):
        Split(("p00",), ("p01",), ("p02",), ("p02",))
    folds = [{"train": ["p00"], "validation": ["p01"], "test": ["p02"]}]
    (tmp_path / "old.json").write_text(json.dumps({"folds": folds}))
    assert read_splits(tmp_path / "old.json", PATIENTS)[0].unlabelled == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 30}, "folds: expected 2 to 20"),
        ({"folds": 1}, "folds: expected 2 to 20"),
        ({"labelled": 17}, "labelled: expected at most 16, the number of training patients, got 17"),
        ({"test": 15, "validation": 5}, "20 patients are too few for 15 to test, 5 to validate and one to train"),
    ],
)
def test_splits_that_can_not_be(options, message):
    with pytest.raises(InputError, match=message):
        make_splits(PATIENTS, **{"seed": 0, "validation": 2, "test": 2, **options})


def test_a_patient_in_two_parts():
    with pytest.raises(InputError, match="patient b is both in train and in test"):
        Split(("a", "b"), ("c",), ("b",))


def test_a_file_comes_back(tmp_path: Path):
    splits = make_splits(PATIENTS, seed=3, validation=2, test=1, folds=4)
    write_splits(tmp_path / "splits.json", splits)
    assert read_splits(tmp_path / "splits.json", PATIENTS) == splits


GOOD = {"train": ["p00", "p01"], "validation": ["p02"], "test": ["p03"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"folds": [{**GOOD, "test": ["p01"]}]}), "patient p01 is both in train and in test"),
        (json.dumps({"folds": [{**GOOD, "validation": ["p03"]}]}), "patient p03 is both in validation and in test"),
        (json.dumps({"folds": [{**GOOD, "test": ["p3"]}]}), r"there is no patient 'p3' in the data \(did you mean"),
        (json.dumps({"folds": [{**GOOD, "test": []}]}), "test is empty"),
        (json.dumps({"folds": [{**GOOD, "unlabelled": "p04"}]}), "unlabelled: expected a list of patients, got 'p04'"),
        (json.dumps({"folds": [{**GOOD, "train": "p00"}]}), "train: expected a list of patients, got 'p00'"),
        (json.dumps({"folds": [{**GOOD, "test": [3]}]}), r"test: expected a list of patients, got \[3\]"),
        (json.dumps({"folds": [{"train": ["p00"]}]}), "expected .*train.*validation.*test.*got KeyError"),
        (json.dumps({"fold": []}), "got KeyError"),
        (json.dumps([1]), "got TypeError"),
        ("{", "got JSONDecodeError"),
        (None, "no such file"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, text: str | None, message: str):
    path = tmp_path / "splits.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_splits(path, PATIENTS)
    assert str(caught.value).startswith(f"{path}: ")


@given(
    sizes=st.lists(st.just(0.0) | st.floats(0.1, 500), min_size=12, max_size=60),
    seed=st.integers(0, 99),
    folds=st.none() | st.integers(2, 5),
)
def test_each_part_gets_its_share_of_small_and_large_tumours(sizes, seed, folds):
    volumes = {f"p{n:02}": size for n, size in enumerate(sizes)}
    splits = make_splits(volumes, seed=seed, validation=3, test=0.25, folds=folds, labelled=0.5, volumes=volumes)
    assert splits == make_splits(
        volumes, seed=seed, validation=3, test=0.25, folds=folds, labelled=0.5, volumes=volumes
    )
    above = sorted(sizes, reverse=True)
    for split in splits:
        everybody = [p for part in (split.train, split.validation, split.test, split.unlabelled) for p in part]
        assert sorted(everybody) == sorted(volumes)
        for limit in (above[0], above[len(above) // 3], above[len(above) // 2], 0.05):
            most, n = sum(v >= limit for v in sizes), len(split.test)
            expected = most * n / len(sizes)
            found = sum(volumes[p] >= limit for p in split.test)
            assert abs(found - expected) <= 1 + n / len(sizes)  # a stretch or block that straddles the limit
    if folds:
        assert sorted(p for split in splits for p in split.test) == sorted(volumes)


def test_stratified_parts_differ_with_the_seed_and_are_more_even_than_shuffled_ones():
    volumes = {f"p{n:02}": float(n < 10) * n for n in range(40)}  # 9 of 40 have a tumour

    def spread_of(**options) -> tuple[float, int]:
        tests = [make_splits(volumes, seed=s, validation=2, test=10, **options)[0].test for s in range(30)]
        return float(np.std([sum(volumes[p] > 0 for p in test) for test in tests])), len(set(tests))

    stratified, shuffled = spread_of(volumes=volumes), spread_of()
    assert stratified[0] < 0.6 and shuffled[0] > 0.8
    assert stratified[1] > 25


def test_the_datas_own_test_patients():
    (split,) = make_splits(PATIENTS, seed=1, validation=0.25, test=0.5, held_out=PATIENTS[:4])
    assert split.test == tuple(PATIENTS[:4])
    assert (len(split.train), len(split.validation)) == (12, 4)
    with pytest.raises(InputError, match="folds: the data come with 4 test patients of their own"):
        make_splits(PATIENTS, seed=1, validation=2, test=2, folds=3, held_out=PATIENTS[:4])


CASES = {f"c{n}{scan}": f"p{n:02}" for n in range(8) for scan in "ab"}
FOLDS = [
    {"train": [c for c in CASES if c[1] not in "01"], "val": [c for c in CASES if c[1] in "01"]},
    {"train": [c for c in CASES if c[1] not in "23"], "val": [c for c in CASES if c[1] in "23"]},
]
DRAWN = {"seed": 1, "validation": 2}


def test_nnunets_splits(tmp_path: Path):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(FOLDS))
    assert is_nnunet(path)
    splits = read_nnunet_splits(path, CASES, **DRAWN, unlabelled=["q"])
    assert [split.test for split in splits] == [("p00", "p01"), ("p02", "p03")]
    for split in splits:
        assert len(split.train) == 4 and len(split.validation) == 2 and split.unlabelled == ("q",)
        assert sorted(split.train + split.validation + split.test) == sorted(set(CASES.values()))
    path.write_text(json.dumps([{"train": FOLDS[0]["train"][4:], "val": FOLDS[0]["val"]}]))
    (own,) = read_nnunet_splits(path, CASES, held_out=["p02", "p03"], **DRAWN)
    assert own == Split(("p04", "p05", "p06", "p07"), ("p00", "p01"), ("p02", "p03"))
    (part,) = read_nnunet_splits(path, CASES, held_out=["p02", "p03"], **DRAWN, labelled=0.5, unlabelled=["q"])
    assert (part.validation, part.test, len(part.train)) == (own.validation, own.test, 2)
    assert sorted(part.train + part.unlabelled) == sorted([*own.train, "q"])
    volumes = {f"p{n:02}": float(n) for n in range(8)}
    (spread,) = read_nnunet_splits(path, CASES, held_out=["p02", "p03"], **DRAWN, labelled=2, volumes=volumes)
    assert len({"p06", "p07"} & set(spread.train)) == 1  # one of the larger tumours, one of the smaller
    with pytest.raises(InputError, match="fold 0: labelled: expected at most 4, the number of training patients"):
        read_nnunet_splits(path, CASES, held_out=["p02", "p03"], **DRAWN, labelled=5)
    write_splits(tmp_path / "ours.json", splits)
    assert not is_nnunet(tmp_path / "ours.json")


@pytest.mark.parametrize(
    ("folds", "held_out", "message"),
    [
        ([{"train": ["c0a", "c1a"], "val": ["c0b"]}], (), "fold 0: patient p00 is both in train and in val"),
        ([FOLDS[0], {"train": ["c0a"], "val": ["c9a"]}], (), "fold 1: there is no case 'c9a' with labels in the data"),
        ([{"train": ["c0a"], "val": []}], (), "fold 0: expected cases in train and in val, got none in one"),
        ([{"train": ["c0a"]}], (), "fold 0: expected .*val.*got KeyError"),
        ([{"train": ["c0a"], "val": 3}], (), "fold 0: expected .*got TypeError"),
        ([["c0a"]], (), "fold 0: expected .*got TypeError"),
        ([], (), "expected folds, got none"),
        ([{"train": ["c0a"], "val": ["c1a"]}], (), "fold 0: 1 patients are too few for 1 to test, 2 to validate"),
        (FOLDS, ("p02",), "fold 0: patient p02 is both in train and in test"),
    ],
)
def test_a_list_of_folds_that_does_not_fit(tmp_path: Path, folds, held_out, message: str):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(folds))
    with pytest.raises(InputError, match=message) as caught:
        read_nnunet_splits(path, CASES, held_out=held_out, **DRAWN)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_same_scan_in_two_parts_names_both(kits_root: Path, tmp_path: Path):
    shutil.copytree(kits_root / "case_00001", kits_root / "case_00009")
    path = kits_root / "case_00009" / "segmentation.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.minimum(np.asanyarray(image.dataobj), 1), image.affine), path)  # labelled by another
    make = partial(plugins.load, "sources", "kits", kits_root)
    store = prepare(make, Preprocess(window_hu=(-200.0, 300.0)), tmp_path / "store")
    twin = "case case_00001 in train and case case_00009 in test are the same scan"
    with pytest.raises(InputError, match=twin):
        require_distinct(store, Split(("case_00001",), ("case_00000",), ("case_00002", "case_00009")))
    require_distinct(store, Split(("case_00001", "case_00009"), ("case_00000",), ("case_00002",)))
    require_distinct(store, Split(("case_00001",), ("case_00000",), ("case_00002",)))  # the other takes no part
    with pytest.raises(InputError, match="case_00001 in validation and case case_00009 in unlabelled"):
        require_distinct(store, Split(("case_00000",), ("case_00001",), ("case_00002",), ("case_00009",)))


def recipe_of(tmp_path: Path, root: Path, split: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: t\noutput: {tmp_path / 'out'}\nsource: {{root: {root}}}\nsplit: {split}\n")
    return path


def test_a_recipe_stratifies_by_tumour_and_refuses_twins(make_kits, tmp_path: Path, hlfd):
    root = make_kits(tmp_path / "kits", 12)
    for n in range(6):  # the others have none
        path = root / f"case_{n:05}" / "segmentation.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.minimum(np.asanyarray(image.dataobj), 1), image.affine), path)
    ended = hlfd("prepare", recipe_of(tmp_path, root, "{stratify: true, folds: 3, validation: 2}"), "--workers", 1)
    assert ended.code == 0, ended.err
    folds = json.loads((tmp_path / "out" / "splits.json").read_text())["folds"]
    for fold in folds:
        assert sum(int(case[-2:]) < 6 for case in fold["test"]) == 2
        assert sum(int(case[-2:]) < 6 for case in fold["validation"]) == 1
    make = partial(plugins.load, "sources", "kits", root)
    volumes = tumor_volumes(prepare(make, Preprocess(window_hu=(-200.0, 300.0)), tmp_path / "out" / "store"), (2,))
    for n in range(12):
        image = nib.load(root / f"case_{n:05}" / "segmentation.nii.gz")
        mm3 = float((np.asanyarray(image.dataobj) == 2).sum() * np.prod(image.header.get_zooms()))
        assert (mm3 > 0) == (n > 5)
        np.testing.assert_allclose(volumes[f"case_{n:05}"], mm3, rtol=1e-5)

    shutil.copytree(root / "case_00003", root / "case_00012")
    (tmp_path / "out" / "splits.json").unlink()
    ended = hlfd("prepare", recipe_of(tmp_path, root, "{folds: 13, validation: 1}"), "--workers", 1)
    assert ended.code == 2
    assert "case case_00003 in " in ended.err and "and case case_00012 in " in ended.err
    ended = hlfd("prepare", recipe_of(tmp_path, root, "{stratify: true, test: 30}"), "--workers", 1)
    assert ended.code == 2 and "13 patients are too few" in ended.err


def test_the_folds_that_come_with_the_data(tmp_path: Path, hlfd, kits_root: Path):
    raw = tmp_path / "nnUNet_raw" / "Dataset001_X"
    for folder in kits_root.iterdir():
        for part, name in (("imagesTr", f"{folder.name}_0000"), ("labelsTr", folder.name)):
            (raw / part).mkdir(parents=True, exist_ok=True)
            kind = "imaging" if part == "imagesTr" else "segmentation"
            shutil.copy(folder / f"{kind}.nii.gz", raw / part / f"{name}.nii.gz")
    labels = {"background": 0, "kidney": 1, "tumor": 2}
    (raw / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    cases = sorted(p.name for p in kits_root.iterdir())
    preprocessed = tmp_path / "nnUNet_preprocessed" / "Dataset001_X"
    preprocessed.mkdir(parents=True)
    folds = [{"train": [c for c in cases if c != val], "val": [val]} for val in cases]
    (preprocessed / "splits_final.json").write_text(json.dumps(folds))
    ended = hlfd("prepare", recipe_of(tmp_path, raw, "{validation: 1}"), "--workers", 1)
    assert ended.code == 0, ended.err
    written = json.loads((tmp_path / "out" / "splits.json").read_text())["folds"]
    assert [fold["test"] for fold in written] == [[case] for case in cases]
    ended = hlfd("prepare", recipe_of(tmp_path, raw, "{validation: 1, folds: 3}"), "--workers", 1)
    assert ended.code == 2
    assert "split.folds: the folds are those of" in ended.err and "set split.from_source to false" in ended.err
    (tmp_path / "out" / "splits.json").unlink()
    ended = hlfd("prepare", recipe_of(tmp_path, raw, "{validation: 1, test: 1, from_source: false}"), "--workers", 1)
    assert ended.code == 0, ended.err
    assert len(json.loads((tmp_path / "out" / "splits.json").read_text())["folds"]) == 1
    shutil.rmtree(tmp_path / "out")
    path = preprocessed / "splits_final.json"
    kept = path.rename(tmp_path / "kept.json")
    for kind, file in (("images", f"{cases[1]}_0000.nii.gz"), ("labels", f"{cases[1]}.nii.gz")):
        (raw / f"{kind}Ts").mkdir()
        (raw / f"{kind}Tr" / file).rename(raw / f"{kind}Ts" / file)
    ended = hlfd("prepare", recipe_of(tmp_path, raw, "{validation: 1}"), "--workers", 1)
    assert ended.code == 0, ended.err
    (fold,) = json.loads((tmp_path / "out" / "splits.json").read_text())["folds"]
    assert fold["test"] == [cases[1]]
    shutil.rmtree(tmp_path / "out")
    kept.rename(path)
    ended = hlfd("prepare", recipe_of(tmp_path, kits_root, f"{{validation: 1, file: {path}}}"), "--workers", 1)
    assert ended.code == 0, ended.err

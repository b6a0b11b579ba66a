"""Splits: by patient, seeded, and a file that says so."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlfd.data.split_files import read_splits, write_splits
from hlfd.data.splits import Split, inner_splits, make_splits
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

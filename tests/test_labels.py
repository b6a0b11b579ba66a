"""Labels: values in files become classes, and nothing undeclared passes."""

import numpy as np
import pytest

from hlfd.errors import InputError
from hlfd.labels import for_task, from_names, organ_and_tumor

VALUES = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.int32)


@pytest.mark.parametrize(
    ("task", "names", "classes", "regions"),
    [
        ("tumor", ("tumor",), [[0, 0, 1], [1, 0, 0]], {"tumor": [2]}),
        ("organ", ("kidney",), [[0, 1, 1], [1, 1, 0]], {"kidney": [1, 2]}),
        ("both", ("kidney", "tumor"), [[0, 1, 2], [2, 1, 0]], {"kidney": [1, 2], "tumor": [2]}),
    ],
)
def test_tasks(task, names, classes, regions):
    labels = organ_and_tumor(task, "kidney")
    assert labels.names == names
    assert labels.classes == len(names) + 1
    found = labels.to_classes(VALUES, "x")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, classes)
    assert set(labels.regions) == set(regions)
    for name, values in regions.items():
        np.testing.assert_array_equal(labels.region(found, name), np.isin(VALUES, values))


def test_other_values_and_ignored_ones():
    labels = organ_and_tumor("both", "liver", organ_value=6, tumor_value=255, ignore=(3,))
    np.testing.assert_array_equal(labels.to_classes(np.array([0, 3, 6, 255]), "x"), [0, 0, 1, 2])


@pytest.mark.parametrize(
    ("values", "shown"),
    [([0, 1, 3], "3"), ([0.5, 1, 2], "0.5"), ([-1, 0], "-1"), (range(3, 20), "3, 4, 5, 6, 7, ...")],
)
def test_an_unknown_value_is_named_with_its_file(values, shown):
    message = rf"case_7\.nii: unknown label values {shown}; expected only \[0, 1, 2\]"
    with pytest.raises(InputError, match=message):
        organ_and_tumor("both", "kidney").to_classes(np.array(values), "case_7.nii")


@pytest.mark.parametrize("task", ["tumor", "both"])
def test_a_source_without_tumours_has_one_task(task):
    with pytest.raises(InputError, match=f"task '{task}' needs a tumour label"):
        organ_and_tumor(task, "liver", tumor_value=None)
    assert organ_and_tumor("organ", "liver", tumor_value=None).names == ("liver",)


@pytest.mark.parametrize(
    ("values", "raw", "names", "regions"),
    [
        (
            {"kidney": 1, "tumor": (2, 3)},
            {0: 0, 1: 1, 2: 2, 3: 2},
            ("kidney", "tumor"),
            {"kidney": (1, 2), "tumor": (2,)},
        ),
        ({"tumor": 2, "liver": 1}, {0: 0, 2: 1, 1: 2}, ("tumor", "liver"), {"tumor": (1,), "liver": (2,)}),
        ({"Vessel": 1, "Tumour": 2}, {0: 0, 1: 1, 2: 2}, ("Vessel", "Tumour"), {"Vessel": (1,), "Tumour": (2,)}),
        (
            {"pancreas": 1, "cancer": 2},
            {0: 0, 1: 1, 2: 2},
            ("pancreas", "cancer"),
            {"pancreas": (1, 2), "cancer": (2,)},
        ),
        ({"background": (5, 6), "a": 9}, {0: 0, 5: 0, 6: 0, 9: 1}, ("a",), {"a": (1,)}),
        (
            {"a": 1, "b": 2, "tumor": 3},
            {0: 0, 1: 1, 2: 2, 3: 3},
            ("a", "b", "tumor"),
            {"a": (1,), "b": (2,), "tumor": (3,)},
        ),
        (
            {"whole": (1, 2, 3, 7), "core": (2, 3)},  # shared: regions, each value a class
            {0: 0, 1: 1, 2: 2, 3: 3, 7: 4},
            ("whole", "core", "core_3", "whole_7"),
            {"whole": (1, 2, 3, 4), "core": (2, 3)},
        ),
    ],
)
def test_labels_from_names(values, raw, names, regions):
    labels = from_names(values)
    assert (dict(labels.raw), labels.names, dict(labels.regions)) == (raw, names, regions)


def test_regions_that_are_given():
    labels = from_names({"kidney": 1, "tumor": 2, "cyst": 3}, {"mass": ("cyst", "tumor"), "tumor": "tumor"})
    assert labels.regions == {"mass": (2, 3), "tumor": (2,)}
    assert labels.tumor_classes == (2,)
    assert from_names({"kidney": 1, "mass": 2, "cyst": 3}).tumor_classes == (2,)
    assert from_names({"kidney": 1, "cyst": 2}).tumor_classes == (2,)
    assert from_names({"Tumour": 1, "cyst": 2}).tumor_classes == (1,)


@pytest.mark.parametrize(
    ("values", "regions", "message"),
    [
        ({"a": ()}, None, r"labels\.a: expected whole numbers from 0 to 65535, got \[\]"),
        ({"a": -1}, None, r"labels\.a: expected whole numbers from 0 to 65535, got \[-1\]"),
        ({"a": 70000}, None, r"labels\.a: expected whole numbers from 0 to 65535, got \[70000\]"),
        ({"a": 0}, None, r"labels\.a: 0 is background, expected other values"),
        ({"background": 3, "a": (1, 3)}, None, r"labels\.a: 3 is background, expected other values"),
        ({"background": 3}, None, "labels: expected a name beside 'background', got none"),
        ({f"n{n}": n + 1 for n in range(256)}, None, "labels: expected at most 255 classes, got 256"),
        ({"kidney": 1}, {"x": "kidny"}, r"regions\.x: there is no label 'kidny' \(did you mean 'kidney'"),
        ({"kidney": 1}, {"x": ()}, r"regions\.x: expected names of labels, got none"),
        ({"kidney": 1}, {}, "regions: expected at least one, got none"),
    ],
)
def test_labels_that_can_not_be(values, regions, message):
    with pytest.raises(InputError, match=message):
        from_names(values, regions)


def test_a_task_of_other_labels():
    labels = from_names({"kidney": 1, "tumor": 2, "cyst": 3})
    assert for_task(labels, "both") is labels
    np.testing.assert_array_equal(for_task(labels, "tumor").to_classes(np.arange(4), "x"), [0, 0, 1, 0])
    np.testing.assert_array_equal(for_task(labels, "organ").to_classes(np.arange(4), "x"), [0, 1, 1, 1])
    with pytest.raises(InputError, match="task 'tumor': there is no label 'tumor'"):
        for_task(from_names({"kidney": 1, "mass": 2}), "tumor")

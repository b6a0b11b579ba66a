"""Labels: values in files become classes, and nothing undeclared passes."""

import numpy as np
import pytest

from hlfd.errors import InputError
from hlfd.labels import organ_and_tumor

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

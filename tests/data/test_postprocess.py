"""Post-processing against what can be counted by hand."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from hlfd.data.postprocess import Postprocess, components, lesion_regions
from hlfd.errors import InputError
from hlfd.io.dicom import codes
from hlfd.labels import Labels, organ_and_tumor

BOTH, TUMOR, ORGAN = (organ_and_tumor(task, "kidney") for task in ("both", "tumor", "organ"))
MASSES = Labels({}, {"kidney": (1, 2, 3), "masses": (2, 3), "tumor": (2,)}, ("kidney", "tumor", "cyst"))


def scene() -> np.ndarray:
    """Two kidneys of 125 and 64 voxels and a crumb of 1; lesions of 8 (in the first), 1 (in it) and 8 (far away)."""
    classes = np.zeros((12, 24, 30), np.uint8)
    classes[2:7, 2:7, 2:7] = 1
    classes[2:6, 2:6, 20:24] = 1
    classes[11, 23, 29] = 1
    classes[3:5, 3:5, 3:5] = 2
    classes[6, 6, 6] = 2
    classes[8:10, 15:17, 10:12] = 2
    return classes


def apply(labels: Labels = BOTH, classes: np.ndarray | None = None, voxel_mm3: float = 2.0, **options) -> np.ndarray:
    classes = scene() if classes is None else classes
    before = classes.copy()
    after = Postprocess(**options).apply(classes, voxel_mm3, labels)
    np.testing.assert_array_equal(classes, before)
    return after


def counts(classes: np.ndarray) -> list[int]:
    return np.bincount(classes.ravel(), minlength=3)[1:].tolist()


def test_nothing_set_is_nothing_done():
    classes = scene()
    assert Postprocess().apply(classes, 1.0, BOTH) is classes
    assert not Postprocess()


def test_the_largest_components_stay_with_what_is_in_them():
    assert counts(apply(largest={"kidney": 1})) == [125 - 9, 9]
    assert counts(apply(largest={"kidney": 2})) == [125 - 9 + 64, 9]
    assert counts(apply(largest={"kidney": 9})) == counts(scene())
    assert counts(apply(largest={"tumor": 1})) == [125 - 9 + 65, 8]


def test_lesions_stay_where_they_touch_the_organ():
    after = apply(lesions_inside=True)
    assert counts(after) == [125 - 9 + 65, 9]
    assert not after[8:10, 15:17, 10:12].any()


def test_a_lesion_that_is_too_small_becomes_organ_or_background():
    after = apply(smallest_lesion_mm3=2.5)  # one voxel has 2 mm3
    assert counts(after) == [125 - 8 + 65, 16]
    assert after[6, 6, 6] == 1
    after = apply(smallest_lesion_mm3=16.5)
    assert counts(after) == [125 + 65, 0]
    assert not after[8:10, 15:17, 10:12].any()
    assert counts(apply(smallest_lesion_mm3=2.0)) == counts(scene())  # not below
    alone = (scene() == 2).astype(np.uint8)
    assert counts(apply(TUMOR, alone, smallest_lesion_mm3=2.5)) == [16, 0]


def test_a_tumour_in_a_cyst_is_inside_the_kidney():
    classes = np.zeros((9, 9, 9), np.uint8)
    classes[0:2] = 1
    classes[2:7, 2:7, 2:7] = 3
    classes[4, 4, 4] = 2
    assert lesion_regions(MASSES) == ["masses", "tumor"]
    np.testing.assert_array_equal(apply(MASSES, classes, lesions_inside=True), classes)
    classes[0:2] = 0
    assert not apply(MASSES, classes, lesions_inside=True).any()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((each, True) for each in ("liver_tumor", "kidney tumour", "cancer", "Neoplasm", "nodules", "renal_cyst")),
        *((each, False) for each in ("liver", "kidney_and_mass", "vessel")),
    ],
)
def test_a_region_alone_is_a_lesion_if_it_is_called_so(name, expected):
    assert lesion_regions(Labels({}, {name: (1,)}, (name,))) == [name] * expected
    kinds = {codes.ABNORMAL: True, codes.ANATOMY: False, codes.TISSUE: False}
    assert kinds[codes.coded(name).category] == expected  # a SEG's codes say the same


def test_a_region_is_a_lesion_whatever_its_class_is_called():
    assert lesion_regions(Labels({}, {"tumor": (1,)}, ("hcc",))) == ["tumor"]


def test_an_empty_map_and_another_order_of_memory():
    empty = np.zeros((3, 4, 5), np.uint8)
    everything = {"largest": {"kidney": 1}, "lesions_inside": True, "smallest_lesion_mm3": 5.0}
    np.testing.assert_array_equal(apply(classes=empty, **everything), empty)
    turned = np.asfortranarray(scene())
    after = apply(classes=turned, **everything)
    np.testing.assert_array_equal(after, apply(**everything))
    assert after.flags.f_contiguous


def test_components_as_scipy_finds_them():
    mask = np.random.default_rng(0).random((20, 21, 22)) > 0.92
    numbers, box, sizes = components(mask)
    expected, count = ndimage.label(mask, np.ones((3, 3, 3)))
    assert len(sizes) == count
    np.testing.assert_array_equal(numbers > 0, mask[box])
    assert sorted(sizes) == sorted(np.bincount(expected.ravel())[1:])
    assert sizes.sum() == mask.sum()


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (BOTH, {"largest": {"kidny": 1}}, r"no region 'kidny' \(did you mean 'kidney'"),
        (ORGAN, {"smallest_lesion_mm3": 1}, "smallest_lesion_mm3 needs a lesion among the regions, got kidney"),
        (TUMOR, {"lesions_inside": True}, "lesions_inside needs an organ that contains a lesion, got tumor"),
    ],
)
def test_what_does_not_fit_the_labels(labels, options, words):
    with pytest.raises(InputError, match=words):
        apply(labels, **options)


@pytest.mark.parametrize("options", [{"largest": {"kidney": 0}}, {"smallest_lesion_mm3": -1}, {"biggest": {}}])
def test_what_can_not_be(options):
    with pytest.raises(ValidationError):
        Postprocess(**options)

"""How a teacher sees the student's image: exact numbers for every pair of preprocessings, or a plain refusal."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hlfd.data.preprocess import Preprocess
from hlfd.distill.features import Tapped
from hlfd.distill.frozen import FrozenTeacher, View
from hlfd.distill.pretrained import Intensity, Pretrained
from hlfd.errors import InputError
from hlfd.labels import Labels, organ_and_tumor
from hlfd.teachers._foreign import Foreign
from hlfd.teachers._view import view

WINDOW = (-160.0, 240.0)
SAME = Intensity(-160, 240, 40, 200)


class Network(nn.Module):
    """Stride ``stride`` at its one stage; the logits say what image it was shown."""

    def __init__(self, dims: int, classes: int, stride: int):
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.stage = conv(1, 2, stride, stride)
        self.head = conv(1, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        self.stage(image)
        return self.head(image)


def teacher(
    intensity: Intensity = SAME,
    *,
    names: tuple[str, ...] = ("kidney", "tumor"),
    dims: int = 2,
    stride: int = 16,
    foreign: bool = False,
    in_channels: int = 1,
    **grid: Any,
) -> Pretrained:
    network = Network(dims, len(names) + 1, stride)
    given: dict[str, Any] = {"classes": len(names) + 1, "in_channels": in_channels, "dims": dims}
    taps = {"e5": "stage"}
    if foreign:
        tapped = Foreign(network, taps, **given, axcodes="SPL"[-dims:], multiples=(stride,) * dims)
    else:
        tapped = Tapped(network, taps, **given)
    return Pretrained(tapped, intensity, names, "test", **grid)


GIVEN = ("window_hu", "spacing_mm", "size", "crop", "neighbours", "patch", "slice_mm")


def seen(of: Pretrained, dims: int = 2, labels: Labels | None = None, **options: Any) -> View:
    student = {key: options.pop(key) for key in GIVEN if key in options}
    if "teacher_size" in options:
        options["size"] = options.pop("teacher_size")
    labels = labels or organ_and_tumor("both", "kidney")
    return view(of, Preprocess(**{"window_hu": WINDOW, **student}), labels, dims=dims, where="teachers.0", **options)


# Intensity


def test_the_same_window_changes_nothing():
    assert seen(teacher()) == View()


@pytest.mark.parametrize(
    ("intensity", "expected"),
    [
        (Intensity(-160, 240, -160, 400), View(scale=0.5, shift=0.5)),  # the same window to [0, 1]
        (Intensity(-60, 140, 40, 100), View(low=-0.5, high=0.5, scale=2.0, shift=0.0)),
        (Intensity(-60, 240, 40, 50), View(low=-0.5, scale=4.0, shift=0.0)),
        (Intensity(-160.9, 240.9, 40, 200), View()),  # less than 1 HU beyond
        (Intensity(-160, 140, 90, 10), View(high=0.5, scale=20.0, shift=-5.0)),
    ],
)
def test_windows_are_mapped_to_each_other(intensity, expected):
    assert seen(teacher(intensity)) == expected


@pytest.mark.parametrize(
    ("low", "high", "wider"),
    [(-200, 240, r"\[-200, 240\]"), (-160, 302, r"\[-160, 302\]"), (-1000, 1000, r"\[-1000, 1000\]")],
)
def test_hu_that_the_student_cuts_off_can_not_be_had_back(low, high, wider):
    message = f"teachers.0: the teacher tells HU from {low} to {high} apart, .*-160 to 240: set .*window_hu to {wider}"
    with pytest.raises(InputError, match=message):
        seen(teacher(Intensity(low, high, 0, 100)))


hu = st.floats(-1024, 3071, width=32)


@given(
    student=st.tuples(hu, st.floats(50, 4000)),
    part=st.tuples(st.floats(0, 0.8), st.floats(0.1, 1)),
    center=hu,
    scale=st.floats(5, 2000),
)
def test_the_teacher_sees_what_its_own_normalisation_would_give(student, part, center, scale):
    low, width = student
    high = low + width
    teacher_low = low + part[0] * width
    teacher_high = teacher_low + part[1] * (high - teacher_low)
    wanted = Intensity(teacher_low, teacher_high, center, scale)
    ramp = torch.linspace(-2000, 4000, 1601, dtype=torch.float64)
    own = (ramp.clamp(teacher_low, teacher_high) - center) / scale
    shown = ((ramp.clamp(low, high) - low) * (2 / (high - low)) - 1)[None, None, None]
    found = seen(teacher(wanted), window_hu=(low, high)).image(shown)[0, 0, 0]
    torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)
    in_single = seen(teacher(wanted), window_hu=(low, high)).image(shown.float())[0, 0, 0]
    torch.testing.assert_close(in_single, own.float(), rtol=1e-5, atol=1e-5 * max(1, width / scale))


# Size


@pytest.mark.parametrize(
    ("its", "student", "size"),
    [
        # a model of ours: the same field of view
        ({}, {}, None),
        ({}, {"crop": (100, 100)}, None),
        ({}, {"spacing_mm": 0.8, "crop": (256, 256)}, None),
        ({"spacing_mm": 0.8, "crop": (250, 250)}, {"spacing_mm": 0.8, "crop": (250, 250)}, None),
        ({"spacing_mm": 0.8}, {"spacing_mm": 0.8}, None),
        ({"spacing_mm": 0.8, "crop": (256, 256)}, {"spacing_mm": 1.6, "crop": (128, 128)}, (256, 256)),
        ({"spacing_mm": 1.6, "crop": (128, 160)}, {"spacing_mm": 0.8, "crop": (256, 320)}, (128, 160)),
        ({"spacing_mm": 0.8, "crop": (256, 256)}, {"spacing_mm": 0.801, "crop": (256, 256)}, None),
        ({"size": (256, 256)}, {"size": (256, 256)}, None),
        ({"size": (512, 512)}, {"size": (256, 256)}, (512, 512)),
        ({"size": (128, 128)}, {"size": (256, 256)}, (128, 128)),
        ({"size": (512, 512), "crop": (256, 256)}, {"size": (256, 256), "crop": (128, 128)}, (256, 256)),
        # a network from elsewhere, trained on patches: any part of a slice, at its pixel size
        ({"foreign": True}, {"spacing_mm": 0.8, "crop": (256, 256)}, None),
        ({"foreign": True}, {}, None),
        ({"foreign": True, "spacing_mm": 0.8}, {"spacing_mm": 0.8}, None),
        ({"foreign": True, "spacing_mm": 0.8}, {"spacing_mm": 0.8, "crop": (256, 256)}, None),
        ({"foreign": True, "spacing_mm": 0.8}, {"spacing_mm": 0.8, "crop": (250, 260)}, (256, 256)),
        ({"foreign": True, "spacing_mm": 0.8}, {"spacing_mm": 1.6, "crop": (128, 160)}, (256, 320)),
        ({"foreign": True, "spacing_mm": 1.5}, {"spacing_mm": 0.75, "crop": (256, 256)}, (128, 128)),
        ({"foreign": True, "spacing_mm": 0.78}, {"spacing_mm": 1.0, "crop": (192, 192)}, (240, 240)),  # 246.2
        ({"foreign": True}, {"size": (250, 250)}, (256, 256)),
    ],
)
def test_sizes(its, student, size):
    assert seen(teacher(**its), **student) == View(size=size)


@pytest.mark.parametrize(
    ("its", "student", "message"),
    [
        (
            {"spacing_mm": 0.8, "crop": (256, 256)},
            {"spacing_mm": 0.8, "crop": (128, 128)},
            r"the teacher has pixels of 0.8 mm and a crop of 256 x 256, the student pixels of 0.8 mm and a crop of "
            r"128 x 128: they see different parts of the slice, set preprocess.crop to \[256, 256\]",
        ),
        (
            {"spacing_mm": 0.8, "crop": (256, 256)},
            {"spacing_mm": 1.6},
            r"different parts of the slice, set preprocess.crop to \[128, 128\]",
        ),
        ({"spacing_mm": 0.8}, {"spacing_mm": 0.8, "crop": (128, 128)}, "the teacher knows whole slices"),
        ({"spacing_mm": 0.8}, {"spacing_mm": 1.6}, "the number of pixels isn't known: set preprocess.crop"),
        ({"size": (256, 256)}, {"size": (256, 256), "crop": (128, 128)}, "different parts of the slice"),
        ({"size": (512, 512), "crop": (256, 256)}, {"size": (256, 256)}, "different parts of the slice"),
        ({"size": (512, 512)}, {"spacing_mm": 1.0}, "how they compare isn't known: state the size"),
        ({"spacing_mm": 1.0}, {"size": (512, 512)}, "how they compare isn't known: state the size"),
        ({"spacing_mm": 1.0}, {}, "the student the image's own grid: how they compare isn't known"),
        ({"crop": (64, 64)}, {"crop": (128, 128)}, "how they compare isn't known"),
        ({"foreign": True, "spacing_mm": 0.8}, {"spacing_mm": 1.6}, "set preprocess.crop"),
        ({"foreign": True, "spacing_mm": 0.8}, {"crop": (128, 128)}, "how they compare isn't known"),
        (
            {"foreign": True, "spacing_mm": 0.8, "stride": 64},
            {"spacing_mm": 0.8, "crop": (96, 96)},
            "would see 96 x 96 pixels and needs multiples of 64 and 64; 128 x 128 would distort",
        ),
    ],
)
def test_sizes_that_can_not_be_known(its, student, message):
    with pytest.raises(InputError, match=f"teachers.0: .*{message}"):
        seen(teacher(**its), **student)
    assert seen(teacher(**its), **student, teacher_size=(128, 192)).size == (128, 192)  # stated, anything goes


@pytest.mark.parametrize("size", [(128,), (128, 128, 128), (100, 128), (0, 128), (-16, 16)])
@pytest.mark.parametrize("foreign", [True, False])
def test_a_stated_size_must_fit_the_strides(size, foreign):
    with pytest.raises(InputError, match=r"size: expected \[a multiple of 16, a multiple of 16\], .*got \["):
        seen(teacher(foreign=foreign), teacher_size=size)


# Spatial axes


def test_a_2d_teacher_sees_the_slices_of_a_3d_student():
    its = teacher(foreign=True, spacing_mm=0.8)
    found = seen(its, dims=3, spacing_mm=1.6, crop=(32, 32))
    assert found == View(size=(64, 64), slices=True)
    features = FrozenTeacher(its.tapped, found)(torch.randn(2, 1, 5, 32, 32))
    assert features["e5"].shape == (2, 2, 5, 4, 4)


def test_a_3d_teacher_for_a_2d_student_is_refused():
    with pytest.raises(InputError, match="a 3D teacher needs the neighbouring slices; a 2D student's batch has single"):
        seen(teacher(dims=3))


def test_a_3d_teacher_at_another_size_must_be_told_how_many_slices():
    its = teacher(dims=3, foreign=True, spacing_mm=0.8)
    assert seen(its, dims=3, spacing_mm=0.8, crop=(64, 64)) == View()
    with pytest.raises(InputError, match=r"how many slices .* state the teacher's size: \[SLICES, 128, 128\]"):
        seen(its, dims=3, spacing_mm=1.6, crop=(64, 64))
    assert seen(its, dims=3, spacing_mm=1.6, crop=(64, 64), teacher_size=(32, 128, 128)).size == (32, 128, 128)


def test_a_teacher_of_fewer_neighbours_sees_those_in_the_middle():
    assert seen(teacher(), neighbours=2).channels == (2, 3)
    assert seen(teacher(in_channels=3), neighbours=1).channels is None
    found = seen(teacher(in_channels=3), neighbours=2)
    image = torch.arange(5.0).reshape(1, 5, 1, 1).expand(2, 5, 4, 4)
    assert found.image(image)[0, :, 0, 0].tolist() == [1, 2, 3]
    with pytest.raises(InputError, match="the teacher's images have 5 channels, the student's have 3"):
        seen(teacher(in_channels=5), neighbours=1)


def test_slices_of_a_3d_teacher_are_as_far_apart():
    patch = {"patch": (16, 32, 32), "spacing_mm": 1.0}
    its = teacher(dims=3, slice_mm=3.0, spacing_mm=1.0, crop=(32, 32))
    assert seen(its, dims=3, slice_mm=3.0, **patch) == View()
    with pytest.raises(InputError, match=r"3 mm apart, the student's 5 mm: set preprocess\.slice_mm to 3"):
        seen(its, dims=3, slice_mm=5.0, **patch)


def test_several_channels_are_refused():
    with pytest.raises(InputError, match="the teacher's images have 3 channels, the student's have 1"):
        seen(teacher(in_channels=3))


# Classes

BOTH = organ_and_tumor("both", "kidney")
KIDNEY = organ_and_tumor("organ", "kidney")
MANY = ("spleen", "kidney", "liver", "tumor")


@pytest.mark.parametrize(
    ("names", "labels", "classes", "expected"),
    [
        (("kidney", "tumor"), BOTH, None, None),
        (("tumor", "kidney"), BOTH, None, ((0,), (2,), (1,))),
        (("kidney", "tumor"), BOTH, {"kidney": ["kidney"], "tumor": ["tumor"]}, None),
        (("kidney", "tumor"), KIDNEY, {"kidney": ["kidney", "tumor"]}, ((0,), (1, 2))),
        (("kidney", "tumor"), KIDNEY, {"kidney": ["kidney"]}, ((0, 2), (1,))),
        (("kidney", "tumor"), KIDNEY, {"kidney": "tumor"}, ((0, 1), (2,))),
        (MANY, BOTH, {"kidney": ["kidney"], "tumor": ["tumor"]}, ((0, 1, 3), (2,), (4,))),
        (
            MANY,
            BOTH,
            {"kidney": ["liver", "kidney"], "tumor": ["tumor"], "background": ["spleen"]},
            ((0, 1), (2, 3), (4,)),
        ),
        (MANY, KIDNEY, {"kidney": MANY, "background": ["background"]}, ((0,), (1, 2, 3, 4))),
    ],
)
def test_classes(names, labels, classes, expected):
    assert seen(teacher(names=names), labels=labels, classes=classes).classes == expected


@pytest.mark.parametrize(
    ("names", "labels", "classes", "message"),
    [
        (
            MANY,
            BOTH,
            None,
            r"the teacher's classes are spleen, .*, the student's kidney, tumor: write classes: \{kidney: \[kidney\], "
            r"tumor: \[tumor\]\} if spleen, liver is background to the student",
        ),
        (("liver",), BOTH, None, r"say which .* classes: \{kidney: \[...\], tumor: \[...\]\}"),
        (
            MANY,
            BOTH,
            {"kidney": ["kidny"], "tumor": ["tumor"]},
            r"classes.kidney: .*no class 'kidny' \(did you mean 'ki",
        ),
        (MANY, BOTH, {"kidny": ["kidney"]}, r"the student has no class 'kidny' \(did you mean 'kidney'"),
        (MANY, BOTH, {"kidney": ["kidney"]}, "'tumor' of the student is made of none"),
        (MANY, BOTH, {"kidney": ["kidney"], "tumor": []}, "'tumor' of the student is made of none"),
        (MANY, BOTH, {"kidney": ["kidney"], "tumor": ["kidney"]}, "'kidney' is part of 'kidney' and of 'tumor'"),
        (MANY, BOTH, {"kidney": ["background"], "tumor": ["tumor"]}, "'background' is part of 'background' and of 'ki"),
        (
            MANY,
            BOTH,
            {"kidney": ["kidney"], "tumor": ["tumor"], "background": ["spleen"]},
            "classes: liver of the teacher belongs to no class",
        ),
    ],
)
def test_classes_that_do_not_match(names, labels, classes, message):
    with pytest.raises(InputError, match=f"teachers.0: .*{message}"):
        seen(teacher(names=names), labels=labels, classes=classes)

"""Folders are recognised by their files; a teacher through its view gives what its own preprocessing would give."""

import re

import pytest
import torch

from hlfd import plugins, teachers
from hlfd.data.preprocess import Preprocess
from hlfd.distill.frozen import FrozenTeacher, View
from hlfd.distill.pretrained import Intensity
from hlfd.errors import InputError
from hlfd.labels import organ_and_tumor
from hlfd.segmenter import Segmenter, build_network, patient_keys
from hlfd.teachers import open_pretrained, view

BOTH = organ_and_tumor("both", "kidney")


@pytest.fixture
def segmenter(tmp_path):
    torch.manual_seed(0)
    preprocess = Preprocess(window_hu=(-80, 300), spacing_mm=1.5, crop=(64, 64))
    network = build_network("unet", {"width": 2}, 3)
    keys = patient_keys("kits", ["a"])
    model = Segmenter(network, "unet", {"width": 2}, preprocess, BOTH, learned_from=keys)
    return model, model.save(tmp_path / "model")


def test_a_model_of_ours(segmenter):
    model, folder = segmenter
    teacher = open_pretrained(folder)
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(teacher.tapped(image)["logits"], model.network(image)["logits"])
    assert teacher.intensity == Intensity(-80, 300, 110, 190)
    assert (teacher.names, teacher.learned_from) == (("kidney", "tumor"), patient_keys("kits", ["a"]))
    assert (teacher.spacing_mm, teacher.size, teacher.crop) == (1.5, None, (64, 64))
    assert teacher.description == f"hlfd unet, 2D, {model.parameters:,} parameters"
    assert view(teacher, model.preprocess, BOTH, dims=2, where="x") == View()
    with pytest.raises(InputError, match="teacher 'segmenter' has no option 'fold'"):
        open_pretrained(folder, fold=1)


def test_a_model_of_ours_that_is_damaged(segmenter):
    _, folder = segmenter
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model.safetensors: no such file"):
        open_pretrained(folder)


def test_folders_that_are_none(tmp_path, segmenter):
    known = r"bundle \(configs/metadata.json.*\); nnunet \(plans.json.*\); segmenter \(model.json, model.safetensors\)"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"empty: not a trained model of a kind that is known: {known}"):
        open_pretrained(tmp_path / "empty")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_pretrained(tmp_path / "nowhere")
    with pytest.raises(InputError, match=f"did you mean {re.escape(str(segmenter[1]))}"):
        open_pretrained(tmp_path)


def test_the_package_has_what_the_guide_uses_and_nothing_else():
    assert teachers.open_pretrained is open_pretrained and teachers.view is view
    assert set(plugins.names("teachers")) == {"bundle", "nnunet", "segmenter"}
    with pytest.raises(AttributeError, match=r"'hlfd\.teachers' has no attribute 'viewer'"):
        _ = teachers.viewer


def test_every_plug_in_says_what_it_reads():
    for name in plugins.names("teachers"):
        found = plugins.module("teachers", name)
        assert found.LAYOUT and callable(found.recognises) and plugins.summary("teachers", name)


def hounsfield(*shape: int) -> torch.Tensor:
    return torch.randint(-1000, 1500, (2, 1, *shape), generator=torch.Generator().manual_seed(0)).float()


def students(hu: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    low, high = preprocess.window_hu
    return (hu.clamp(low, high) - low) * (2 / (high - low)) - 1


@pytest.mark.parametrize(("dims", "shape"), [(2, (32, 48)), (3, (16, 32, 48))])
def test_nnunet_sees_what_its_own_preprocessing_would_give(dims, shape, nnunet):
    made = nnunet(dims=dims)
    teacher = open_pretrained(made.folder)
    preprocess = Preprocess(window_hu=(-200, 400), spacing_mm=0.78, crop=(32, 48))
    hu = hounsfield(*shape)
    frozen = FrozenTeacher(teacher.tapped, view(teacher, preprocess, BOTH, dims=dims, where="x"))
    with torch.no_grad():
        expected = made.network((hu.clamp(-58, 302) - 100.5) / 75.25)[0]
    torch.testing.assert_close(frozen(students(hu, preprocess))["logits"], expected, rtol=1e-4, atol=1e-4)


def test_a_slice_network_of_nnunet_teaches_a_3d_student_one_class(nnunet):
    made = nnunet()
    teacher = open_pretrained(made.folder)
    preprocess = Preprocess(window_hu=(-58, 302), spacing_mm=1.56, crop=(16, 32))
    found = view(
        teacher,
        preprocess,
        organ_and_tumor("organ", "kidney"),
        dims=3,
        classes={"kidney": ["kidney", "tumor"]},
        where="x",
    )
    assert (found.slices, found.size, found.classes) == (True, (32, 64), ((0,), (1, 2)))
    features = FrozenTeacher(teacher.tapped, found)(students(hounsfield(3, 16, 32), preprocess))
    assert features["logits"].shape == (2, 2, 3, 32, 64)
    assert features["e5"].shape == (2, 12, 3, 2, 4)


def test_a_bundle_sees_what_its_own_preprocessing_would_give(bundle):
    made = bundle()
    teacher = open_pretrained(made.folder)
    preprocess = Preprocess(window_hu=(-100, 200), spacing_mm=1.5, crop=(16, 24))
    labels = organ_and_tumor("both", "liver")
    hu = hounsfield(8, 16, 24)
    frozen = FrozenTeacher(teacher.tapped, view(teacher, preprocess, labels, dims=3, where="x"))
    scaled = (hu.clamp(-57, 164) + 57) / 221
    as_ras = torch.flip(scaled.permute(0, 1, 4, 3, 2), [2, 3])  # x to right, y to anterior, z to superior
    with torch.no_grad():
        expected = torch.flip(made.network(as_ras), [2, 3]).permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(frozen(students(hu, preprocess))["logits"], expected, rtol=1e-4, atol=1e-4)

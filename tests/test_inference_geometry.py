"""predict: whatever the grid of the image, the label map lies on it, voxel for voxel."""

from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial.transform import Rotation

from hlfd import plugins
from hlfd.data.preprocess import AXCODES, Preprocess
from hlfd.inference import predict
from hlfd.io import nifti
from hlfd.labels import organ_and_tumor
from hlfd.segmenter import Segmenter, build_network
from hlfd.volume import Volume

WINDOW = (-200.0, 300.0)
HU = np.random.default_rng(0).integers(-300, 400, (9, 10, 11)).astype(np.float32)
T_HU = 49.5  # between two whole HU: no voxel is a tie


def assert_same_grid(labels: Volume, image: Volume) -> None:
    assert labels.shape == image.shape
    np.testing.assert_array_equal(labels.affine, image.affine)
    assert labels.voxels.dtype == np.uint8


@given(data=st.data(), batch_size=st.integers(1, 6))
def test_every_voxel_above_the_threshold_and_no_other(affines, threshold, data, batch_size):
    image = Volume(HU, data.draw(affines))
    done: list[int] = []
    model = threshold(Preprocess(window_hu=WINDOW), T_HU)
    labels = predict(model, image, batch_size=batch_size, advance=lambda steps=1: done.append(steps))
    assert_same_grid(labels, image)
    np.testing.assert_array_equal(labels.voxels, HU > T_HU)
    assert sum(done) == image.oriented(AXCODES).shape[0]


@pytest.mark.parametrize("degrees", list(product((0, 45, 90, 135), repeat=3)), ids=str)
def test_an_axis_between_two_directions(threshold, degrees):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * (0.7, 0.7, 3.0)
    image = Volume(HU, affine)
    labels = predict(threshold(Preprocess(window_hu=WINDOW), T_HU), image, batch_size=16)
    assert_same_grid(labels, image)
    np.testing.assert_array_equal(labels.voxels, HU > T_HU)


@pytest.mark.parametrize("stride", [2, 8, 32])
def test_what_is_added_to_reach_the_networks_multiple_is_taken_off(threshold, stride):
    image = Volume(HU, np.diag([2, -1, 3, 1]))
    labels = predict(threshold(Preprocess(window_hu=WINDOW), T_HU, stride), image)
    np.testing.assert_array_equal(labels.voxels, HU > T_HU)


OPTIONS = [
    {"size": (48, 40)},
    {"size": (16, 24)},
    {"spacing_mm": 0.5},
    {"spacing_mm": 1.7},
    {"crop": (24, 20)},
    {"crop": (64, 64)},
    {"size": (48, 48), "crop": (32, 32)},
    {"spacing_mm": 1.3, "crop": (64, 64)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("axcodes", ["RAS", "IPL", "ALI", "PSR"])
def test_each_option_keeps_the_grid_and_the_place(threshold, options, axcodes):
    smooth = gaussian_filter(np.random.default_rng(1).normal(size=(30, 31, 32)), 4)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec([0.1, -0.05, 0.15]).as_matrix() * (0.9, 1.1, 2.0)
    image = Volume(smooth / smooth.std() * 100, affine).oriented(axcodes)
    preprocess = Preprocess(window_hu=WINDOW, **options)
    labels = predict(threshold(preprocess, T_HU), image)
    assert_same_grid(labels, image)
    reach = predict(threshold(preprocess, -1000), image).voxels > 0
    assert reach.all() == (options.get("crop", (64, 64)) == (64, 64))
    assert reach.mean() > 0.3
    found, expected = labels.voxels > 0, image.voxels > T_HU
    assert not found[~reach].any()
    sure = np.abs(image.voxels - T_HU) > 40  # resampling moves a border by less than a pixel
    inside = binary_erosion(reach, iterations=2)
    assert not ((found ^ expected) & sure & inside).any()
    assert (expected & sure & inside).sum() > 300


def test_outside_the_crop_is_background_and_inside_is_exact(threshold):
    image = Volume(HU, np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]]))
    labels = predict(threshold(Preprocess(window_hu=WINDOW, crop=(8, 8)), T_HU), image).voxels
    expected = np.zeros_like(labels)
    expected[:, 1:9, 1:9] = HU[:, 1:9, 1:9] > T_HU
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("shape", [(1, 17, 33), (3, 20, 9)], ids=str)
def test_a_network_with_strides_takes_any_plane(shape):
    network = build_network("unet", {"width": 8}, 3)
    model = Segmenter(network, "unet", {"width": 8}, Preprocess(window_hu=WINDOW), organ_and_tumor("both", "kidney"))
    image = Volume(np.random.default_rng(0).normal(size=shape), np.diag([-1, 2, 3, 1.0]))
    for axes in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        turned = Volume(image.voxels.transpose(axes), image.affine[:, [*axes, 3]])
        assert_same_grid(predict(model, turned), turned)


def write_pair(folder: Path, source: str, suffix: str, affine: np.ndarray) -> None:
    label = (HU > T_HU).astype(np.uint8)
    if source == "slices":
        for kind, stack in (("images", HU), ("masks", label)):
            (folder / kind).mkdir()
            for k, pixels in enumerate(stack):
                path = folder / kind / f"case_1_slice_{k:04}{suffix}"
                if suffix == ".npy":
                    np.save(path, pixels)
                else:
                    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
        return
    names = ("case_1/imaging", "case_1/segmentation") if source == "kits" else ("volume-1", "segmentation-1")
    (folder / "case_1").mkdir()
    for name, voxels in zip(names, (HU, label), strict=True):
        nib.save(nib.Nifti1Image(voxels, affine), folder / (name + suffix))


@pytest.mark.parametrize(
    ("source", "suffix"), [*product(("kits", "lits"), nifti.SUFFIXES), ("slices", ".png"), ("slices", ".npy")]
)
@pytest.mark.parametrize("flip", [1, -1])
def test_from_a_source_to_a_file_on_the_images_grid(tmp_path, threshold, source, suffix, flip):
    tilt = Rotation.from_rotvec([0.1, -0.05, 0.15]).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.array([[0, 0, -0.8 * flip], [0, 0.8, 0], [-2.5, 0, 0]])
    affine[:3, 3] = (10, 20, -30)
    write_pair(tmp_path, source, suffix, affine)
    options = {"tumor_value": 1, "organ_value": 2} if source == "slices" else {}
    built = plugins.load("sources", source, tmp_path, task="tumor", **options)
    if source != "slices":
        built = plugins.load("sources", source, tmp_path, task="organ")
    (case,) = built.cases
    image, reference = built.read_image(case), built.read_label(case)
    labels = predict(threshold(Preprocess(window_hu=built.window_hu), T_HU), image)
    assert_same_grid(labels, image)
    np.testing.assert_array_equal(labels.voxels, reference.voxels)
    assert labels.voxels.any()
    for name in nifti.SUFFIXES:
        nifti.write_label(tmp_path / f"out{name}", labels)
        written = nib.load(tmp_path / f"out{name}")
        np.testing.assert_array_equal(np.asanyarray(written.dataobj), labels.voxels)
        if source != "slices":
            original = nib.load(case.image[0])
            assert nib.aff2axcodes(written.affine) == nib.aff2axcodes(original.affine)
            np.testing.assert_allclose(written.affine, original.affine, atol=1e-5)

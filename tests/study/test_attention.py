"""Shares of attention, Grad-CAM and the viewer's volumes, against slow references."""

import gzip
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from hlfd.distill.features import Tapped
from hlfd.study.attention import attention_maps, mean_shares, share_inside
from hlfd.study.volumes import viewer_case
from hlfd.volume import Volume


def test_share_inside():
    mask = np.zeros((8, 8), dtype=bool)
    mask[:4, :4] = True
    attention = np.zeros((8, 8))
    attention[0, 0], attention[7, 7] = 3, 1
    assert share_inside(attention, mask) == pytest.approx(0.75)
    assert share_inside(np.ones((2, 2)), mask) == pytest.approx(0.25)
    assert share_inside(np.zeros((2, 2)), mask) == 0.25  # looks everywhere alike


def test_mean_shares_leave_out_patients_without_a_map():
    found = [{"e1": {"tumor": 0.2}, "cam": {"tumor": 0.4}}, {"e1": {"tumor": 0.4}}]
    assert mean_shares(found) == {"e1": {"tumor": pytest.approx(0.3)}, "cam": {"tumor": 0.4}}


def test_grad_cam_against_finite_differences():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(3, 2, 3, padding=1))
    tapped = Tapped(net, {"e5": "1"}, classes=2, in_channels=1, dims=2)
    pixels = np.random.default_rng(0).uniform(-1, 1, (8, 8)).astype(np.float32)
    target = np.zeros((8, 8), np.uint8)
    target[2:6, 3:6] = 1
    maps = attention_maps(SimpleNamespace(network=tapped), pixels, target, [1])
    assert set(maps) == {"e5", "Grad-CAM e5"}
    with torch.no_grad():
        net = net.double()
        taps = net[:2](torch.from_numpy(pixels).double()[None, None])
        cam = torch.zeros(8, 8, dtype=torch.float64)
        for channel in range(3):
            moved = taps.clone()
            moved[0, channel] += 1e-6
            slope = (net[2](moved) - net[2](taps))[0, 1][torch.from_numpy(target == 1)].sum() / 1e-6
            cam += slope / 64 * taps[0, channel]
    np.testing.assert_allclose(maps["Grad-CAM e5"], cam.clamp_min(0).numpy(), atol=1e-4)
    assert "Grad-CAM e5" not in attention_maps(SimpleNamespace(network=tapped.float()), pixels, target * 0, [1])


def test_a_viewer_case_keeps_its_place_and_its_budget():
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    affine[:3, 3] = (-50, 20, 7)
    random = np.random.default_rng(1)
    labels = np.zeros((60, 50, 12), np.uint8)
    labels[25:31, 20:28, 5:8] = 2
    image = Volume(random.integers(-200, 300, labels.shape).astype(np.int16), affine)
    whole = viewer_case("a", image, {"reference": Volume(labels, affine)}, (-200, 300), 10**7)
    small = viewer_case("a", image, {"reference": Volume(labels, affine)}, (-200, 300), 4000)
    assert whole is not None and small is not None and whole.coarser == (1, 1, 1) and max(small.coarser) > 1
    assert len(small.image) + len(small.masks["reference"]) <= 3000
    assert viewer_case("a", image, {"reference": Volume(labels, affine)}, (-200, 300), 100) is None
    for case in (whole, small):
        shown, mask = (nib.Nifti1Image.from_bytes(gzip.decompress(b)) for b in (case.image, case.masks["reference"]))
        assert shown.get_data_dtype() == np.uint8 and np.allclose(shown.affine, mask.affine)
        middle = np.argwhere(np.asarray(mask.dataobj) == 2).mean(0)
        wanted = affine @ [*np.argwhere(labels == 2).mean(0), 1]
        voxel = 1.01 * np.abs(np.diag(shown.affine)[:3]) / 2
        assert (np.abs((shown.affine @ [*middle, 1] - wanted)[:3]) <= voxel).all()
    inside = np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(whole.image)).dataobj)
    by_hand = np.rint(np.clip((image.voxels[15:41, 10:38, 1:12] + 200) / 500 * 255, 0, 255))
    assert np.array_equal(inside, by_hand)

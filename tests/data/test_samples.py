"""Samples: the slices of some patients and no others, in an order that seed and epoch decide."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hlfd import plugins
from hlfd.data.prepare import prepare
from hlfd.data.preprocess import Preprocess
from hlfd.data.samples import EpochSampler, Samples
from hlfd.data.store import Store
from hlfd.errors import InputError

RARE = np.array([False, False, True, False, False, False, True, False, False, False])


@pytest.fixture(scope="module")
def store(make_kits, tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("samples")
    make_source = partial(plugins.load, "sources", "kits", make_kits(root / "kits"))
    return prepare(make_source, Preprocess(window_hu=(-200.0, 300.0)), root / "store")


def test_items_are_the_slices_of_the_patients(store: Store):
    patients = ["case_00002", "case_00000"]
    dataset = Samples(store, patients)
    assert len(dataset) == 8
    seen = []
    for position, (case, (k, *_)) in enumerate(dataset.index):
        image, target, place = dataset[position]
        stored_image, stored_label = store.slices(case)
        assert image.shape == (1, 20, 24) and image.dtype == torch.float32
        assert target.shape == (20, 24) and target.dtype == torch.int64
        np.testing.assert_array_equal(image[0].numpy(), stored_image[k])
        np.testing.assert_array_equal(target.numpy(), stored_label[k])
        assert place == position
        assert patients[dataset.patient_of()[position]] == store.cases[case].patient
        seen.append(bool((target == 2).any()))
    assert dataset.shows_tumor().tolist() == seen
    assert 0 < sum(seen) < 8


def test_the_tumour_need_not_be_the_last_class(make_kits, tmp_path: Path):
    labels = {"labels": {"tumor": 2, "cyst": 1}}
    make_source = partial(plugins.load, "sources", "kits", make_kits(tmp_path / "kits"), **labels)
    for patch in (None, (2, 12, 12)):
        preprocess = Preprocess(window_hu=(-200.0, 300.0), patch=patch)
        store = prepare(make_source, preprocess, tmp_path / f"store {patch}")
        samples = Samples(store, store.patients)
        expected = [bool((samples[k][1] == 1).any()) for k in range(len(samples))]
        assert samples.shows_tumor().tolist() == expected
        assert expected != [bool((samples[k][1] == 2).any()) for k in range(len(samples))]


def test_patients_without_slices(store: Store):
    with pytest.raises(InputError, match="none of the 1 patients has a slice in the store"):
        Samples(store, ["case_9"])


def test_slices_without_labels(store: Store):
    dataset = Samples(store, ["case_00002"], ["case_00000"])
    assert dataset.patients == ("case_00002", "case_00000")
    known = [case == "case_00002" for case, _ in dataset.index]
    assert dataset.labelled.tolist() == known
    assert known.count(True) == known.count(False) == 4
    assert not (dataset.shows_tumor() & ~dataset.labelled).any()
    for position, labelled in enumerate(known):
        _, target, _ = dataset[position]
        assert target.shape == (20, 24) and target.dtype == torch.int64
        assert bool((target == -1).all()) != labelled
        assert dataset.patient_of()[position] == (not labelled)


def test_addresses_name_the_voxels_and_whether_labels_are_used(store: Store):
    both, one = Samples(store, ["case_00000", "case_00001"]), Samples(store, ["case_00001"], ["case_00000"])
    assert len(set(both.addresses())) == len(both)
    assert set(both.addresses()) & set(one.addresses()) == {a for a in one.addresses() if a.endswith("labelled")}
    assert not any("case" in address for address in both.addresses())


def test_cases_without_labels(make_kits, tmp_path: Path):
    root = make_kits(tmp_path / "kits")
    (root / "case_00001" / "segmentation.nii.gz").unlink()
    make_source = partial(plugins.load, "sources", "kits", root)
    preprocess = Preprocess(window_hu=(-200.0, 300.0))
    labelled_only = prepare(make_source, preprocess, tmp_path / "store")
    assert "case_00001" not in labelled_only.cases
    store = prepare(make_source, preprocess, tmp_path / "store", unlabelled=True)
    case = store.cases["case_00001"]
    assert not case.labelled and case.counts.shape == (case.shape[0], 0)
    assert store.slices("case_00001")[1] is None
    assert Samples(store, ["case_00000", "case_00001"]).index == Samples(store, ["case_00000"]).index
    mixed = Samples(store, ["case_00000"], ["case_00001"])
    assert mixed.labelled.tolist() == [True] * 4 + [False] * 4
    image, target, _ = mixed[7]
    np.testing.assert_array_equal(image[0].numpy(), store.slices("case_00001")[0][3])
    assert (target == -1).all()
    with pytest.raises(InputError, match="none of the 1 patients has a slice"):
        Samples(store, ["case_00001"], [])


LABELLED = np.array([True, True, True, True, False, False, True, False, True, True])


@given(
    share=st.sampled_from([0.1, 0.25, 0.5, 0.75]), rare_share=st.none() | st.just(0.5), samples=st.none() | st.just(40)
)
def test_every_batch_has_its_part_without_labels(share, rare_share, samples):
    sampler = EpochSampler(
        RARE & LABELLED, samples=samples, rare_share=rare_share, seed=0, labelled=LABELLED, unlabelled_share=share
    )
    order = np.array(list(sampler))
    assert len(order) == len(sampler) == (samples or round(7 / (1 - share)))
    without = ~LABELLED[order]
    for start in range(0, len(order) - 7, 8):
        assert abs(without[start : start + 8].sum() - 8 * share) <= 1
    assert abs(without.sum() - share * len(order)) < 1
    if samples is None:  # an epoch shows as many labelled slices as there are, up to rounding
        assert abs((~without).sum() - LABELLED.sum()) <= 1
    if rare_share:
        assert RARE[order[~without]].sum() == round(rare_share * (~without).sum())


def test_a_share_without_slices():
    with pytest.raises(InputError, match="unlabelled_share is set, and there is no slice without labels"):
        EpochSampler(RARE, samples=8, rare_share=None, seed=0, unlabelled_share=0.5)


def draw(seed: int, epoch: int, **options) -> list[int]:
    sampler = EpochSampler(RARE, **{"samples": None, "rare_share": None, **options}, seed=seed)
    sampler.set_epoch(epoch)
    positions = list(sampler)
    assert len(positions) == len(sampler)
    return positions


@given(seed=st.integers(0, 99), epoch=st.integers(0, 99), samples=st.none() | st.integers(5, 40))
def test_order_is_a_function_of_seed_and_epoch(seed, epoch, samples):
    for share in (None, 0.4):
        options = {"samples": samples, "rare_share": share}
        assert draw(seed, epoch, **options) == draw(seed, epoch, **options)
        sampler = EpochSampler(RARE, **options, seed=seed)
        orders = []
        for e in range(4):
            sampler.set_epoch(e)
            orders.append(tuple(sampler))
        assert len(set(orders)) > 1
    assert len({tuple(draw(s, epoch)) for s in range(5)}) > 1


def test_each_slice_comes_once_before_any_comes_again():
    assert sorted(draw(0, 0)) == list(range(10))
    assert sorted(draw(0, 0, samples=30)) == sorted([*range(10)] * 3)
    counts = np.bincount(draw(0, 0, samples=25), minlength=10)
    assert set(counts) == {2, 3}


@given(samples=st.integers(1, 50), share=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_the_share_of_rare_slices_is_kept(samples, share, seed):
    positions = draw(seed, 0, samples=samples, rare_share=share)
    assert len(positions) == samples
    assert RARE[positions].sum() == round(samples * share)


def test_a_share_of_nothing():
    with pytest.raises(InputError, match="rare_share is set, and no training slice shows the tumour"):
        EpochSampler(np.zeros(4, bool), samples=None, rare_share=0.3, seed=0)
    everywhere = EpochSampler(np.ones(4, bool), samples=None, rare_share=0.3, seed=0)
    assert sorted(everywhere) == [0, 1, 2, 3]


def test_slices_of_different_sizes_are_refused(tmp_path: Path, make_kits) -> None:
    make_kits(tmp_path / "a", 1, shape=(3, 20, 24))
    make_kits(tmp_path / "b", 1, shape=(3, 20, 28))
    (tmp_path / "b" / "case_00000").rename(tmp_path / "a" / "case_00001")
    window = Preprocess(window_hu=(-100.0, 200.0))
    store = prepare(partial(plugins.load, "sources", "kits", tmp_path / "a"), window, tmp_path / "store")
    with pytest.raises(InputError, match=r"slices differ in size \(20 x 24, 20 x 28\): set preprocess"):
        Samples(store, store.patients)


def prepared_with(make_kits, folder: Path, shape: tuple[int, int, int], **options) -> Store:
    make_source = partial(plugins.load, "sources", "kits", make_kits(folder / "kits", 2, shape=shape))
    return prepare(make_source, Preprocess(window_hu=(-200.0, 300.0), **options), folder / "store")


def test_neighbouring_slices_are_channels(make_kits, tmp_path: Path):
    store = prepared_with(make_kits, tmp_path, (5, 20, 24), neighbours=2)
    samples = Samples(store, store.patients)
    assert len(samples) == 10
    for position, (case, (k, *_)) in enumerate(samples.index):
        image, target, _ = samples[position]
        stack, label = store.slices(case)
        assert image.shape == (5, 20, 24) and target.shape == (20, 24)
        for channel, other in enumerate(np.clip(np.arange(k - 2, k + 3), 0, 4)):
            np.testing.assert_array_equal(image[channel].numpy(), stack[int(other)])
        np.testing.assert_array_equal(target.numpy(), label[k])


@pytest.mark.parametrize("patch", [(10, 14), (3, 10, 14), (8, 30, 30)], ids=str)
def test_patches(make_kits, tmp_path: Path, patch):
    store = prepared_with(make_kits, tmp_path, (5, 20, 24), patch=patch)
    window = (1, *patch) if len(patch) == 2 else patch
    for once in (False, True):
        samples = Samples(store, store.patients, once=once)
        seen = {case: np.zeros((20, 40, 40), int) for case in store.cases}
        rare = samples.shows_tumor()
        for position, (case, start) in enumerate(samples.index):
            image, target, _ = samples[position]
            assert image.shape == (1, *patch) and target.shape == patch
            stack, label = store.slices(case)
            place = tuple(slice(i, i + n) for i, n in zip(start, window, strict=True))
            expected = np.asarray(label[:])[place].astype(int)
            room = tuple(slice(0, n) for n in expected.shape)
            assert (image.numpy().reshape(window)[room] == stack[:][place]).all()
            found = target.numpy().reshape(window)
            assert (found[room] == expected).all()
            beyond = np.ones(window, bool)
            beyond[room] = False
            assert (found[beyond] == (-1 if once else 0)).all()
            assert (image.numpy().reshape(window)[beyond] == -1).all()
            assert rare[position] == (expected == 2).any()
            seen[case][place] += 1
        inside = [s[:5, :20, :24] for s in seen.values()]
        assert min(s.min() for s in inside) >= 1
        assert not once or max(s.max() for s in inside) == 1
        assert 0 < rare.sum() <= len(rare)
        assert len(set(samples.addresses())) == len(samples)

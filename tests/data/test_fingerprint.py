"""Fingerprint: the statistics nnU-Net plans by, of training patients alone, and the plan made from them."""

import json
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlfd import plugins
from hlfd import recipe as recipes
from hlfd.cases import Case, DataSource
from hlfd.data.fingerprint import CaseFacts, case_facts, fingerprint, planned
from hlfd.data.prepare import all_facts
from hlfd.data.preprocess import GridOptions
from hlfd.errors import InputError
from hlfd.labels import from_names
from hlfd.study.steps import Workspace
from hlfd.volume import Volume


def facts(spacings: list[tuple[float, float, float]], shape=(100, 512, 512), hu=None) -> list[CaseFacts]:
    voxels = np.arange(1000, dtype=np.float32) if hu is None else np.asarray(hu, np.float32)
    return [CaseFacts(f"c{i}", shape, spacing, voxels) for i, spacing in enumerate(spacings)]


def test_statistics_of_cases():
    found = fingerprint(facts([(1, 0.6, 0.6), (2, 0.7, 0.7), (5, 0.9, 0.9)]), "x")
    assert found.percentiles_hu == pytest.approx((4.995, 994.0), abs=0.1)
    assert found.mean_hu == pytest.approx(499.5)
    assert found.std_hu == pytest.approx(np.arange(1000).std())
    assert found.median_spacing_mm == (2, 0.7, 0.7)
    assert found.coarse_spacing_mm[0] == pytest.approx(1.2)
    with pytest.raises(InputError, match="x: fingerprint: none of the 1 training cases shows a labelled voxel"):
        fingerprint(facts([(1, 1, 1)], hu=[]), "x")


def test_the_plan_for_slices_and_for_patches():
    anisotropic = fingerprint(facts([(3, 0.7, 0.7), (5, 0.8, 0.8), (6, 0.9, 0.9)]), "x")
    assert anisotropic.anisotropic
    flat = planned(anisotropic, GridOptions(), None)
    assert (flat["window_hu"], flat["spacing_mm"], flat["slice_mm"]) == (anisotropic.percentiles_hu, 0.8, None)
    patch = planned(anisotropic, GridOptions(patch=(32, 96, 96)), (-200.0, 300.0))
    assert (patch["window_hu"], patch["slice_mm"]) == ((-200.0, 300.0), pytest.approx(3.4))
    isotropic = fingerprint(facts([(1, 0.8, 0.8)]), "x")
    assert not isotropic.anisotropic
    assert planned(isotropic, GridOptions(patch=(32, 96, 96)), None)["slice_mm"] == 1.0
    thin = fingerprint(facts([(0.5, 0.8, 0.8), (5, 0.8, 0.8), (6, 0.8, 0.8)]), "x")
    assert planned(thin, GridOptions(patch=(32, 96, 96)), None)["slice_mm"] == pytest.approx(1.4)
    given = planned(isotropic, GridOptions(size=(96, 96), slice_mm=2.0, patch=(8, 32, 32)), None)
    assert (given["spacing_mm"], given["size"], given["slice_mm"]) == (None, (96, 96), 2.0)


def test_facts_of_a_case_are_of_its_foreground(kits_root: Path):
    source = plugins.load("sources", "kits", kits_root)
    case = source.cases[0]
    found = case_facts(source, case)
    image, label = source.read_image(case), source.read_label(case)
    assert found.shape == (4, 20, 24)
    assert found.spacing_mm == pytest.approx((2.5, 0.8, 0.8))
    np.testing.assert_array_equal(np.unique(found.foreground_hu), np.unique(image.voxels[label.voxels > 0]))


def test_a_case_of_a_few_voxels_counts_as_a_large_one(volume_source):
    source = volume_source({"small": (100, 3), "large": (0, 30_000), "none": (7, 0)})
    found = fingerprint([case_facts(source, case) for case in source.cases], "x")
    assert (found.mean_hu, found.percentiles_hu) == (50.0, (0.0, 100.0))


@pytest.fixture
def volume_source():
    """A source of cases whose foreground is so many voxels of so many HU."""

    def build(cases: dict[str, tuple[int, int]]) -> DataSource:
        def read_label(case: Case) -> Volume:
            voxels = np.zeros((20, 40, 50), np.uint8)
            voxels.ravel()[: cases[case.id][1]] = 1
            return Volume(voxels, np.eye(4))

        def read_image(case: Case) -> Volume:
            return Volume(np.full((20, 40, 50), cases[case.id][0], np.int16), np.eye(4))

        listed = [Case(name, name, (), ()) for name in cases]
        return DataSource("x", listed, from_names({"organ": 1}), (0, 1), read_image, read_label)

    return build


def test_in_two_processes_as_in_one(kits_root: Path):
    make_source = partial(plugins.load, "sources", "kits", kits_root)
    for workers in (1, 2):
        found = all_facts(make_source, make_source(), {"case_00000", "case_00002"}, workers=workers)
        assert sorted(f.case for f in found) == ["case_00000", "case_00002"]


def recipe_on(root: Path, output: Path, **preprocess) -> recipes.Recipe:
    values = {
        "name": "t",
        "output": str(output),
        "source": {"name": "kits", "root": str(root)},
        "preprocess": {"fingerprint": True, **preprocess},
        "split": {"validation": 1, "test": 1},
    }
    return recipes.from_values(values, "test")


def test_a_test_patient_changes_nothing(make_kits, tmp_path: Path):
    root = make_kits(tmp_path / "kits", 4)
    before = Workspace(recipe_on(root, tmp_path / "a"), 1)
    train, test = before.split(0).train, before.split(0).test
    plan = before.plan
    assert plan is not None
    assert set(plan["fingerprint"]["cases"]) == set(train)
    for name in ("imaging", "segmentation"):
        path = root / test[0] / f"{name}.nii.gz"
        image = nib.load(path)
        voxels = np.asanyarray(image.dataobj) * (9 if name == "imaging" else 1)
        nib.save(nib.Nifti1Image(voxels, image.affine @ np.diag([3, 2, 2, 1])), path)
    after = Workspace(recipe_on(root, tmp_path / "b"), 1)
    assert after.plan == plan
    assert before.preprocess.window_hu == tuple(plan["fingerprint"]["percentiles_hu"])
    assert before.preprocess.spacing_mm == pytest.approx(0.8)
    assert json.loads((before.store.root / "store.json").read_text())["plan"] == before.store.plan == plan
    kept = (tmp_path / "a" / "plan.json").stat().st_mtime_ns
    assert Workspace(recipe_on(root, tmp_path / "a"), 1).plan == plan
    assert (tmp_path / "a" / "plan.json").stat().st_mtime_ns == kept


def test_a_plan_needs_one_fold_and_is_readable(kits_root: Path, tmp_path: Path):
    recipe = recipe_on(kits_root, tmp_path / "a")
    several = recipe.model_copy(update={"split": recipe.split.model_copy(update={"folds": 3}), "folds": (0, 1)})
    with pytest.raises(InputError, match="it is of the training patients of one fold, and this recipe has 2"):
        _ = Workspace(several, 1).plan
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan\.json: expected a plan, it can't be read"):
        _ = Workspace(recipe, 1).plan

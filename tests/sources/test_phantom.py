"""The phantom: deterministic, true to its affine, in HU, and written so that a killed run can be finished."""

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hlfd.errors import InputError
from hlfd.sources import _phantom
from hlfd.sources._canvas import smooth_noise
from hlfd.sources._phantom import make_patient, write_phantom
from hlfd.sources._tissue import Scanner, Tissue, mean_hu, pooled, render
from hlfd.volume import Volume

SIZE = 48  # coarse, for speed: everything but the pixels is as at full size


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kits")
    write_phantom(root, patients=4, seed=3, layout="kits", size=SIZE)
    return root


@pytest.fixture(scope="module")
def lits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lits")
    write_phantom(root, patients=4, seed=3, layout="lits", size=SIZE)
    return root


def read(path: Path) -> tuple[Volume, nib.Nifti1Image]:
    image = nib.Nifti1Image.from_filename(path)
    assert image.affine is not None
    return Volume(np.asanyarray(image.dataobj), image.affine), image


def centre_mm(volume: Volume, mask: np.ndarray) -> np.ndarray:
    return volume.affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + volume.affine[:3, 3]


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_layouts(kits: Path, lits: Path) -> None:
    cases = [f"case_{i:05d}/{name}.nii.gz" for i in range(4) for name in ("imaging", "segmentation")]
    assert files(kits) == [*cases, "phantom.json"]
    cases = [f"{name}-{i}.nii" for name in ("segmentation", "volume") for i in range(4)]
    assert files(lits) == ["phantom.json", *cases]


@pytest.mark.parametrize("layout", ["kits", "lits"])
def test_geometry_of_the_files(layout: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(layout)
    pairs = {
        "kits": ("case_0000{}/imaging.nii.gz", "case_0000{}/segmentation.nii.gz"),
        "lits": ("volume-{}.nii", "segmentation-{}.nii"),
    }
    axcodes, spacings = set(), set()
    for i in range(4):
        (image, header), (label, label_header) = (read(root / name.format(i)) for name in pairs[layout])
        image.require_same_grid(label, f"patient {i}")
        assert (header.get_data_dtype(), label_header.get_data_dtype()) == (np.int16, np.uint8)
        for nifti in (header, label_header):
            assert nifti.header["sform_code"] == 1 and nifti.header["qform_code"] == 1
            assert nifti.header.get_xyzt_units()[0] == "mm"
            np.testing.assert_allclose(nifti.get_qform(), nifti.get_sform(), atol=1e-3)
        axis = image.axcodes.translate(str.maketrans("I", "S")).index("S")
        assert axis == (0 if layout == "kits" else 2)
        assert 24 <= image.shape[axis] <= 40 and 4 <= image.spacing_mm[axis] <= 6
        in_plane = image.spacing_mm[1]
        assert 300 <= in_plane * SIZE <= 420
        axcodes.add(image.axcodes)
        spacings.add(round(in_plane, 3))
    assert len(axcodes) == 4 and len(spacings) == 4


def test_every_renal_patient_has_kidney_and_tumor(kits: Path) -> None:
    for i in range(4):
        label, _ = read(kits / f"case_{i:05d}/segmentation.nii.gz")
        assert set(np.unique(label.voxels)) == {0, 1, 2}
        covered = (label.oriented("SPL").voxels > 0).any(axis=(1, 2))
        assert not covered.all() and covered.sum() > 10


def test_some_hepatic_patients_have_no_tumor() -> None:
    counts = [_phantom.make_patient(0, i, organ="liver", size=32)[1].voxels for i in range(9)]
    without = sum(not (voxels == 2).any() for voxels in counts)
    assert 0 < without < 5
    assert all((voxels == 1).any() for voxels in counts)


@pytest.mark.parametrize("index", range(3))
def test_liver_lies_on_the_right_whatever_the_orientation(lits: Path, index: int) -> None:
    image, _ = read(lits / f"volume-{index}.nii")
    label, _ = read(lits / f"segmentation-{index}.nii")
    body = centre_mm(image, image.voxels > -300)
    liver = centre_mm(label, label.voxels > 0)
    spine = centre_mm(image, image.voxels > 250)
    assert liver[0] > body[0] + 20  # the world's first axis points to the patient's right
    assert spine[1] < body[1] - 10


def test_hounsfield_units(kits: Path) -> None:
    image, _ = read(kits / "case_00000/imaging.nii.gz")
    hu = image.oriented("SPL").voxels
    assert hu.min() >= -1024 and hu.max() <= 3071
    assert abs(np.median(hu[:, :3, :3]) + 1000) < 15
    assert np.percentile(hu, 99.9) > 200
    counts, edges = np.histogram(hu, bins=np.arange(-160, 0, 10))
    assert -125 < edges[counts.argmax()] < -80  # fat is the commonest tissue between air and water


@pytest.mark.parametrize(
    ("tissue", "low", "high"),
    [
        ("AIR", -1010, -980),
        ("LUNG", -900, -750),
        ("FAT", -120, -90),
        ("BONE", 400, 900),
        ("LIVER", 90, 130),
        ("GAS", -1000, -900),
    ],
)
def test_render_gives_each_tissue_its_hu(tissue: str, low: float, high: float) -> None:
    tissues = np.full((6, 32, 32), Tissue[tissue], dtype=np.uint8)
    hu = render(tissues, mean_hu("portal"), 2.0, np.random.default_rng(0), scanner=Scanner(beam_hardening_hu=0))
    assert low < hu.mean() < high


def test_partial_volume_is_the_mean_of_the_parts() -> None:
    tissues = np.full((3, 16, 16), Tissue.FAT, dtype=np.uint8)
    tissues[:, :, 8:9] = Tissue.MUSCLE  # half of a column of pixels
    quiet = Scanner(noise_hu=0, kernel_mm=1e-3, slice_blur=0.01, beam_hardening_hu=0)
    table = mean_hu("portal")
    hu = render(tissues, table, 2.0, np.random.default_rng(0), scanner=quiet, supersampling=2)
    between = (table[Tissue.FAT] + table[Tissue.MUSCLE]) / 2
    assert hu.shape == (3, 8, 8)
    assert abs(hu[:, :, 4].mean() - between) < 8
    np.testing.assert_allclose(pooled(np.arange(16.0).reshape(1, 4, 4), 2), [[[2.5, 4.5], [10.5, 12.5]]])


def test_smooth_noise_has_unit_variance_and_no_jumps() -> None:
    noise = smooth_noise((40, 60, 60), (2.0, 1.0, 1.0), (10.0, 10.0, 10.0), np.random.default_rng(0))
    assert noise.dtype == np.float32 and abs(noise.std() - 1) < 0.25
    assert np.abs(np.diff(noise, axis=2)).max() < 0.6


def test_a_patient_depends_on_seed_and_index_alone(kits: Path, tmp_path: Path) -> None:
    image, label = make_patient(3, 2, organ="kidney", size=SIZE)
    written, _ = read(kits / "case_00002/imaging.nii.gz")
    np.testing.assert_array_equal(image.voxels, written.voxels)
    np.testing.assert_allclose(image.affine, written.affine, atol=1e-4)
    again = make_patient(3, 2, organ="kidney", size=SIZE)
    np.testing.assert_array_equal(label.voxels, again[1].voxels)
    other, _ = make_patient(4, 2, organ="kidney", size=SIZE)
    assert other.shape != image.shape or (other.voxels != image.voxels).any()

    write_phantom(tmp_path, patients=2, seed=3, layout="kits", size=SIZE, workers=2)
    for name in files(tmp_path):
        assert (tmp_path / name).read_bytes() == (kits / name).read_bytes(), name


def test_a_killed_run_is_finished_and_finished_cases_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if target.name == "volume-1.nii":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_phantom(tmp_path, patients=3, seed=0, layout="lits", size=32)
    # The labels came first, and the image's bytes never appeared under its name.
    assert [name for name in files(tmp_path) if "-1" in name] == ["segmentation-1.nii"]

    before = (tmp_path / "volume-0.nii").stat().st_mtime_ns
    steps: list[tuple[int, int]] = []
    write_phantom(
        tmp_path, patients=3, seed=0, layout="lits", size=32, progress=lambda done, of: steps.append((done, of))
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert (tmp_path / "volume-0.nii").stat().st_mtime_ns == before
    assert files(tmp_path) == ["phantom.json", *[f"{n}-{i}.nii" for n in ("segmentation", "volume") for i in range(3)]]


def test_compressed_files_carry_no_time_stamp(kits: Path) -> None:
    data = (kits / "case_00000/imaging.nii.gz").read_bytes()
    assert data[4:8] == bytes(4) and len(gzip.decompress(data)) > len(data)


def test_another_phantom_in_the_folder_is_refused(kits: Path) -> None:
    with pytest.raises(InputError, match="holds another phantom"):
        write_phantom(kits, patients=4, seed=4, layout="kits", size=SIZE)


@pytest.mark.parametrize("change", [{"patients": 0}, {"size": 8}, {"workers": 0}, {"seed": -1}, {"layout": "msd"}])
def test_arguments_out_of_range(tmp_path: Path, change: dict) -> None:
    arguments = {"patients": 1, "seed": 0, "layout": "kits", "size": 32} | change
    with pytest.raises(InputError, match=next(iter(change))):
        write_phantom(tmp_path, **arguments)
    assert files(tmp_path) == []

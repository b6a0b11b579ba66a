"""Every check finds what is wrong, and nothing where nothing is."""

from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hlfd.doctor import check_root
from hlfd.doctor.checks import CHECKS
from hlfd.doctor.voxels import describe_image

AFFINE = np.array([[0, 0, -5.0, 130], [0, -5.0, 0, 110], [5.0, 0, 0, -75], [0, 0, 0, 1]])  # as in conftest


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(None if affine[1, 0] else affine, int(not affine[1, 0]))  # it can hold no shear
    nib.save(image, path)


def read(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj).copy()


def image(root: Path, case: int = 1) -> Path:
    return root / f"case_{case:05}" / "imaging.nii.gz"


def label(root: Path, case: int = 1) -> Path:
    return root / f"case_{case:05}" / "segmentation.nii.gz"


def rewritten(path: Path, change: Callable[[nib.Nifti1Image], nib.Nifti1Image | None]) -> None:
    """Load a file, change it or its header, save it."""
    loaded = nib.load(path)
    fresh = nib.Nifti1Image(np.asanyarray(loaded.dataobj).copy(), loaded.affine, loaded.header)
    nib.save(change(fresh) or fresh, path)


def voxels(root: Path, change: Callable[[np.ndarray], np.ndarray], path: Path | None = None) -> None:
    path = path or image(root)
    save(path, change(read(path)))


def moved(root: Path, affine: np.ndarray, case: int = 1) -> None:
    for path in (image(root, case), label(root, case)):
        save(path, read(path), affine)


def header(root: Path, change: Callable[[nib.Nifti1Image], None]) -> None:
    """Change the headers of image and label alike."""
    for path in (image(root), label(root)):
        rewritten(path, change)


def turned(degrees: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix() @ affine[:3, :3]
    return affine


def sheared() -> np.ndarray:
    affine = AFFINE.copy()
    affine[1, 0] = 1.5  # each slice further to the front
    return affine


def two(root: Path, change: np.ndarray) -> None:
    def apply(loaded: nib.Nifti1Image) -> None:
        loaded.set_sform(AFFINE, 1)
        loaded.set_qform(AFFINE @ change, 1)

    header(root, apply)


def no_qform(root: Path) -> None:
    def apply(loaded: nib.Nifti1Image) -> None:
        loaded.set_sform(AFFINE, 2)
        loaded.set_qform(None, 0)

    header(root, apply)


def no_affine(root: Path) -> None:
    def apply(loaded: nib.Nifti1Image) -> None:
        loaded.set_sform(None, 0)
        loaded.set_qform(None, 0)

    header(root, apply)


def pixdim(root: Path) -> None:
    def apply(loaded: nib.Nifti1Image) -> None:
        loaded.set_qform(None, 0)
        loaded.set_sform(AFFINE, 1)
        loaded.header["pixdim"][1:4] = (3, 5, 5)

    rewritten(image(root), apply)


def singular(root: Path) -> None:
    flat = AFFINE.copy()
    flat[2] = flat[1]

    def apply(loaded: nib.Nifti1Image) -> None:
        loaded.set_qform(None, 0)
        loaded.set_sform(flat, 1)

    header(root, apply)


def outlier(root: Path) -> None:
    for number in range(3, 9):
        copytree(root / "case_00000", root / f"case_{number:05}")
        noise = np.random.default_rng(number).integers(0, 9, read(image(root)).shape)
        voxels(root, lambda found, noise=noise: (found + noise).astype(np.int16), image(root, number))
    moved(root, AFFINE @ np.diag([2.0 / 5, 1, 1, 1]))


def truncated(root: Path) -> None:
    image(root).write_bytes(image(root).read_bytes()[:-200])


def extra(root: Path) -> None:
    save(root / "case_00001" / "prediction.nii.gz", read(label(root)))


def overlapping(root: Path) -> None:
    save(image(root), read(image(root, 0))[8:], AFFINE @ shift(8))
    save(label(root), read(label(root, 0))[8:], AFFINE @ shift(8))


def copied(root: Path) -> None:
    for path in (image, label):
        path(root, 1).write_bytes(path(root, 0).read_bytes())


def shift(slices: int) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 3] = slices
    return affine


def flipped(root: Path, axis: int) -> None:
    """Voxels in another order, under the same affine."""
    for path in (image(root), label(root)):
        voxels(root, lambda found: np.flip(found, axis), path)


def fractions(found: np.ndarray) -> np.ndarray:
    return found.astype(np.float32) * 0.5


def with_nan(found: np.ndarray) -> np.ndarray:
    found = found.astype(np.float32)
    found[3, 4, 5:8] = np.nan
    return found


def padded(found: np.ndarray) -> np.ndarray:
    found = found.copy()
    found[:, :5] = -2000
    return found


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "unpaired": (lambda r: image(r).unlink(), "case_00001: has a segmentation and no imaging.nii.gz"),
    "unreadable": (truncated, "case_00001/imaging.nii.gz: expected a whole NIfTI file"),
    "no-label": (lambda r: label(r).unlink(), "has no label"),
    "unused-file": (extra, "1 NIfTI files belong to no case: case_00001/prediction.nii.gz"),
    "shape-mismatch": (lambda r: save(label(r), read(label(r))[:-1]), "image of 30 x 44 x 52 voxels, label of 29 x 44"),
    "affine-mismatch": (
        lambda r: save(label(r), read(label(r)), AFFINE @ np.diag([1, 1, -1, 1])),
        "a corner lies 510 mm away: image SPL 5 x 5 x 5 mm, label SPR 5 x 5 x 5 mm",
    ),
    "axes-missing": (lambda r: save(image(r), np.stack([read(image(r))] * 2, 3)), "image has 4 axes, expected 3"),
    "not-numbers": (lambda r: voxels(r, lambda v: v.astype(np.complex64)), "image holds complex64, expected"),
    "singular-affine": (singular, "the affine places all voxels on one plane"),
    "two-affines": (lambda r: two(r, np.diag([2.0, 1, 1, 1])), "the sform says 5 x 5 x 5 mm SPL, the qform 10 x 5"),
    "two-origins": (lambda r: two(r, shift(2)), "sform and qform place a corner 10 mm apart"),
    "identity-affine": (lambda r: moved(r, np.eye(4)), "the affine is an identity: the spacing was lost"),
    "no-affine": (no_affine, "image: sform and qform code 0, so orientation and position are not known"),
    "kits19-affine": (no_qform, "anti-diagonal sform, qform code 0: slices on the first axis (SPL)"),
    "sheared-axes": (lambda r: moved(r, sheared()), "axes are 73.3 degrees apart, expected 90"),
    "oblique-axes": (lambda r: moved(r, turned(10)), "axes are turned 10 degrees from the patient's"),
    "pixdim": (pixdim, "pixdim says 3 x 5 x 5 mm, the affine 5 x 5 x 5 mm"),
    "unit": (
        lambda r: header(r, lambda loaded: loaded.header.set_xyzt_units("micron")),
        "the header says its spacing is in micron",
    ),
    "implausible-spacing": (lambda r: moved(r, AFFINE @ np.diag([3.0, 1, 1, 1])), "15 x 5 x 5 mm: CT has pixels"),
    "spacing-outlier": (outlier, "2 mm between slices, mostly 5 to 5"),
    "not-finite": (lambda r: voxels(r, with_nan), "3 of 68640 voxels are NaN or infinite"),
    "constant-image": (lambda r: voxels(r, np.zeros_like), "every voxel is 0"),
    "byte-order": (
        lambda r: voxels(r, lambda v: v.byteswap()),
        "values from -32768 to 32512, which look like HU once the bytes of each voxel are swapped",
    ),
    "not-rescaled": (lambda r: voxels(r, lambda v: v + 1024), "looks like HU + 1024"),
    "rescaled-twice": (lambda r: voxels(r, lambda v: v - 1024), "looks like HU - 1024"),
    "not-hu": (lambda r: voxels(r, lambda v: ((v + 1024) / 2048).astype(np.float32)), "too few for HU"),
    "grey-values": (lambda r: voxels(r, lambda v: np.clip(v, 0, 255)), "grey values from 0 to 255, no air"),
    "padding": (lambda r: voxels(r, padded), "11.4 % of the voxels lie below -1100 HU, down to -2000"),
    "unknown-labels": (
        lambda r: voxels(r, lambda v: np.where(v == 2, 7, v).astype(np.uint8), label(r)),
        "unknown label values 7 (",
    ),
    "fractional-labels": (lambda r: voxels(r, fractions, label(r)), "label values are fractions or NaN"),
    "empty-label": (lambda r: voxels(r, np.zeros_like, label(r)), "the label is background alone"),
    "back-to-front": (lambda r: flipped(r, 1), "kidney lies in the front of the body"),
    "feet-first": (lambda r: flipped(r, 0), "ml in the upper: upside down"),
    "duplicate-image": (copied, "the same image as case_00000, under another patient"),
    "same-patient": (overlapping, "slices are the same as of case_00000: one patient under two names"),
}
ALSO = {"pixdim": {"kits19-affine"}, "identity-affine": {"back-to-front"}, "no-affine": {"back-to-front"}}
ELSEWHERE = {"slice-gaps", "wrong-side", "duplicate-case", "shared-patient", "ircadb"}


def codes(root: Path, **options) -> set[str]:
    return {finding.code for finding in check_root(root, **options, workers=1).findings}


def test_every_check_is_tested():
    assert {check.code for check in CHECKS if not check.code.startswith("dicom-")} == set(BROKEN) | ELSEWHERE
    assert all(check.about and check.by_default for check in CHECKS)


def test_sound_data(sound: Path, livers: Path):
    assert codes(sound, deep=True) == set()
    assert codes(livers, deep=True) == set()


@pytest.mark.parametrize("code", BROKEN)
def test_a_check_finds_what_is_wrong_and_nothing_else(sound: Path, code: str):
    spoil, text = BROKEN[code]
    spoil(sound)
    report = check_root(sound, "kits", deep=True, workers=1)
    assert {finding.code for finding in report.findings} == {code} | ALSO.get(code, set())
    found = next(finding for finding in report.findings if finding.code == code)
    assert text in found.text
    assert str(sound) not in found.text
    check = next(check for check in CHECKS if check.code == code)
    assert found.severity == check.severity
    assert found.case == (None if code in ("unpaired", "unused-file") else "case_00001")


HEADERS = [*[code for code in BROKEN if code != "unreadable"][:19], "duplicate-image"]


@pytest.mark.parametrize("code", HEADERS)
def test_headers_alone_tell_much(sound: Path, code: str):
    BROKEN[code][0](sound)
    assert codes(sound) == {code, "kits19-affine"} if code == "pixdim" else {code}


def test_headers_don_t_tell_the_rest(sound: Path):
    for code in ("not-hu", "fractional-labels", "back-to-front"):
        BROKEN[code][0](sound)
    assert codes(sound) == set()


def test_a_slope_beyond_all_numbers_is_one_finding(sound: Path):
    def apply(loaded: nib.Nifti1Image) -> nib.Nifti1Image:
        loaded = nib.Nifti1Image(np.asanyarray(loaded.dataobj) // 100 * 100 + 5, loaded.affine, loaded.header)
        loaded.header.set_slope_inter(1e38, 1e38)
        return loaded

    rewritten(image(sound), apply)
    (found,) = check_root(sound, deep=True, workers=1).findings
    assert (found.code, found.text) == ("not-finite", "68640 of 68640 voxels are NaN or infinite")


def test_a_mirrored_liver(livers: Path):
    for path in livers.glob("*-1.nii"):
        save(path, np.flip(read(path), 2))
    (found,) = check_root(livers, deep=True, workers=1).findings
    assert (found.code, found.case) == ("wrong-side", "volume-1")
    assert found.text == "liver lies on the patient's left: the image is mirrored, or its affine is"


@pytest.mark.parametrize("axes", ["RAS", "LPI", "SAR"])
def test_sound_data_on_other_axes_is_sound(livers: Path, axes: str):
    transform = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(AFFINE), nib.orientations.axcodes2ornt(axes)
    )
    for path in livers.glob("*.nii"):
        loaded = nib.load(path)
        turned_about = nib.Nifti1Image(read(path), loaded.affine).as_reoriented(transform)
        turned_about.set_qform(turned_about.affine, 1)
        nib.save(turned_about, path)
    assert codes(livers, deep=True) == set()


def test_lits_volumes_that_are_of_3d_ircadb(livers: Path):
    for kind in ("volume", "segmentation"):
        (livers / f"{kind}-1.nii").rename(livers / f"{kind}-30.nii")
    assert codes(livers) == {"ircadb"}


def test_patients_of_another_data_set(sound: Path, livers: Path, tmp_path: Path):
    found = check_root(sound, against=livers, workers=1).findings
    assert [(f.code, f.case) for f in found] == [("shared-patient", "case_00000"), ("shared-patient", "case_00001")]
    other, hu = tmp_path / "other", read(image(sound, 2))
    turned_about = np.flip(hu.transpose(2, 1, 0), (0, 1))[:, :, 10:]  # other axes, fewer slices, another type
    save(other / "volume-5.nii", turned_about.astype(np.float32), np.diag([5.0, 5, 5, 1]))
    (found,) = check_root(sound, against=other, workers=1).findings
    assert (found.code, found.case) == ("shared-patient", "case_00002")
    assert found.text == f"20 slices are the same as of volume-5 in {other}"


def test_gaps_between_slices(tmp_path: Path):
    for number in (1, 2, 4):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            np.save(tmp_path / folder / f"case_1_slice_{number}.npy", np.eye(9, dtype=np.uint8))
    (found,) = check_root(tmp_path, workers=1).findings
    assert (found.code, found.severity, found.case) == ("slice-gaps", "warning", "case_1")
    assert found.text == "1 gaps in the slices' numbers: 2 to 4"


def slices(root: Path, mask: np.ndarray) -> Path:
    for seed, case in enumerate(("a", "b")):
        for folder, pixels in (("images", np.random.default_rng(seed).integers(0, 255, (9, 9))), ("masks", mask)):
            (root / folder).mkdir(exist_ok=True)
            np.save(root / folder / f"{case}_slice_1.npy", pixels.astype(np.uint8))
    return root


def test_undeclared_labels_of_slices_are_declared_by_an_option(tmp_path: Path):
    found = check_root(slices(tmp_path, np.diag(np.arange(9) % 3)), deep=True, workers=1).findings
    found = [finding for finding in found if finding.severity == "error"]
    assert [(f.code, f.case, f.option) for f in found] == [
        ("unknown-labels", case, "source.tumor_value, source.labels") for case in ("a", "b")
    ]
    assert found[0].text == "masks/a_slice_1.npy: unknown label values 2; expected only [0, 1]"
    assert "unknown-labels" not in codes(tmp_path, options={"tumor_value": 2}, deep=True)


def test_undeclared_labels_of_kits_may_be_of_another_year(sound: Path):
    voxels(sound, lambda found: np.where(found == 2, 3, found).astype(np.uint8), label(sound))
    (found,) = check_root(sound, deep=True, workers=1).findings
    assert (found.code, str(found.option).split()[0]) == ("unknown-labels", "source.year")
    assert codes(sound, options={"year": 2023}, deep=True) == set()


def test_a_slice_that_can_not_be_read_is_one_finding(tmp_path: Path):
    slices(tmp_path, np.eye(9))
    (tmp_path / "images" / "a_slice_1.npy").write_bytes(b"")
    assert [f.case for f in check_root(tmp_path, deep=True, workers=1).findings if f.code == "unreadable"] == ["a"]


def test_a_case_that_is_there_twice(sound: Path):
    copied(sound)
    for deep in (False, True):
        options = {"patient_of": "case"}  # one patient
        (found,) = check_root(sound, "kits", options, deep=deep, workers=1).findings
        assert (found.code, found.text) == ("duplicate-case", "the same image as case_00000, of the same patient")


def test_grey_values_in_the_upper_byte_are_in_no_other_byte_order():
    grey = np.random.default_rng(0).integers(0, 200, (16, 16, 16)).astype(np.uint16)
    assert not describe_image(grey << 8, np.eye(4), 1, 0).swapped
    hu = (60 * np.random.default_rng(0).standard_normal((16, 16, 16))).astype(np.int16)
    assert describe_image(hu.byteswap(), np.eye(4), 1, 0).swapped

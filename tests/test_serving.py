"""The recipes of docs/serving.md: the page of Python gives the labels of `hlfd predict`, the container is sound."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from hlfd.data.preprocess import Preprocess
from hlfd.export import export
from hlfd.inference import predict
from hlfd.io import nifti
from hlfd.labels import organ_and_tumor
from hlfd.segmenter import Segmenter, build_network
from hlfd.sources._phantom import make_patient
from hlfd.verification import Evidence
from hlfd.volume import Volume

ROOT = Path(__file__).parents[1]
GRIDS = {
    "whole": {},
    "size": {"size": (48, 40)},
    "spacing": {"spacing_mm": 5.0},
    "finer": {"spacing_mm": 1.5, "crop": (72, 104)},
    "crop": {"crop": (40, 96)},
}


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("onnx_without_hlfd", ROOT / "examples" / "onnx_without_hlfd.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def a_model(**grid: object) -> Segmenter:
    torch.manual_seed(0)
    network = build_network("unet", {"width": 2}, 3)
    shown = Preprocess(window_hu=(-160.0, 240.0), **grid)
    return Segmenter(network, "unet", {"width": 2}, shown, organ_and_tumor("both", "kidney"))


def exported(model: Segmenter, path: Path, image: Volume) -> Path:
    """The model as a file, verified on one small volume."""
    evidence = Evidence("one volume", lambda: [image], lambda: [(image, None)], 1, 1)
    return export(model, path, evidence=evidence, tolerance=1.0).path


@pytest.mark.parametrize("grid", GRIDS)
def test_without_hlfd_the_labels_are_the_same(example, grid: str, tmp_path: Path):
    model, (image, _) = a_model(**GRIDS[grid]), make_patient(0, list(GRIDS).index(grid), organ="kidney", size=64)
    nib.save(nib.Nifti1Image(image.voxels, image.affine), tmp_path / "ct.nii.gz")
    file = exported(model, tmp_path / "student.onnx", image)
    example.main(str(file), str(tmp_path / "ct.nii.gz"), str(tmp_path / "labels.nii.gz"))
    expected, got = predict(model, nifti.read_image(tmp_path / "ct.nii.gz")), nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_allclose(got.affine, image.affine, atol=1e-5)
    assert len(np.unique(expected.voxels)) == 3
    differ = np.mean(np.asarray(got.dataobj) != expected.voxels)
    assert differ <= 1e-5, f"{differ:.2g} of the labels"


def test_what_it_is_not_made_for_is_refused(example, tmp_path: Path):
    side, image = (
        tmp_path / "s.onnx.json",
        Volume(np.arange(4 * 32 * 32).reshape(4, 32, 32).astype(np.int16), np.eye(4)),
    )
    nib.save(nib.Nifti1Image(image.voxels, image.affine), tmp_path / "ct.nii.gz")
    file = exported(a_model(), tmp_path / "s.onnx", image)
    side.write_text(json.dumps(json.loads(side.read_text()) | {"dims": 3}))
    with pytest.raises(SystemExit, match="expected a 2D model of single slices"):
        example.main(str(file), str(tmp_path / "ct.nii.gz"), "x.nii.gz")


def test_it_is_twenty_lines_that_the_guide_shows():
    text = (ROOT / "examples" / "onnx_without_hlfd.py").read_text()
    assert not re.search(r"^(import|from) hlfd", text, re.M)
    mine = text.split("    # begin\n")[1].split("    # end")[0]
    assert len([line for line in mine.splitlines() if line.strip()]) <= 20
    shown = "\n".join(line.removeprefix("    ") for line in mine.rstrip().splitlines())
    assert f"```python\n{shown}\n```" in (ROOT / "docs" / "serving.md").read_text()


CONTAINERFILE = ROOT / "examples" / "Containerfile"


def test_the_container_file_keeps_the_usual_rules():
    text = re.sub(r"\\\n\s*", "", CONTAINERFILE.read_text())
    steps = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    images = [rest.split()[0] for word, rest in steps if word == "FROM"]
    assert len(images) == 2
    assert all(re.search(r":[\w.-]+$", image) and not image.endswith(":latest") for image in images)
    assert [word for word, _ in steps][-2:] == ["ENTRYPOINT", "CMD"]
    users = [rest for word, rest in steps if word == "USER"]
    assert users and users[-1] not in ("root", "0")
    assert not any(word == "ADD" or "sudo" in rest or "curl" in rest for word, rest in steps)
    for word, rest in steps:
        for source in rest.split()[:-1] if word == "COPY" and not rest.startswith("--from") else ():
            assert (ROOT / source).exists(), source
    extras = re.search(r"'\.\[(.*?)\]'", text)
    assert extras is not None
    for extra in extras[1].split(","):
        assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.M), extra
    assert "-c constraints.txt" in text


def test_hadolint_has_nothing_to_say():
    linter = shutil.which("hadolint")
    if linter is None:
        pytest.skip("needs hadolint, which is not installed")
    ended = subprocess.run([linter, str(CONTAINERFILE)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")

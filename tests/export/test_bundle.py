"""A MONAI bundle passes MONAI's own checks, and gives hlfd's labels, without hlfd."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

import hlfd
from hlfd.data.postprocess import Postprocess
from hlfd.data.preprocess import Preprocess
from hlfd.errors import InputError
from hlfd.export import NotTheSameError, export
from hlfd.inference import predict
from hlfd.io import nifti
from hlfd.segmenter import Segmenter, build_network
from hlfd.verification import Evidence
from hlfd.volume import Volume

EVALUATION = {
    "version": 2,
    "protocol": "default",
    "cases": [{"case": "case_00003", "patient": "Müller_1957"}],
    "labels": {"tumor": {"dice": {"mean": 0.61234, "median": 0.6, "low": 0.5, "high": 0.7, "patients": 3}}},
}


def noise(shape=(37, 41, 5), seed=0) -> Volume:
    """An oblique, flipped grid of unequal spacing."""
    random = np.random.default_rng(seed)
    affine = np.array([[0.1, -0.9, 0, 20], [-0.8, -0.1, 0.2, 30], [0, 0.1, 2.5, -40], [0, 0, 0, 1.0]])
    smooth = np.kron(random.integers(-300, 400, [-(-n // 4) for n in shape]), np.ones((4, 4, 4)))
    return Volume(smooth[tuple(slice(n) for n in shape)] + random.normal(0, 20, shape), affine)


def on_noise() -> Evidence:
    return Evidence("noise", lambda: [noise()], lambda: [(noise(), None)], 1, 1)


@pytest.fixture(scope="module")
def bundle(trained, evidence, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "discs"
    facts = {"seed": 0, "best_validation_dice": 0.7, "patients": {"train": 3, "validation": 1}}
    described = (
        trained.network_name,
        trained.network_options,
        trained.preprocess,
        trained.labels,
        trained.learned_from,
    )
    trained = Segmenter(trained.network, *described, facts)
    return export(trained, path, to="monai-bundle", evidence=evidence, evaluation=EVALUATION).path


@pytest.mark.parametrize(
    ("network", "preprocess"),
    [
        ("unet", {"size": (48, 32)}),
        ("unet", {"size": (24, 20)}),
        ("unet", {"spacing_mm": 0.6, "crop": (32, 64)}),
        ("unet", {"neighbours": 1}),
        ("monai:UNet", {"spacing_mm": 1.7}),
        ("monai:UNet", {"crop": (23, 16), "neighbours": 2}),
    ],
)
def test_the_same_labels_for_every_preprocessing(network, preprocess, trained, tmp_path):
    torch.manual_seed(3)
    options = {"width": 2} if network == "unet" else {"channels": [4, 8], "num_res_units": 0}
    shown = Preprocess(window_hu=(-200, 300), **preprocess)
    tapped = build_network(network, options, 3, in_channels=shown.channels)
    tapped.train()(torch.randn(2, shown.channels, 32, 32))
    model = Segmenter(tapped, network, options, shown, trained.labels)
    done = export(model, tmp_path / "bundle", to="monai-bundle", evidence=on_noise(), tolerance=0.0)
    assert done.verified.changed == 0 and done.verified.foreground
    assert (tmp_path / "bundle" / "models" / "model.ts").exists() == (network == "unet")
    assert done.verified.max_difference < 1e-4 * max(done.verified.largest_logit, 1)


def run(bundle: Path, *arguments: object) -> None:
    """``python -m monai.bundle`` in the bundle's folder, without hlfd."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    block = "import sys; sys.modules['hlfd'] = sys.modules['lightning'] = None; sys.path.insert(0, '.'); import runpy; "
    block += "sys.argv[0] = 'monai.bundle'; runpy.run_module('monai.bundle', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", block, *map(str, arguments)]
    ended = subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


META, CONFIG = "configs/metadata.json", "configs/inference.json"
SCHEMA = "configs/metadata_schema.json"


def test_run_gives_the_labels_of_predict(bundle, trained, source, tmp_path):
    """On a case of the data set and on an oblique grid, from file to file."""
    image = source.read_image(source.cases[3])
    volumes = {"case": image, "oblique": noise()}
    (tmp_path / "in").mkdir()
    for name, volume in volumes.items():
        nib.save(nib.Nifti1Image(volume.voxels.astype(np.float32), volume.affine), tmp_path / "in" / f"{name}.nii.gz")
    run(bundle, "run", "--config_file", CONFIG, "--dataset_dir", tmp_path / "in", "--output_dir", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["case_seg.nii.gz", "oblique_seg.nii.gz"]
    for name in volumes:
        given = nifti.read_image(tmp_path / "in" / f"{name}.nii.gz")
        found = nifti.read_label(tmp_path / "out" / f"{name}_seg.nii.gz")
        given.require_same_grid(found, name)
        np.testing.assert_array_equal(found.voxels, predict(trained, given).voxels)
    assert (found.voxels > 0).any()


@pytest.fixture(scope="module")
def plain_bundle(trained, tmp_path_factory) -> Path:
    """Of a network of MONAI's own."""
    options = {"channels": [4, 8], "num_res_units": 1}
    network = build_network("monai:UNet", options, 3)
    model = Segmenter(network, "monai:UNet", options, trained.preprocess, trained.labels)
    path = tmp_path_factory.mktemp("bundles") / "plain"
    return export(model, path, to="monai-bundle", evidence=on_noise(), tolerance=0.0).path


def test_a_network_of_monais_own_is_built_by_its_name(plain_bundle):
    definition = json.loads((plain_bundle / CONFIG).read_text())["network_def"]
    assert definition["_target_"] == "monai.networks.nets.UNet" and definition["out_channels"] == 3
    assert not (plain_bundle / "models" / "model.ts").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", ["bundle", "plain_bundle"])
def test_monais_own_checks(which, request, tmp_path, monkeypatch):
    from monai.bundle import ckpt_export, verify_metadata, verify_net_in_out

    monkeypatch.chdir(request.getfixturevalue(which))
    monkeypatch.setattr(socket, "getaddrinfo", None)  # nothing is downloaded
    verify_metadata(meta_file=META, filepath=SCHEMA)
    verify_net_in_out("network_def", meta_file=META, config_file=CONFIG)
    script = tmp_path / "again.ts"
    ckpt_export("network_def", filepath=script, ckpt_file="models/model.pt", meta_file=META, config_file=CONFIG)
    assert script.stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore")
def test_metadata_that_is_wrong_fails(bundle, tmp_path, monkeypatch):
    """The checks can say no."""
    from monai.bundle import verify_metadata, verify_net_in_out

    monkeypatch.chdir(shutil.copytree(bundle, tmp_path / "copy"))
    path = Path(META)
    known = json.loads(path.read_text())
    known["network_data_format"]["outputs"]["pred"]["num_channels"] = 4
    path.write_text(json.dumps(known))
    with pytest.raises(ValueError, match="output channel number `3` doesn't match: `4`"):
        verify_net_in_out("network_def", meta_file=META, config_file=CONFIG)
    del known["network_data_format"]["outputs"]
    path.write_text(json.dumps(known))
    with pytest.raises(ValueError, match="'outputs' is a required property"):
        verify_metadata(meta_file=META, filepath=SCHEMA)


def test_our_schema_asks_for_what_monais_asks_for(bundle):
    """Of meta_schema_20240725.json, to which the bundle's metadata refers."""
    asked = {"schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"}
    asked |= {"task", "description", "authors", "copyright", "network_data_format"}
    of_tensors = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"}
    schema = json.loads((bundle / SCHEMA).read_text())
    assert asked <= set(schema["required"]) and of_tensors <= set(schema["$defs"]["tensor"]["required"])
    known = json.loads((bundle / META).read_text())
    assert asked <= known.keys() and known["schema"].endswith("meta_schema_20240725.json")


def test_what_is_in_it(bundle, trained):
    files = {str(p.relative_to(bundle)) for p in bundle.rglob("*") if p.is_file()}
    assert files == {
        "LICENSE",
        "configs/inference.json",
        "configs/metadata.json",
        "configs/metadata_schema.json",
        "docs/README.md",
        "models/model.pt",
        "models/model.ts",
        "scripts/__init__.py",
        "scripts/slices.py",
    }
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert sum(value.numel() for value in weights.values()) >= 0.9 * trained.parameters
    card = (bundle / "docs" / "README.md").read_text()
    assert "| tumor | dice | 0.612 | 0.500 to 0.700 | 3 |" in card
    assert "Research use only" in card and "-200 to 300 HU" in card
    rows = card.splitlines()
    for row, below in zip(rows, [*rows[1:], ""], strict=True):  # a paragraph right below would be a row of the table
        assert not row.startswith("|") or not below or below.startswith("|"), below
    assert json.loads((bundle / "configs" / "metadata.json").read_text())["eval_metrics"] == {
        "mean_dice_tumor": 0.61234
    }
    for file in bundle.rglob("*"):
        for word in ("Müller_1957", "case_0", *trained.learned_from):
            assert file.is_dir() or word.encode() not in file.read_bytes(), file


def test_a_card_without_facts_says_so(tmp_path, trained):
    done = export(trained, tmp_path / "bundle", to="monai-bundle", evidence=on_noise())
    card = (done.path / "docs" / "README.md").read_text()
    assert "None: there was no `evaluation.json`" in card and "Not on record" in card


def test_a_bundle_replaces_an_older_one_or_leaves_it(tmp_path, trained, monkeypatch):
    from hlfd import plugins

    path = tmp_path / "bundle"
    export(trained, path, to="monai-bundle", evidence=on_noise())
    (path / "LICENSE").write_text("old")
    plugin = plugins.module("exporters", "monai_bundle")
    original = plugin._inference
    with monkeypatch.context() as patch:
        patch.setattr(plugin, "_inference", lambda model, network: original(spoilt(model), network))
        with pytest.raises(NotTheSameError, match="not written, it disagrees with PyTorch"):
            export(trained, path, to="monai-bundle", evidence=on_noise())
    assert (path / "LICENSE").read_text() == "old"
    export(trained, path, to="monai-bundle", evidence=on_noise())
    assert (path / "LICENSE").read_text() != "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    (path / "input").mkdir()
    (path / "input" / "ct.nii.gz").touch()
    with pytest.raises(InputError, match="holds other files than those of a bundle that hlfd wrote"):
        export(trained, path, to="monai-bundle", evidence=on_noise())
    (path / "input" / "ct.nii.gz").unlink()
    metadata = path / "configs" / "metadata.json"
    metadata.write_text(metadata.read_text().replace("exported by hlfd", "somebody's own"))
    with pytest.raises(InputError, match="holds other files than those of a bundle that hlfd wrote"):
        export(trained, path, to="monai-bundle", evidence=on_noise())


def spoilt(model: Segmenter) -> Segmenter:
    return replace(model, preprocess=Preprocess(window_hu=(-100, 300), size=(32, 32)))


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path, trained):
    (tmp_path / "mine").touch()
    with pytest.raises(InputError, match="holds other files than those of a bundle"):
        export(trained, tmp_path, to="monai-bundle", evidence=on_noise())
    assert (tmp_path / "mine").exists()


def test_a_bundle_is_not_for_hlfd_load(bundle):
    with pytest.raises(InputError, match="a MONAI bundle, which MONAI runs"):
        hlfd.load(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocess": Preprocess(window_hu=(0, 1), crop="foreground")}, "crop: foreground can't travel"),
        ({"preprocess": Preprocess(window_hu=(0, 1), slice_mm=2.0)}, "slice_mm and crop"),
        ({"preprocess": Preprocess(window_hu=(0, 1), patch=(32, 32))}, "expected a 2D network of whole slices"),
        ({"postprocess": Postprocess(largest={"kidney": 2})}, "post-processing can't travel"),
    ],
)
def test_what_a_bundle_can_not_do_is_refused(change, message, trained, tmp_path):
    with pytest.raises(InputError, match=message):
        export(replace(trained, **change), tmp_path / "bundle", to="monai-bundle", evidence=on_noise())
    assert not list(tmp_path.iterdir())


def test_3d_is_refused(tmp_path, trained):
    class Same(nn.Module):
        def forward(self, image):
            return torch.cat([image] * 3, 1)

    from hlfd.distill.features import Tapped

    tapped = Tapped(Same(), {}, classes=3, in_channels=1, dims=3)
    model = Segmenter(tapped, "none", {}, Preprocess(window_hu=(0, 1)), trained.labels)
    with pytest.raises(InputError, match="monai-bundle: expected a 2D network of whole slices"):
        export(model, tmp_path / "bundle", to="monai-bundle", evidence=on_noise())
    assert not list(tmp_path.iterdir())

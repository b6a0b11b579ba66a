"""A tiny trained network, a data set it is judged on, and one export of each kind, shared by the tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from hlfd import plugins
from hlfd.cases import DataSource
from hlfd.data.preprocess import Preprocess
from hlfd.segmenter import Segmenter, build_network, patient_keys
from hlfd.verification import Evidence, of_cases

SHAPE = (4, 30, 26)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory, make_kits: Callable[..., Path]) -> DataSource:
    """Four synthetic cases of discs on noise."""
    root = make_kits(tmp_path_factory.mktemp("kits"), 4, shape=SHAPE)
    return plugins.load("sources", "kits", root)


@pytest.fixture(scope="session")
def trained(source: DataSource) -> Segmenter:
    """A U-Net that finds the discs."""
    torch.manual_seed(0)
    options = {"width": 8}
    network = build_network("unet", options, 3)
    preprocess = Preprocess(window_hu=(-200, 300), size=(32, 32))
    case = source.cases[0]
    images = torch.from_numpy(preprocess.image(source.read_image(case)).voxels)[:, None]
    labels = torch.from_numpy(preprocess.label(source.read_label(case)).voxels).long()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    network.train()
    for _ in range(100):
        optimizer.zero_grad()
        logits = network(images + 0.02 * torch.randn(images.shape))["logits"]
        F.cross_entropy(logits, labels, weight=torch.tensor([1.0, 2.0, 4.0])).backward()
        optimizer.step()
    keys = patient_keys("kits", ["case_00000"])
    return Segmenter(network, "unet", options, preprocess, source.labels, keys, {"seed": 0})


@pytest.fixture(scope="session")
def evidence(trained: Segmenter, source: DataSource) -> Evidence:
    """Calibrated on the first case, judged on the others."""
    return of_cases(trained, source, source.cases[:1], source.cases[1:3])


@pytest.fixture(scope="session")
def exported(trained: Segmenter, evidence: Evidence, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``exported("model.onnx", "int8")``: the file, written once."""
    from hlfd.export import export

    made: dict[tuple[str, str], Path] = {}

    def get(name: str, precision: str = "fp32") -> Path:
        if (name, precision) not in made:
            folder = tmp_path_factory.mktemp("exported")
            made[name, precision] = export(trained, folder / name, precision=precision, evidence=evidence).path
        return made[name, precision]

    return get

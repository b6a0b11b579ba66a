"""Any nn.Module by the dotted path of its class; and a model folder that names one imports nothing unasked."""

import sys
from pathlib import Path

import pytest
import torch

from hlfd import plugins
from hlfd.data.preprocess import Preprocess
from hlfd.errors import InputError
from hlfd.labels import organ_and_tumor
from hlfd.segmenter import Segmenter, build_network

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, n_channels: int, num_classes: int, *, width: int = 4, dims: int = 2):
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.stem, self.down = conv(n_channels, width, 3, padding=1), conv(width, 2 * width, 2, 2)
        self.up = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims](2 * width, width, 2, 2)
        self.head = conv(width, num_classes, 1)

    def forward(self, x):
        stem = self.stem(x)
        return self.head(self.up(self.down(stem)) + stem)

class Fixed(Net):
    def __init__(self):
        super().__init__(1, 3)

class Loose(Net):
    def __init__(self, **anything):
        super().__init__(1, 3, **anything)

class Sized(Net):
    def __init__(self, num_classes, img_size=48):
        super().__init__(1, num_classes)
        self.size = img_size

    def forward(self, x):
        assert x.shape[-1] == self.size, "wrong size"
        return super().forward(x)

class Outer:
    Inner = Fixed

class NoModule:
    pass

class Half(Net):
    def __init__(self, classes):
        super().__init__(1, classes)

    def forward(self, x):
        return super().forward(x)[..., ::2, ::2]
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package ``theirs`` with a module ``nets``, of which nothing is remembered afterwards."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").touch()
    (tmp_path / "theirs" / "nets.py").write_text(CODE)
    (tmp_path / "theirs" / "needy.py").write_text("import package_that_is_not_installed\n")
    (tmp_path / "theirs" / "wrong.py").write_text("from torch import there_is_no_such_thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_asked_for", set())
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "theirs"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "options", "dims"),
    [
        ("theirs.nets.Net", {"width": 6}, 2),
        ("theirs.nets.Net", {}, 3),
        ("imported:theirs.nets.Net", {}, 2),
        ("theirs.nets.Fixed", {}, 2),
        ("theirs.nets.Loose", {"width": 2}, 2),
        ("theirs.nets.Sized", {}, 2),
        ("theirs.nets.Outer.Inner", {}, 2),
    ],
)
def test_a_class_by_its_path(name, options, dims):
    tapped = build_network(name, options, 3, dims=dims)
    assert tapped.taps == {"e1": "stem", "e5": "down", "d2": "up"}
    assert tapped.info()["e1"].channels == options.get("width", 4)
    assert tapped.dims == dims


def test_a_size_option_is_the_size():
    assert build_network("theirs.nets.Sized", {}, 3).size == (48, 48)
    assert build_network("theirs.nets.Sized", {"img_size": 32}, 3).size == (32, 32)
    assert build_network("theirs.nets.Net", {}, 3).size is None


def test_taps_over_those_proposed():
    tapped = build_network("theirs.nets.Net", {"taps": {"e2": "down", "d2": None}}, 3)
    assert tapped.taps == {"e1": "stem", "e5": "down", "e2": "down"}
    assert tapped.proposed == {"e1", "e5"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("theirs.nets.Nett", {}, r"theirs.nets has no 'Nett' \(did you mean 'Net'\?"),
        ("theirs.netz.Net", {}, "theirs has no 'netz'"),
        ("nobody.nets.Net", {}, "no module of that name can be imported"),
        ("theirs.nets.NoModule", {}, "expected a class derived from torch.nn.Module, got NoModule"),
        ("theirs.nets.nn.functional.relu", {}, "expected a class derived from torch.nn.Module, got function"),
        ("theirs.nets.Net", {"widhth": 3}, r"there is no option 'widhth' \(did you mean 'width'\?"),
        (
            "theirs.nets.Net",
            {"num_classes": 3},
            "'num_classes' is no option: it is filled in with the recipe's classes",
        ),
        ("theirs.nets.Net", {"width": "wide"}, "Net can't be built with these options: TypeError"),
        (
            "theirs.nets.Half",
            {},
            r"expected logits of 3 channels at stride 1, got 3 channels at stride 2 \(64 x 64 pix",
        ),
        ("theirs.nets.Sized", {"img_size": 4.5}, "'img_size': expected a number of pixels, or .* 2 axes, got 4.5"),
        ("theirs.nets.Sized", {"img_size": [8]}, r"'img_size': expected a number of pixels, or .*, got \[8\]"),
        ("theirs.needy.Net", {}, "needs the package 'package_that_is_not_installed'"),
        ("theirs.wrong.Net", {}, "cannot import name 'there_is_no_such_thing'"),
        ("imported:Net", {}, "no module of that name can be imported"),
    ],
)
def test_mistakes_are_one_line(name, options, message):
    with pytest.raises(InputError, match=message) as raised:
        build_network(name, options, 3)
    assert str(raised.value).startswith(f"network '{name}'")
    assert "\n" not in str(raised.value)


def test_other_channels_than_it_was_made_for():
    with pytest.raises(InputError, match=r"'theirs.nets.Fixed': the network can't be run on .* and 2 channel\(s\)"):
        build_network("theirs.nets.Fixed", {}, 3, in_channels=2)
    with pytest.raises(
        InputError, match=r"'theirs\.nets\.Fixed': expected logits of 5 channels at stride 1, got 3 channels"
    ):
        build_network("theirs.nets.Fixed", {}, 5)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of ``theirs.nets.Net`` from another process: nobody has asked for that name in this one."""
    network = build_network("theirs.nets.Net", {}, 3)
    model = Segmenter(network, "theirs.nets.Net", {}, Preprocess(window_hu=(0, 1)), organ_and_tumor("both", "liver"))
    model.save(tmp_path / "model")
    monkeypatch.setattr(plugins, "_asked_for", set())
    for name in ("theirs", "theirs.nets"):
        del sys.modules[name]
    return tmp_path / "model"


def test_a_model_folder_imports_nothing_unasked(folder, monkeypatch):
    for allow in ((), ("their",), ("theirs.net",), ("theirs.nets.Ne",)):
        monkeypatch.setenv("HLFD_ALLOW", ",".join(allow))
        with pytest.raises(
            InputError, match=r"'theirs.nets.Net' is code that is not part of hlfd; .*HLFD_ALLOW=theirs "
        ):
            Segmenter.load(folder, allow=allow)
    assert "theirs" not in sys.modules


@pytest.mark.parametrize("allow", ["theirs", "theirs.nets", "theirs.nets.Net"])
def test_a_model_folder_may_import_what_is_allowed(folder, allow):
    loaded = Segmenter.load(folder, allow=[allow])
    assert loaded.network(torch.zeros(1, 1, 8, 8))["logits"].shape == (1, 3, 8, 8)


def test_the_environment_can_allow(folder, monkeypatch):
    monkeypatch.setenv("HLFD_ALLOW", "other,theirs")
    Segmenter.load(folder)


def test_a_recipe_that_names_the_same_path_allows_it(folder):
    plugins.options("networks", "theirs.nets.Net", {}, given=("in_channels", "classes", "dims"))
    Segmenter.load(folder)

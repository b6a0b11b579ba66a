"""Plug-ins: found by name, their options checked against ``build``, mistakes answered with what there is."""

import importlib.metadata
import sys
from pathlib import Path

import pytest

from hlfd import plugins
from hlfd.distill.features import TapInfo
from hlfd.errors import InputError, nearest

KINDS = ("methods", "networks", "sources")


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``third_party(code)``: a package ``theirs`` with a module ``net``."""

    def write(code: str) -> None:
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs" / "__init__.py").touch()
        (tmp_path / "theirs" / "net.py").write_text(code)

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in ("theirs", "theirs.net"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_of_the_folder_is_a_plug_in_that_says_what_it_is(kind: plugins.Kind):
    folder = Path(plugins.__file__).parent / kind
    files = {p.stem for p in folder.glob("*.py") if not p.name.startswith("_")}
    assert files and files <= set(plugins.names(kind))
    for name in files:
        assert plugins.summary(kind, name)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("networks", "unett", r"there is no network 'unett' \(did you mean 'unet'\? known: .*unetpp"),
        ("methods", "hldf", r"there is no method 'hldf' \(did you mean 'hlfd'\?"),
        ("sources", "zzz", r"there is no source 'zzz' \(known: dicom, kits, lits,"),
        ("networks", "_blocks", "there is no network '_blocks'"),
        ("networks", ".unet", "there is no network '.unet'"),
        ("networks", "nobody.knows", "network 'nobody.knows': no module of that name can be imported"),
        ("networks", "os.path", r"network 'os.path': the module has no function build\(\)"),
    ],
)
def test_a_name_that_is_none(kind: plugins.Kind, name: str, message: str):
    with pytest.raises(InputError, match=message):
        plugins.load(kind, name)


GIVEN = ("in_channels", "classes", "dims")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widthh": 8}, r"network 'unet' has no option 'widthh' \(did you mean 'width'\?"),
        ({"classes": 3}, "network 'unet' has no option 'classes'"),
        ({"width": 0}, "network 'unet': 'width': input should be greater than 0, got 0"),
        ({"width": "wide"}, "network 'unet': 'width': input should be a valid integer.* got 'wide'"),
        ({"norm": "group"}, "network 'unet': 'norm': input should be 'batch' or 'instance', got 'group'"),
    ],
)
def test_an_option_that_is_none(values: dict, message: str):
    with pytest.raises(InputError, match=message):
        plugins.options("networks", "unet", values, given=GIVEN)


def test_options_that_are_fine_come_back_converted():
    assert plugins.options("networks", "unet", {"width": "8"}, given=GIVEN) == {"width": 8}
    assert plugins.options("networks", "unet", {}, given=GIVEN) == {}
    defaults = plugins.defaults("networks", "unet")
    assert defaults["classes"] is ... and defaults["width"] == 32


def test_what_must_be_given(tmp_path: Path):
    with pytest.raises(InputError, match="network 'unet': 'in_channels' is missing"):
        plugins.load("networks", "unet", classes=2)


def test_a_third_partys_module(third_party, monkeypatch):
    third_party("def build(*, depth: int = 2):\n    '''Their network.'''\n    return depth * 10\n")
    assert plugins.load("networks", "theirs.net", depth=3) == 30
    assert plugins.summary("networks", "theirs.net") == "Their network."
    with pytest.raises(InputError, match=r"network 'theirs.net' has no option 'dept' \(did you mean 'depth'"):
        plugins.load("networks", "theirs.net", dept=3)
    point = importlib.metadata.EntryPoint("theirs", "theirs.net", "hlfd.networks")
    points = importlib.metadata.EntryPoints([point])
    monkeypatch.setattr(importlib.metadata, "entry_points", points.select)
    assert "theirs" in plugins.names("networks")
    assert plugins.load("networks", "theirs") == 20


def test_a_third_partys_missing_import_is_not_hidden(third_party):
    third_party("import package_that_is_not_installed\n")
    with pytest.raises(
        InputError, match=r"'theirs\.net' can't be imported: it needs the package 'package_that_is_not_i"
    ):
        plugins.load("networks", "theirs.net")


BROKEN = {
    "def build(:\n": "module 'theirs.net' raises SyntaxError: invalid syntax",
    "raise ValueError('needs a\\nGPU')\n": "module 'theirs.net' raises ValueError: needs a GPU",
    "int('x')\n": "module 'theirs.net' raises ValueError: invalid literal",
}


@pytest.mark.parametrize("code", BROKEN)
@pytest.mark.parametrize("name", ["theirs.net", "theirs.net.Net", "imported:theirs.net.Net", "theirs"])
def test_a_third_partys_module_that_fails_at_import_is_one_line(third_party, monkeypatch, code: str, name: str):
    third_party(code)
    point = importlib.metadata.EntryPoint("theirs", "theirs.net", "hlfd.networks")
    monkeypatch.setattr(importlib.metadata, "entry_points", importlib.metadata.EntryPoints([point]).select)
    with pytest.raises(InputError, match=f"^network '{name}'.*: {BROKEN[code]}") as raised:
        plugins.options("networks", name, {})
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value.__cause__, SyntaxError | ValueError)


@pytest.mark.parametrize("signature", ["*, in_channels=1, classes=2", "argument='', /, **options"])
@pytest.mark.parametrize(
    ("raised", "message"),
    [("ValueError('2D\\nonly')", "2D only"), ("TypeError('no')", "no"), ("ValueError()", "ValueError")],
)
def test_what_a_third_partys_build_raises_is_one_line(third_party, signature: str, raised: str, message: str):
    third_party(f"def build({signature}):\n    raise {raised}\n")
    name = "theirs.net:thing" if "argument" in signature else "theirs.net"
    with pytest.raises(InputError, match=f"^network '{name}': {message}$") as error:
        plugins.load("networks", name)
    assert type(error.value.__cause__) in (ValueError, TypeError)


def test_what_a_third_partys_build_says_itself_stays(third_party):
    third_party("import hlfd\ndef build():\n    raise hlfd.InputError('theirs: 2D only')\n")
    with pytest.raises(InputError, match=r"^theirs: 2D only$"):
        plugins.load("networks", "theirs.net")


def test_a_mistake_of_ours_is_no_users_mistake(monkeypatch):
    def build():
        raise ValueError("a bug")

    monkeypatch.setattr(plugins.module("networks", "unet"), "build", build)
    with pytest.raises(ValueError, match="a bug") as raised:
        plugins.load("networks", "unet")
    assert not isinstance(raised.value, InputError)


def test_an_option_without_annotation_takes_anything(third_party):
    third_party("def build(*, in_channels, classes=2, depth=None):\n    return in_channels, classes, depth\n")
    assert plugins.load("networks", "theirs.net", in_channels=1, depth=[3]) == (1, 2, [3])
    with pytest.raises(InputError, match=r"network 'theirs\.net': 'in_channels' is missing"):
        plugins.load("networks", "theirs.net")


def test_a_plug_in_that_builds_many_things_is_told_which():
    assert [name for name in plugins.names("networks") if plugins.needs_argument("networks", name)] == [
        "imported",
        "monai",
    ]
    assert plugins.resolve("networks", "monai:UNet") == (plugins.module("networks", "monai"), "UNet")
    assert plugins.resolve("networks", "torch.nn.Conv2d") == (plugins.module("networks", "imported"), "torch.nn.Conv2d")
    for name, message in (
        ("monai", "network 'monai' needs to be told what to build: monai:NAME"),
        ("monai:", r"network 'monai:': monai\.networks\.nets\. doesn't exist"),
        ("unet:big", "network 'unet' takes nothing after a colon, got 'big'"),
        ("monay:UNet", r"there is no network 'monay' \(did you mean 'monai'"),
    ):
        with pytest.raises(InputError, match=message):
            plugins.options("networks", name, {}, given=GIVEN)


def test_a_third_partys_plug_in_of_many_things(third_party):
    third_party(
        "from hlfd.errors import InputError\n"
        "def build(argument, /, *, size: int = 1, **options):\n    return argument, size, options\n"
        "def check(argument, options):\n    if 'bad' in options: raise InputError('no option bad')\n"
    )
    assert plugins.load("networks", "theirs.net:thing", size="3", more=4) == ("thing", 3, {"more": 4})
    with pytest.raises(InputError, match=r"network 'theirs\.net:thing': no option bad"):
        plugins.load("networks", "theirs.net:thing", bad=4)
    assert plugins.defaults("networks", "theirs.net:thing") == {"taps": {}, "size": 1}


def test_every_network_has_the_option_taps():
    taps = {"d5": "e4", "d4": None}
    for name in ("unet", "resnet18", "monai:UNet", "torch.nn.Conv2d"):
        needed = {"kernel_size": 1} if name.startswith("torch") else {}
        checked = plugins.options("networks", name, {**needed, "taps": taps}, given=GIVEN)
        assert checked["taps"] == taps
        for wrong in (["e1"], {"e1": 3}, "e1"):
            with pytest.raises(InputError, match=f"network '{name}': 'taps"):
                plugins.options("networks", name, {**needed, "taps": wrong}, given=GIVEN)
    with pytest.raises(InputError, match="method 'kd' has no option 'taps'"):
        plugins.options("methods", "kd", {"taps": {}}, given=("classes",))


def test_a_tap_that_a_network_lacks_is_told_with_those_it_has():
    whole = {role: TapInfo(8, 1) for role in ("e1", "e2", "e3", "e4", "e5", "d5", "d4", "d3", "d2", "logits")}
    few = {role: whole[role] for role in ("e1", "logits")}
    for student, teacher, who in ((few, whole, "student"), (whole, few, "teacher")):
        with pytest.raises(InputError, match=rf"the {who} has no tap '[ed]\d' \(it has e1, logits\)"):
            plugins.load("methods", "hlfd", student, teacher, classes=2)


@pytest.mark.parametrize(
    ("word", "known", "said"),
    [
        ("kist", ["lits", "kits"], " (did you mean 'kits'? known: kits, lits)"),
        ("x", ["b", "a"], " (known: a, b)"),
        ("x", [], " (known: none)"),
    ],
)
def test_nearest(word, known, said):
    assert nearest(word, known) == said

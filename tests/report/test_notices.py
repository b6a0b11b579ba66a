"""What the viewer's program brings along is named, with its licence, in the package and in the page."""

import base64
import gzip
import html
import re
from importlib.resources import files

import pytest

from hlfd.report.model import ViewerCase
from hlfd.report.viewer import embedded

ASSETS = files("hlfd.report") / "assets"
NOTICES = (ASSETS / "niivue-NOTICES.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def program() -> str:
    return gzip.decompress((ASSETS / "niivue.umd.js.gz").read_bytes()).decode()


def test_the_notices_are_of_this_version(program: str):
    version = re.search(r"NiiVue (\d+\.\d+\.\d+)", NOTICES)
    assert version is not None
    assert f"NiiVue {version[1]}" in (ASSETS / "README.md").read_text()
    assert f'"{version[1]}"' in program


def test_every_compiled_library_in_it_is_named(program: str):
    compiled = b"".join(base64.b64decode(text) for text in re.findall(r'"(AGFzbQ[A-Za-z0-9+/=]+)"', program))
    found = {
        name
        for name in ("blosclz", "lz4hc", "snappy", "zlib", "zstd", "brotli", "bzip2", "lzma")
        if name.encode() in compiled
    }
    named = {"blosclz": "BloscLZ", "lz4hc": "LZ4", "snappy": "Snappy", "zlib": "zlib", "zstd": "Zstandard"}
    assert found == set(named)  # another one needs its notice
    for name in named.values():
        assert re.search(rf"\b{name}\b.*Copyright", NOTICES), name


def test_every_licence_that_is_named_is_there_in_full():
    named = set(re.findall(r"\b(MIT|ISC|BSD-2-Clause|BSD-3-Clause|zlib)\b licence", NOTICES))
    assert named == {"MIT", "ISC", "BSD-2-Clause", "BSD-3-Clause", "zlib"}
    for name in named:
        _, text = NOTICES.split(f"The {name} licence\n\n")
        assert len(text.split("=" * 72)[0]) > 500


def test_the_page_carries_them():
    viewer = embedded([ViewerCase("case", b"", {"reference": b""})], {"liver": (1,)})
    assert viewer is not None
    assert NOTICES in viewer.licence and "Copyright (c) 2021, Niivue" in viewer.licence
    assert "-->" not in html.unescape(viewer.licence)  # it stands in a comment of the page

"""The documentation's code runs: Python blocks, `hlfd` commands, recipe fragments.

In docs/networks.md every Python and YAML block counts; elsewhere, and of bash blocks, those after ``<!-- runs -->``.
A block that opens with ``# folder/name.py`` is also a file that the others can import. What stands indented after a
bash block is all that it prints, but for blank lines.
"""

import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from hlfd import plugins, recipe

DOCS = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
BLOCK = re.compile(
    r"(?P<runs><!-- runs -->\n)?```(?P<kind>python|bash|yaml)\n(?P<text>.*?)```\n(?P<after>(?:\n+ {4}[^\n]*)*)", re.S
)


class Block(NamedTuple):
    page: Path
    line: int
    kind: str
    text: str
    printed: list[str]


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            page, text.count("\n", 0, m.start()) + 1, m["kind"], m["text"], [*filter(str.strip, m["after"].split("\n"))]
        )
        for m in BLOCK.finditer(text)
        if m["runs"] or (page.name == "networks.md" and m["kind"] != "bash")
    ]


ALL = [block for page in DOCS for block in blocks(page)]


def of(kind: str):
    chosen = [block for block in ALL if block.kind == kind]
    return pytest.mark.parametrize("block", chosen, ids=[f"{b.page.stem}:{b.line}" for b in chosen])


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """The current folder: a new one, with the files that the page writes out."""
    packages = set[str]()
    if "block" in request.fixturenames:
        for block in blocks(request.getfixturevalue("block").page):
            if named := re.match(r"# (\w+/\w+\.py)\n", block.text):
                path = tmp_path / named[1]
                path.parent.mkdir(exist_ok=True)
                path.write_text(block.text)
                packages.add(path.parent.name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_asked_for", set())
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]


def test_the_guide_to_networks_has_all_kinds_of_blocks():
    assert {block.kind for block in ALL if block.page.name == "networks.md"} == {"python", "bash", "yaml"}


@of("python")
def test_python(block):
    exec(compile(block.text, f"{block.page}:{block.line}", "exec"), {"__name__": "__main__"})


@of("bash")
def test_commands(hlfd, block):
    printed = ""
    for command in block.text.splitlines():
        program, *arguments = shlex.split(command, comments=True)
        assert program == "hlfd"
        ended = hlfd(*arguments)
        assert ended.code == 0, ended.err
        printed += ended.out
    lines = [" ".join(line.split()) for line in printed.splitlines() if line.strip()]
    if block.printed:
        assert [" ".join(line.split()) for line in block.printed] == lines


@of("yaml")
def test_recipe_fragments(block):
    whole = {"name": "x", "source": {"name": "kits", "root": "data"}, **yaml.safe_load(block.text)}
    recipe.from_values(whole, block.page.name)

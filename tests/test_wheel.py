"""What is installed: the wheel holds every file of the package."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_it_holds_every_file_of_the_package(wheel):
    source = ROOT / "src"
    files = {
        str(path.relative_to(source))
        for path in (source / "hlfd").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"hlfd/demo.yaml", "hlfd/report/template.html.j2", "hlfd/report/assets/niivue.umd.js.gz"} <= files
    assert files <= set(wheel.namelist())


def test_it_says_what_may_be_done_with_it(wheel):
    (licence,) = [name for name in wheel.namelist() if name.endswith("dist-info/licenses/LICENSE")]
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()

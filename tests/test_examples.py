"""The programs in examples/ run, do what they say, and ask for little."""

import importlib.util
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
LOOPS = {"bare_loop": 20, "monai_loop": 5}  # steps or epochs


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:monai.*", "ignore:.*:FutureWarning:monai.*")
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_trains_the_student(name: str) -> None:
    losses = load(name).main(LOOPS[name])
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_at_most_fifteen_lines_of_ones_own(name: str) -> None:
    lines = (EXAMPLES / f"{name}.py").read_text().split("# begin\n")[1].split("# end")[0].splitlines()
    assert 5 < len([line for line in lines if line.strip()]) <= 15


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*LOOPS, "onnx_without_hlfd"}  # the last in test_serving


@pytest.mark.parametrize("name", LOOPS)
def test_the_guide_shows_the_example_as_it_is(name: str) -> None:
    mine = textwrap.dedent((EXAMPLES / f"{name}.py").read_text().split("# begin\n")[1].split("# end")[0]).rstrip()
    assert f"```python\n{mine}\n```" in (EXAMPLES.parent / "docs" / "own_loop.md").read_text()

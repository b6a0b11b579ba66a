"""The programs in examples/ run and do what they say."""

import importlib.util
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_bare_loop_trains_the_student() -> None:
    spec = importlib.util.spec_from_file_location("bare_loop", EXAMPLES / "bare_loop.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    losses = example.main(steps=20)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])

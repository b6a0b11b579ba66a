"""The guide's method is a method: it keeps the promises that the guide makes."""

import re
import sys
from pathlib import Path

import pytest
import torch

from hlfd import Distiller, FrozenTeacher, plugins, recipe
from hlfd.errors import InputError

GUIDE = Path(__file__).parents[1] / "docs" / "write_a_method.md"


@pytest.fixture
def entropy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "entropy.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_package.entropy"
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


@pytest.mark.parametrize("dims", [2, 3])
def test_it_teaches(entropy: str, dims: int):
    student, teacher = (
        plugins.load("networks", "unet", in_channels=1, classes=3, dims=dims, width=width) for width in (2, 3)
    )
    torch.manual_seed(0)
    image, target = torch.randn(2, 1, *[32] * dims), torch.zeros(2, *[32] * dims, dtype=torch.long)
    frozen = FrozenTeacher(teacher)
    distiller = Distiller.of(entropy, student, frozen)
    features = student(image)
    losses = distiller(features, frozen(image), target)
    assert list(losses) == ["unsure.logits", "unsure.d2"]
    sum(losses.values()).backward()
    assert all(p.grad.any() for p in distiller.parameters())
    itself = distiller.each()[0].loss(features["logits"], features["logits"], target)
    assert float(itself.detach()) == pytest.approx(0, abs=1e-6)


def test_a_recipe_takes_it_and_checks_its_options(entropy: str):
    base = {"name": "x", "source": {"name": "kits", "root": "data"}}
    chosen = recipe.from_values({**base, "methods": [{"name": entropy, "weight": 0.5}]}, "r")
    assert chosen.methods[0].options == {"weight": 0.5}
    with pytest.raises(InputError, match="has no option 'wieght'"):
        recipe.from_values({**base, "methods": [{"name": entropy, "wieght": 1}]}, "r")

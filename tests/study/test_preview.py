"""hlfd preview: pictures of cases before and after, in which labels, crop and patch are drawn."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hlfd.report.pictures import REGION_COLOURS
from hlfd.study.preview import _BOX, _PATCH, Panel, _key


def share(path: Path, colour: str) -> float:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return float((np.abs(pixels - wanted).max(-1) < 8).mean())


@pytest.mark.parametrize("preprocess", ["{crop: [16, 16]}", "{crop: foreground, patch: [4, 12, 12]}", "{}"])
def test_a_recipe_and_its_store(hlfd, make_kits, tmp_path: Path, preprocess: str):
    root, recipe = make_kits(tmp_path / "kits", 4, shape=(10, 40, 44)), tmp_path / "recipe.yaml"
    text = f"name: t\noutput: {tmp_path / 'out'}\nsource: {{name: kits, root: {root}}}\npreprocess: {preprocess}\n"
    recipe.write_text(text)
    ended = hlfd("preview", recipe, "--output", tmp_path / "pictures", "--cases", 2)
    assert ended.code == 0, ended.err
    found = [Path(line) for line in ended.out.split()]
    assert [p.name for p in found] == ["case_00000.png", "case_00003.png"]
    assert not (tmp_path / "out").exists()  # nothing is prepared
    for path in found:
        assert all(share(path, colour) > 1e-4 for colour in REGION_COLOURS[:2])
        assert (share(path, _BOX) > 3e-4) == ("crop: [" in preprocess)  # the body fills these volumes
        assert (share(path, _PATCH) > 3e-4) == ("patch" in preprocess)
    assert hlfd("prepare", recipe, "split.test=1", "split.validation=1", "--workers", 1).code == 0
    ended = hlfd("preview", tmp_path / "out" / "store", "--output", tmp_path / "prepared")
    assert ended.code == 0, ended.err
    assert [Path(line).name for line in ended.out.split()] == [f"case_0000{k}.png" for k in (0, 2, 3)]
    one, two = (np.asarray(Image.open(tmp_path / f / "case_00000.png")).shape for f in ("pictures", "prepared"))
    assert one[0] == two[0] and one[1] == 2 * two[1]


def test_the_slice_with_most_of_the_tumour_is_shown():
    label = np.zeros((5, 9, 9), np.uint8)
    label[1, 2:5, 3:6], label[3, :8, :8], label[2, 6:8, 6:8] = 1, 3, 2  # kidney, cyst, tumour
    panel = Panel("", label, (0, 1), label, (1, 1, 1), (2,), {})
    assert _key(panel) == (2, 6, 6)
    label[2] = 0
    assert _key(panel)[0] == 3  # of all that is labelled
    label[:] = 0
    assert _key(panel) == (2, 4, 4)


def test_what_can_not_be_previewed(hlfd, tmp_path: Path):
    ended = hlfd("preview", tmp_path / "none.yaml")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "none.yaml: no such recipe" in ended.err

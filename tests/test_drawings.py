"""The drawings in the documentation are those that the terms give now."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_every_method_s_drawing_and_page():
    spec = importlib.util.spec_from_file_location("draw_methods", DOCS / "draw_methods.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    drawn = script.drawings()
    assert "hlfd" in drawn and "seg" not in drawn
    on_disk = {path.stem: path.read_text() for path in script.FOLDER.glob("*.svg")}
    assert on_disk == drawn, "run: python docs/draw_methods.py"
    pages = {path.stem for path in (DOCS / "methods").glob("*.md")}
    assert pages == {*drawn, "seg", "index"}
    for name in drawn:
        page = (DOCS / "methods" / f"{name}.md").read_text()
        assert f"images/methods/{name}.svg" in page
        assert " % of a step" in page

"""Draw who teaches whom for every method, from its terms: python docs/draw_methods.py"""

from pathlib import Path

from hlfd import plugins
from hlfd.distill.features import ROLES, TapInfo
from hlfd.report.arrows import Arrow, who_teaches_whom

FOLDER = Path(__file__).parent / "images" / "methods"


def drawings() -> dict[str, str]:
    """Method -> SVG, for every method that has terms with its defaults."""
    taps = {role: TapInfo(3, 1) for role in ROLES}
    found = {}
    for name in plugins.names("methods"):
        terms = plugins.load("methods", name, taps, taps, classes=3)
        arrows = {t.name: Arrow(t.loss.kind, t.weight, t.student, t.teacher) for t in terms}
        if arrows:
            found[name] = str(who_teaches_whom(arrows, f"Who teaches whom in {name}", variables=False))
    return found


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, svg in drawings().items():
        (FOLDER / f"{name}.svg").write_text(svg)

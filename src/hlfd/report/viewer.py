"""The volume viewer: NiiVue (github.com/niivue/niivue, BSD-2-Clause), shipped in this package, put into the page."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from markupsafe import Markup

from hlfd.report.model import ViewerCase
from hlfd.report.pictures import REGION_COLOURS


@dataclass(frozen=True)
class Viewer:
    """What the page needs of it.

    Attributes:
        cases: titles.
        models: whose masks can be shown.
        data: JSON for the script: files as base64, colours of the classes.
        library: NiiVue's program, gzip as base64.
        script: the page's own.
        licence: NiiVue's, and the notices of what it brings along.
    """

    cases: tuple[str, ...]
    models: tuple[str, ...]
    data: Markup
    library: Markup
    script: Markup
    licence: str


def embedded(cases: Sequence[ViewerCase], regions: Mapping[str, tuple[int, ...]]) -> Viewer | None:
    """The viewer for these cases; None without any."""
    if not cases:
        return None
    colours = [[0, 0, 0]]
    for k, ids in enumerate(regions.values()):  # a class takes the colour of the last, smallest region that holds it
        rgb = [int(REGION_COLOURS[k % len(REGION_COLOURS)][i : i + 2], 16) for i in (1, 3, 5)]
        for number in ids:
            colours += [[0, 0, 0]] * (number + 1 - len(colours))
            colours[number] = rgb
    document = {
        "colours": colours,
        "target": list(list(regions.values())[-1]) if regions else [],
        "cases": [
            {"image": _text(case.image), "masks": {name: _text(mask) for name, mask in case.masks.items()}}
            for case in cases
        ],
    }
    assets = files("hlfd.report") / "assets"
    return Viewer(
        tuple(_titled(case) for case in cases),
        tuple(dict.fromkeys(name for case in cases for name in case.masks if name != "reference")),
        Markup(json.dumps(document).replace("<", "\\u003c")),
        Markup(_text((assets / "niivue.umd.js.gz").read_bytes())),
        Markup((assets / "viewer.js").read_text(encoding="utf-8")),
        "\n".join((assets / f"niivue-{part}.txt").read_text(encoding="utf-8") for part in ("LICENSE", "NOTICES")),
    )


def _titled(case: ViewerCase) -> str:
    steps = [f"{n}×" for n in case.coarser]
    return case.title + (f" (coarser: {', '.join(steps)})" if any(n > 1 for n in case.coarser) else "")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")

"""How hard each term pulls at the student: its gradient against that of the segmentation loss, tap by tap."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hlfd.report.arrows import ROLES

Points = Sequence[tuple[int, float]]
EDGES = (0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class PullCell:
    """A term at a tap: medians over the run.

    Attributes:
        ratio: of the gradients' norms, as text.
        cosine: of the angle between them, as text.
        level: 0 (weak) to 4 (drowns the task), for the colour.
        against: whether the term pulls against the task.
    """

    ratio: str
    cosine: str
    level: int
    against: bool


@dataclass(frozen=True)
class PullTable:
    """A model's terms.

    Attributes:
        rows: (term, a cell for each tap or None where its gradient doesn't reach).
    """

    model: str
    taps: tuple[str, ...]
    rows: tuple[tuple[str, tuple[PullCell | None, ...]], ...]


def pull_tables(curves: Mapping[str, Mapping[str, Points]]) -> list[PullTable]:
    """A table for each model whose curves hold ``grad/TERM/TAP`` and ``cos/TERM/TAP``."""
    tables: list[PullTable] = []
    for model, columns in curves.items():
        found: dict[str, dict[str, PullCell]] = {}
        for column, points in columns.items():
            kind, _, rest = column.partition("/")
            term, _, tap = rest.rpartition("/")
            if kind == "grad" and term:
                found.setdefault(term, {})[tap] = _cell(points, columns.get(f"cos/{term}/{tap}", ()))
        taps = tuple(role for role in ROLES if any(role in cells for cells in found.values()))
        rows = tuple((term, tuple(cells.get(tap) for tap in taps)) for term, cells in found.items())
        if rows:
            tables.append(PullTable(model, taps, rows))
    return tables


def _cell(ratios: Points, cosines: Points) -> PullCell:
    ratio, cosine = _median(ratios), _median(cosines)
    level = sum(ratio >= edge for edge in EDGES)
    text = f"{ratio:.2g}" if 1e-3 <= ratio < 1e3 else f"{ratio:.0e}"
    return PullCell(text, f"{cosine:+.2f}" if math.isfinite(cosine) else "", level, cosine < -0.1)


def _median(points: Points) -> float:
    values = [value for _, value in points if math.isfinite(value)]
    return statistics.median(values) if values else math.nan

"""Who teaches whom: a method's terms drawn as arrows from the teacher's taps to the student's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

ROLES = ("e1", "e2", "e3", "e4", "e5", "d5", "d4", "d3", "d2", "logits")
_KINDS = ("importance maps", "class scores")
_ROW, _TOP, _LEFT, _RIGHT, _BOX, _WIDTH = 34, 46, 70, 330, 56, 456


@dataclass(frozen=True)
class Arrow:
    """A term of a method.

    Attributes:
        kind: what is compared, for the colour and the legend: ``importance maps``, ``class scores``, ...
        weight: in the total loss, before any schedule.
        student, teacher: taps.
    """

    kind: str
    weight: float
    student: Sequence[str]
    teacher: Sequence[str]


def who_teaches_whom(terms: Mapping[str, Arrow], title: str, variables: bool = True) -> Markup:
    """An SVG: the teacher's taps on the left, the student's on the right, a line for each term.

    Args:
        terms: term -> arrow, in the method's order.
        title: for screen readers.
        variables: colours are the report page's variables; else fixed ones, for a file of its own.
    """
    ink, muted, card = ("var(--ink)", "var(--muted)", "var(--card)") if variables else ("#1f2933", "#6b7785", "#ffffff")
    present = dict.fromkeys(arrow.kind for arrow in terms.values())
    kinds = [*dict.fromkeys([*_KINDS, *present])]  # the commonest keep their colours from method to method
    fixed = ("#1d6fb8", "#c2571a", "#3f8f3f", "#8a4fb0")
    colours = {k: f"var(--m{i % 4 + 1})" if variables else fixed[i % 4] for i, k in enumerate(kinds) if k in present}
    used = {who: {tap for arrow in terms.values() for tap in getattr(arrow, who)} for who in ("teacher", "student")}
    bottom = _TOP + _ROW * len(ROLES)
    height = bottom + 22 * len(colours) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" class="chart arrows" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="system-ui, sans-serif" font-size="13">'
    ]
    if not variables:
        parts.append(f'<rect width="{_WIDTH}" height="{height}" fill="{card}"/>')
    for name, arrow in terms.items():
        alike = [other for other, o in terms.items() if (o.student, o.teacher) == (arrow.student, arrow.teacher)]
        shift = 7 * (alike.index(name) - (len(alike) - 1) / 2)  # side by side, where terms share their taps
        parts.append(_term(name, arrow, colours[arrow.kind], shift))
    for who, x in (("teacher", _LEFT), ("student", _RIGHT)):
        parts.append(
            f'<text x="{x + _BOX / 2}" y="24" text-anchor="middle" fill="{ink}" font-weight="600">{who}</text>'
        )
        for role in ROLES:
            faint = "" if role in used[who] else ' opacity=".4"'
            y, look = _y(role), f'rx="5" fill="{card}" stroke="{muted}"'
            parts.append(
                f'<g{faint}><rect x="{x}" y="{y - 12}" width="{_BOX}" height="24" {look}/>'
                f'<text x="{x + _BOX / 2}" y="{y + 4.5}" text-anchor="middle" fill="{ink}">{role}</text></g>'
            )
    for i, (kind, colour) in enumerate(colours.items()):
        y = bottom + 12 + 22 * i
        parts.append(
            f'<path d="M{_LEFT} {y}h26" stroke="{colour}" stroke-width="2.5"/>'
            f'<text x="{_LEFT + 34}" y="{y + 4.5}" fill="{ink}">{escape(kind)}</text>'
        )
    return Markup("\n".join([*parts, "</svg>\n"]))


def _y(role: str) -> int:
    return _TOP + _ROW * ROLES.index(role) + 10


def _term(name: str, arrow: Arrow, colour: str, shift: float) -> str:
    """Lines from all taps of the teacher that meet in a dot, and go on to the student's as arrows."""
    ends = [f"{_y(role) + shift:g}" for role in arrow.student]
    starts = [f"{_y(role) + shift:g}" for role in arrow.teacher]
    one = len(starts) == 1 and len(ends) == 1
    x, y = _RIGHT - 66, sum(map(float, ends)) / len(ends)
    lines = [f"M{_LEFT + _BOX} {a}C{_LEFT + 130} {a} {x - 70} {y:g} {x} {y:g}" for a in starts]
    lines += [f"M{x} {y:g}C{x + 26} {y:g} {_RIGHT - 34} {b} {_RIGHT - 7} {b}" for b in ends]
    heads = "".join(f'<path d="M{_RIGHT - 1} {b}l-8 -4v8z" fill="{colour}"/>' for b in ends)
    dot = "" if one else f'<circle cx="{x}" cy="{y:g}" r="3.5" fill="{colour}"/>'
    tip = f"{name}, weight {arrow.weight:g}"
    return (
        f'<g fill="none" stroke="{colour}" stroke-width="1.8" opacity=".85"><title>{escape(tip)}</title>'
        f'<path d="{"".join(lines)}"/></g>{heads}{dot}'
    )

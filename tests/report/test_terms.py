"""Who teaches whom, drawn from the terms, and how hard each pulls, from the log."""

import math
import re
from xml.etree import ElementTree

import pytest

from hlfd.report.arrows import ROLES, Arrow, who_teaches_whom
from hlfd.report.build import render
from hlfd.report.gradients import pull_tables
from hlfd.report.model import ReportData

TERMS = {
    "flfd.e1": Arrow("importance maps", 0.45, ("e1",), ("e2", "e3", "e4")),
    "plfd.d4": Arrow("class scores", 0.05, ("d4",), ("logits",)),
}
CURVES = {
    "grad/flfd.e1/e1": [(0, 20.0), (50, 40.0), (100, math.nan)],
    "cos/flfd.e1/e1": [(0, -0.5), (50, -0.3)],
    "grad/plfd.d4/d4": [(0, 0.0004)],
    "cos/plfd.d4/d4": [(0, 0.25)],
    "grad/plfd.d4/e1": [(0, 0.05)],
    "loss/seg": [(0, 1.0)],
}


@pytest.mark.parametrize("variables", [True, False])
def test_the_drawing_has_every_tap_of_both_and_a_line_for_each_tap_of_a_term(variables):
    svg = str(who_teaches_whom(TERMS, "Terms of <HLFD>", variables))
    root = ElementTree.fromstring(svg)
    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [t for t in texts if t in ROLES] == [*ROLES, *ROLES]
    assert texts[-2:] == ["importance maps", "class scores"]
    titles = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["flfd.e1, weight 0.45", "plfd.d4, weight 0.05"]
    lines = [p.get("d") for p in root.iter("{http://www.w3.org/2000/svg}path") if "C" in p.get("d")]
    assert [line.count("M") for line in lines] == [3 + 1, 1 + 1]
    assert root.get("aria-label") == "Terms of <HLFD>"
    assert ("var(--" in svg) == variables


def test_lines_end_at_the_taps_rows():
    svg = str(who_teaches_whom(TERMS, "t", variables=False))
    rows = {}
    for y, role in re.findall(r'<text x="\d+\.0" y="([\d.]+)" text-anchor="middle" fill="#1f2933">(\w+)</text>', svg):
        rows[role] = float(y) - 4.5
    starts = [float(y) for y in re.findall(r"M126 ([\d.]+)C", svg)]
    assert starts == [rows["e2"], rows["e3"], rows["e4"], rows["logits"]]
    ends = [float(y) for y in re.findall(r" 323 ([\d.]+)", svg)]
    assert ends == [rows["e1"], rows["d4"]]


def test_a_table_for_each_model_with_medians():
    (table,) = pull_tables({"teacher": {"loss/seg": [(0, 1.0)]}, "student-hlfd": CURVES})
    assert (table.model, table.taps) == ("student-hlfd", ("e1", "d4"))
    (first, cells), (second, others) = table.rows
    assert (first, second) == ("flfd.e1", "plfd.d4")
    assert (cells[0].ratio, cells[0].cosine, cells[0].level, cells[0].against) == ("30", "-0.40", 4, True)
    assert cells[1] is None
    assert [(c.ratio, c.cosine, c.level, c.against) for c in others] == [
        ("0.05", "", 1, False),
        ("4e-04", "+0.25", 0, False),
    ]


def test_the_report_shows_both():
    results = {"models": [{"name": "teacher"}, {"name": "student-hlfd", "method": "hlfd"}]}
    page = render(ReportData("t", "", results, curves={"student-hlfd": CURVES}, terms={"student-hlfd": TERMS}))
    assert page.count('class="chart arrows"') == 1
    assert '<td class="l4">30<small class="loss">-0.40</small></td>' in page
    assert 'id="terms"' not in render(ReportData("t", "", results))

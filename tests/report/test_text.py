"""Tables as text, charts' numbers, the Pareto front: against what is worked out by hand."""

import numpy as np
import pytest

from hlfd.errors import InputError
from hlfd.report.agreement import limits_of_agreement
from hlfd.report.figures import Point, pareto
from hlfd.report.text import text_table


def model(name: str, mean: float) -> dict:
    dice = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}
    return {"name": name, "parameters": 121_966, "peak_mib": None, "labels": {"tumor": {"dice": dice}}}


RESULTS = {
    "models": [model("teacher", 0.9), model("student", 0.5), model("student-a_b", 0.6)],
    "comparisons": [{"sentence": "tumor: student-a_b is better"}],
}


def test_markdown():
    lines = text_table(RESULTS, "markdown").splitlines()
    assert lines[0] == "| Model | tumor Dice | Parameters |"
    assert lines[2] == "| teacher | 0.900 [0.800, 1.000] | 122 k |"
    assert lines[4] == "| student-a_b | **0.600** [0.500, 0.700] | 122 k |"
    assert lines[-1] == "- tumor: student-a_b is better"


def test_latex():
    text = text_table(RESULTS, "latex")
    assert r"student-a\_b & \textbf{0.600} [0.500, 0.700] & 122 k \\" in text
    assert text.count(r"\\" + "\n") == 4 and r"\begin{tabular}{lrr}" in text


def test_another_format_is_refused():
    with pytest.raises(InputError, match="--format: expected one of html, latex, markdown, got 'latxe'"):
        text_table(RESULTS, "latxe")


def test_limits_of_agreement():
    values = [1.0, 2.0, 6.0]
    spread = 1.96 * np.sqrt(((np.array(values) - 3) ** 2).sum() / 2)
    assert limits_of_agreement(values) == pytest.approx((3, 3 - spread, 3 + spread))
    assert limits_of_agreement([2.0]) == (2, 2, 2)


def test_the_pareto_front_against_every_pair():
    random = np.random.default_rng(0)
    points = [Point(str(i), 0, float(c), float(q), None, None) for i, (c, q) in enumerate(random.random((40, 2)))]
    beaten = {p.name for p in points for o in points if o is not p and o.cost <= p.cost and o.quality >= p.quality}
    assert {p.name for p in pareto(points)} == {p.name for p in points} - beaten

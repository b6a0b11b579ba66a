"""What the report's numbers and pictures say: formats, emphasis, and where in the slice a contour lies."""

import base64
import io
import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hlfd.evaluation.comparison import compare_models
from hlfd.io.files import jsonable
from hlfd.report import figures, pictures, tables
from hlfd.report.text import text_table

REGIONS = {"kidney": (1, 2), "tumor": (2,)}


def named(name: str, dice: float | None = None, **rest: Any) -> dict[str, Any]:
    return {"name": name, "labels": {"tumor": {"dice": {"mean": dice}, "rvd": {"mean": rest.pop("rvd", None)}}}, **rest}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1_960_000, "1.96 M"),
        (999_999, "1.00 M"),
        (178_000, "178 k"),
        (0.75, "0.750"),
        (31.25, "31.2"),
        (0, "0"),
        (None, "–"),
    ],
)
def test_short(value: float | None, text: str):
    assert tables.short(value) == text


def test_fixed_has_a_minus_sign_and_no_negative_zero():
    assert tables.fixed(-0.1234) == "−0.123"
    assert tables.fixed(-0.0001, signed=True) == "0.000"
    assert tables.fixed(0.0501, signed=True) == "+0.050"


def test_number_is_finite_or_none():
    assert tables.number(float("nan")) is None
    assert tables.number(float("inf")) is None
    assert tables.number("3") is None
    assert tables.number(3) == 3.0


@pytest.mark.parametrize(
    ("teacher", "value", "text"),
    [(1100, 100, "11× fewer"), (100, 130, "1.3× more"), (100, 101, "as the teacher"), (None, 3, ""), (0, 3, "")],
)
def test_ratio(teacher: float | None, value: float, text: str):
    assert tables.ratio(teacher, value, "fewer", "more") == text


def test_the_best_but_the_teacher_is_marked_with_those_that_read_the_same():
    models = [named("teacher", 0.9), named("a", 0.7001), named("b", 0.6), named("c", 0.7004), named("d")]
    column = [cells[0] for _, cells in tables.summary_table(models).rows]
    assert [cell.best for cell in column] == [False, True, False, True, False]
    alike = [named("teacher", 0.9), named("a", 0.7), named("b", 0.7)]
    assert not any(cells[0].best for _, cells in tables.summary_table(alike).rows)


def test_the_smallest_volume_difference_is_marked_whatever_its_sign():
    models = [named("a", rvd=-0.3), named("b", rvd=0.1), named("c", rvd=-0.2)]
    assert [cells[2].best for _, cells in tables.detail_table(models, "tumor").rows] == [False, True, False]


def test_missed_regions_stand_beside_the_volume_differences():
    models = [named("a", rvd=-0.3, missed={"tumor": 3}, tests=24), named("b", rvd=0.1, missed={"tumor": 0}, tests=24)]
    rows = dict(tables.detail_table(models, "tumor").rows)
    told = [["3 of 24 missed" in cell.notes for cell in cells] for cells in rows.values()]
    assert told == [[False, False, True, True, False], [False] * 5]


def test_a_model_that_diverged_is_named():
    models = [named("a", nan_seeds=[]), named("b", nan_seeds=[0, 2]), named("c")]
    assert tables.remarks(models) == ["b gave NaN with seeds 0, 2: its training diverged; NaN counts as background."]
    markdown = text_table({"models": models}, "markdown")
    assert "- b gave NaN with seeds 0, 2" in markdown


def test_a_loss_against_the_student_alone_is_shown():
    models = [named("teacher", 0.9), named("student", 0.7, method="seg"), named("student-hlfd", 0.65, method="hlfd")]
    compared = {"name": "student-hlfd", "minus": "student", "region": "tumor"}

    def shown(verdict: str) -> list[tables.Cell]:
        verdicts = tables.verdicts({"comparisons": [compared | {"verdict": verdict}]})
        return [cells[0] for _, cells in tables.summary_table(models, verdicts).rows]

    cells = shown("worse")
    assert [cell.change for cell in cells] == ["", "", "−0.050"]
    assert cells[2].gain is False
    assert cells[1].best
    for verdict in ("none", "refused"):  # the change is there, and has no colour
        assert (shown(verdict)[2].change, shown(verdict)[2].gain) == ("−0.050", None)


def test_comparisons_with_effects_and_seeds():
    random = np.random.default_rng(0)
    base = random.uniform(0.5, 0.9, (12, 3))
    values = {"student": base, "student-hlfd": base + 0.05 + random.normal(0, 0.01, (12, 3))}
    (found,) = compare_models(values, [("student-hlfd", "student")])
    said = jsonable({**asdict(found), "verdict": found.verdict, "region": "tumor"})
    ((region, table),) = tables.comparison_tables({"comparisons": [said]})
    ((name, cells),) = table.rows
    assert (region, name) == ("tumor", "student-hlfd − student")
    assert cells[0].text == tables.fixed(found.difference, signed=True)
    assert cells[2].text == tables.fixed(found.effect, 2, signed=True)
    assert cells[4].text == ", ".join(tables.fixed(seed, signed=True) for seed in found.by_seed)
    assert cells[5].text == "better"


def test_two_timings_of_one_network_do_not_compete():
    models = [
        named("teacher", network="unet", ms_per_slice=30.0),
        named("a", network="enet", ms_per_slice=5.0),
        named("b", network="enet", ms_per_slice=5.5),
        named("c", network="unet", ms_per_slice=20.0),
    ]
    time = [cells[3].best for _, cells in tables.summary_table(models).rows]
    assert time == [False, True, True, False]
    assert not any(cells[3].best for _, cells in tables.summary_table(models[:3]).rows)


def test_a_model_has_one_colour_and_the_teacher_is_neutral():
    models = [named("student-kd", method="kd"), named("student-hlfd", method="hlfd"), named("teacher", method="seg")]
    slots = figures.model_slots([*models, named("student", method="seg")], ["teacher", "other"])
    assert slots == {"student-kd": 3, "student-hlfd": 2, "teacher": 0, "student": 1, "other": 4}
    many = figures.model_slots([named(f"m{i}") for i in range(figures.SLOTS)])
    assert sorted(many.values()) == list(range(figures.SLOTS))


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")).astype(int)


def test_a_contour_lies_where_its_label_is():
    labels = np.zeros((40, 80), np.uint8)
    labels[10:20, 60:72] = 2  # right of the middle, in the upper half, in pixels of 2 x 1 mm
    image, spacing = np.zeros(labels.shape), (2.0, 1.0)
    view = pictures.whole(labels.shape, spacing)
    got = pixels(
        pictures.slice_picture(
            image, (-1.0, 1e3), spacing, {"tumor": (2,)}, view, labels=labels, marked=view, width_px=400
        )
    )
    assert got.shape[:2] == (400, 400)  # 80 mm x 80 mm
    red, green, blue = (got[..., c] for c in range(3))
    rows, columns = np.nonzero((blue > 150) & (green > 120) & (red < 150))  # the first region's colour
    assert [rows.min(), rows.max()] == pytest.approx([100, 200], abs=8)
    assert [columns.min(), columns.max()] == pytest.approx([300, 360], abs=8)


def test_focus_is_a_square_around_the_smallest_region():
    reference = np.zeros((200, 200), np.uint8)
    reference[20:180, 20:180], reference[100:110, 188:198] = 1, 2
    box = pictures.focus(reference, [], REGIONS, (1.0, 0.5), margin_mm=10, least_mm=30)
    assert (box.bottom - box.top, box.right - box.left) == (30, 30)
    assert (box.top + box.bottom) / 2 == 105
    assert box.left == 100 - 30  # moved inwards from the border at 100 mm
    organ = pictures.focus(np.where(reference > 0, 1, 0), [], REGIONS, (1.0, 0.5))
    assert organ.right - organ.left == 100
    nothing = np.zeros_like(reference)
    assert pictures.focus(nothing, [nothing], REGIONS, (1.0, 0.5)) == pictures.whole((200, 200), (1.0, 0.5))
    found = pictures.focus(nothing, [nothing, reference == 2], REGIONS, (1.0, 0.5), margin_mm=10, least_mm=30)
    assert found == box


def test_body_leaves_out_air_and_table():
    image = np.full((100, 120), -1000.0)
    image[20:80, 30:90] = 40
    image[95:97, 10:110] = 200  # the table
    assert pictures.body(image, (-200.0, 300.0), (1.0, 2.0), margin_mm=4) == pictures.Box(16, 84, 56, 184)
    air = np.full((10, 10), -1000.0)
    assert pictures.body(air, (-200.0, 300.0), (1.0, 1.0)) == pictures.whole((10, 10), (1.0, 1.0))


@pytest.mark.parametrize("importance", [np.zeros((2, 2)), np.full((3, 3), np.nan), np.arange(12.0).reshape(3, 4), None])
def test_an_importance_map_of_any_size_is_drawn(importance: np.ndarray | None):
    image = np.zeros((30, 40))
    image[5:25, 5:35] = 1
    uri = pictures.importance_picture(image, None, (1.0, 1.0), importance, image > 2)
    assert pixels(uri).ndim == 3


def test_importance_is_brightest_where_it_is_highest():
    image = np.zeros((40, 40))
    importance = np.zeros((4, 4))
    importance[0, 3] = 1
    got = pixels(pictures.importance_picture(image, (-1.0, 1.0), (1.0, 1.0), importance, image > 2)).sum(-1)
    row, column = np.unravel_index(int(got.argmax()), got.shape)
    assert row < got.shape[0] / 4
    assert column > 3 * got.shape[1] / 4


@pytest.mark.parametrize(
    ("dearer", "names"), [(1.1, "short"), (2.2, "short"), (2.2, "a model of a long name"), (9, "x")]
)
def test_names_of_models_beside_each_other_do_not_overlap(dearer: float, names: str):
    points = [
        figures.Point(f"{names} {i}", i, cost, 0.5, 0.4, 0.6) for i, cost in enumerate((1e5, 1e5 * 1.001, 1e5 * dearer))
    ]
    svg = figures.scatter(points, "t")
    found = re.findall(r'text-anchor: (start|end)[^>]*? x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<', svg)
    spans = []
    for anchor, x, y, text in found:
        if text.startswith(names):
            left = float(x) if anchor == "start" else float(x) - 8 * len(text)
            spans.append((left, left + 8 * len(text), float(y)))
    assert len(spans) == 3
    for i, (left, right, y) in enumerate(spans):
        for other_left, other_right, other_y in spans[:i]:
            assert right <= other_left or other_right <= left or abs(y - other_y) >= 14

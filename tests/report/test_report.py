"""A report from made-up data: whole, self-contained, escaped, and readable without its pictures."""

import base64
import dataclasses
import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hlfd.errors import InputError
from hlfd.report.build import render, write_report
from hlfd.report.model import ImportancePicture, PatientPicture, ReportData

MODELS = ("teacher", "student", "student-hlfd", "student-kd")
LABELS = ("kidney", "tumor")
VOID = {"meta", "img", "br", "link", "input", "hr"}


def summary(mean: float | None, half: float = 0.05, undefined: int = 0) -> dict[str, Any]:
    if mean is None:
        return {"mean": None, "median": None, "low": None, "high": None, "patients": 0, "undefined": undefined}
    low, high = mean - half, mean + half
    return {"mean": mean, "median": mean + 0.011, "low": low, "high": high, "patients": 12, "undefined": undefined}


def model(index: int, name: str, labels: tuple[str, ...] = LABELS) -> dict[str, Any]:
    quality = (0.85, 0.61, 0.72, 0.66)[index % 4]
    metrics = {
        label: {
            "dice": summary(quality + 0.1 * (label == "kidney") + 0.001 * i),
            "voe": summary(0.303 + 0.01 * index),
            "rvd": summary(-0.107 + 0.01 * index, undefined=3 * (label == "tumor")),
            "abs_rvd": summary(0.207 + 0.01 * index),
        }
        for i, label in enumerate(labels)
    }
    cost = (
        {"network": "unet", "parameters": 1_960_000, "multiply_adds": 9.4e9, "ms_per_slice": 31.2, "file_mib": 7.6}
        if not index
        else {"network": "enet", "parameters": 178_000, "multiply_adds": 4.9e8, "ms_per_slice": 5.3, "file_mib": 0.75}
    )
    method = ("seg", "seg", "hlfd", "kd")[index % 4]
    return {"name": name, "method": method, "seed": 7, "train_seconds": 812.0, "labels": metrics, **cost}


def picture(rank: Any, models: tuple[str, ...] = MODELS) -> PatientPicture:
    rows, columns = np.mgrid[:60, :80]
    body = ((rows - 30) / 27) ** 2 + ((columns - 40) / 36) ** 2 < 1
    image = np.where(body, 40.0, -1000.0) + np.random.default_rng(0).normal(0, 12, body.shape)
    reference = np.zeros(body.shape, np.uint8)
    reference[30:44, 54:66], reference[34:39, 58:63] = 1, 2
    moved = {name: np.roll(reference, i, axis=1) for i, name in enumerate(models)}
    scores = {name: {"kidney": 0.9, "tumor": 0.4567 if i else float("nan")} for i, name in enumerate(models)}
    return PatientPicture(f"case_{rank}", rank, image, (-200.0, 300.0), (1.5, 1.2), reference, moved, scores)


def report_data(models: tuple[str, ...] = MODELS, labels: tuple[str, ...] = LABELS) -> ReportData:
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for i, name in enumerate(models):
        curves[name] = {
            "val/dice": [(s, 0.8 - 0.1 * i - 0.8 / (1 + s / 100)) for s in range(0, 1000, 50)],
            "loss/seg": [(s, 1.0 / (1 + s)) for s in range(1000)],
        }
    curves[models[-1]]["loss/flfd.e1"] = [(0, float("nan")), (10, 0.5), (20, 0.25)]
    first = picture("best", models)
    maps = {
        name: {role: np.random.default_rng(i).random((60 // s, 80 // s)) for role, s in (("e1", 2), ("e5", 16))}
        for i, name in enumerate(models)
    }
    return ReportData(
        title="Kidney & tumour",
        intro="First part.\n\nSecond part.",
        results={
            "models": [model(i, name, labels) for i, name in enumerate(models)],
            "seconds": 4000.0,
            "versions": {"torch": "2.9.9"},
        },
        curves=curves,
        patients=[first, picture("worst", models)],
        importance=[ImportancePicture("case_7", first.image, first.reference, maps)],
        facts={"Hardware": "2 cores <shared>"},
    )


class Page(HTMLParser):
    """Checks that tags close in order; keeps the text and every tag with its attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


@pytest.fixture(scope="module")
def html() -> str:
    return render(report_data())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_every_value_is_there(page: Page):
    text = " ".join(page.text.split())
    for entry in report_data().results["models"]:
        assert entry["name"] in text
        for label, metrics in entry["labels"].items():
            assert label in text
            assert f"{metrics['dice']['mean']:.3f}" in text
            assert f"{metrics['dice']['median']:.3f}" in text
            assert f"{metrics['dice']['low']:.3f} to {metrics['dice']['high']:.3f}" in text
            assert f"{metrics['voe']['mean']:.3f}" in text
            assert f"−{-metrics['rvd']['mean']:.3f}" in text
            assert f"{metrics['abs_rvd']['mean']:.3f}" in text
    for shown in (
        "1.96 M",
        "178 k",
        "9.40 G",
        "490 M",
        "31.2",
        "5.30",
        "0.750",
        "11× fewer",
        "5.9× faster",
        "10× smaller",
    ):
        assert shown in text, shown
    for shown in ("case_worst", "case_best", "case_7", "trained 14 min", "torch 2.9.9", "67 min", "2 cores <shared>"):
        assert shown in text, shown
    assert "RVD undefined in 3" in text
    assert text.count("Research use only; not a medical device.") == 2


def test_hlfd_is_measured_against_the_student_alone(page: Page):
    text = " ".join(page.text.split())
    assert "+0.110" in text
    assert "+0.050" in text
    losing = report_data()
    losing.results["models"][2]["labels"]["tumor"]["dice"] = summary(0.58)
    assert "−0.031" in render(losing)


def test_nothing_is_loaded_from_elsewhere(html: str, page: Page):
    urls = set(re.findall(r"https?://[^\s\"'<>]+", html))
    assert urls <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert len(re.findall(r"https?://", html)) == len(re.findall(r'xmlns(?::xlink)?="https?://', html))
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert not re.search(r"@import|url\((?!#)", html)
    for tag, attributes in page.tags:
        for key in ("src", "href", "xlink:href"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, value)


def test_pictures_and_charts_are_described(page: Page):
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2 * 2 * (1 + len(MODELS)) + 2 * len(MODELS)
    assert all(attributes.get("alt") for attributes in images)
    assert any("student-hlfd, kidney Dice 0.90, tumor Dice 0.46" in (a["alt"] or "") for a in images)
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(charts) == 2 * 2 + 2 + 1
    assert all(a.get("role") == "img" and a.get("aria-label") for a in charts)
    for attributes in images:
        source = (attributes["src"] or "").removeprefix("data:image/png;base64,")
        assert Image.open(io.BytesIO(base64.b64decode(source))).width >= 300


def test_charts_are_xml_and_no_id_occurs_twice(html: str, page: Page):
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ET.fromstring(svg)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for wanted in re.findall(r'(?:url\(|xlink:href=")#([^")]+)', html):
        assert wanted in ids


def test_names_are_escaped():
    names = ("teacher", "<b>", "<em>a&$b$</em>")
    html = render(dataclasses.replace(report_data(names), title="<em>title</em>", intro="<em>intro</em>"))
    page = Page(html)
    assert "em" not in {tag for tag, _ in page.tags}
    for text in (*names, "<em>title</em>", "<em>intro</em>"):
        assert text in page.text
    for attribute in ("alt", "aria-label"):
        assert any("<b>" in (attributes.get(attribute) or "") for _, attributes in page.tags)
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ET.fromstring(svg)


def test_missing_values_are_dashes():
    metrics = {"dice": summary(0.5) | {"low": None, "high": None}, "rvd": {"mean": float("nan"), "median": None}}
    models = [{"name": "teacher"}, {"name": "student", "parameters": None, "labels": {"tumor": metrics}}]
    page = Page(render(ReportData("t", "", {"models": models})))
    assert not re.search(r"\b(nan|None|null|undefined in)\b", page.text)
    assert page.text.count("–") >= 10
    assert "0.500" in page.text


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("labels", [("liver",), ("liver", "tumor", "cyst")])
def test_any_number_of_models_and_labels(count: int, labels: tuple[str, ...]):
    names = ("teacher", "student", "student-hlfd", *(f"student-{i}" for i in range(5)))[:count]
    page = Page(render(dataclasses.replace(report_data(names, labels), patients=(), importance=())))
    for name in (*names, *labels):
        assert name in page.text
    chips = {attributes["class"] for tag, attributes in page.tags if "chip" in (attributes.get("class") or "")}
    assert len(chips) == count  # one colour each


def test_the_same_data_give_the_same_file(html: str, tmp_path: Path):
    path = write_report(report_data(), tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8") == html
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize("models", [[], [{}], [{"name": "a"}, {"name": "a"}]])
def test_refuses_models_without_a_name_of_their_own(models: list[dict[str, Any]]):
    with pytest.raises(InputError, match="each with its own name"):
        render(ReportData("t", "", {"models": models}))


def test_refuses_pictures_of_different_shapes():
    data = report_data()
    wrong = dataclasses.replace(data.patients[0], reference=np.zeros((3, 3), np.uint8))
    with pytest.raises(InputError, match="case_best"):
        render(dataclasses.replace(data, patients=[wrong]))

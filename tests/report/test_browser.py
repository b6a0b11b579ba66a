"""The report in a browser: no complaint on the console, nothing wider than the window, the viewer shows volumes."""

import html
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hlfd.evaluation.results import Calibration
from hlfd.report.arrows import Arrow
from hlfd.report.build import write_report
from hlfd.report.model import Attention, ImportancePicture, PatientPicture, ReportData
from hlfd.study.volumes import viewer_case
from hlfd.volume import Volume

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
]
NO_3D = 'role="status">This browser shows no 3D graphics'
SOFTWARE_3D = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")


@pytest.fixture(scope="module", autouse=True)
def _needs_a_browser():
    if BROWSER is None:
        pytest.skip("needs Chromium or Chrome, none is installed")


METHODS = ("kd", "at", "skd", "cwd", "dist", "emkd", "hifd", "ifd")
MODELS = ("teacher", "student", "student-hlfd", *(f"student-{name}" for name in METHODS))
LABELS = ("kidney", "tumor")


def made_up() -> dict[str, Any]:
    def row(index: int, name: str) -> dict[str, Any]:
        dice = {"mean": 0.7, "median": 0.7, "low": 0.6, "high": 0.8, "patients": 12, "undefined": 0}
        costs = {"parameters": 1.9e6 / (1 + 9 * index), "multiply_adds": 3e8, "ms_per_slice": 9.0, "file_mib": 1.0}
        about = {
            "network": "unet width=4",
            "method": ("seg", "seg", "hlfd", *METHODS)[index],
            "seeds": [0, 1],
            "peak_mib": 12.5,
        }
        labels = {label: {"dice": {**dice, "mean": 0.7 - 0.02 * index}} for label in LABELS}
        return {"name": name, **about, **costs, "labels": labels, "seed_means": {label: [0.6, 0.8] for label in LABELS}}

    return {"models": [row(i, name) for i, name in enumerate(MODELS)]}


def picture(labels: np.ndarray) -> PatientPicture:
    image = np.where(labels > 0, 100.0, -50.0)
    scores = {m: dict.fromkeys(LABELS, 0.5) for m in MODELS}
    shown = {m: np.roll(labels, 2, 0) for m in MODELS}
    return PatientPicture("case_1", "worst", image, (-200, 300), (1.5, 1.5), labels, shown, scores)


def full_data() -> ReportData:
    random = np.random.default_rng(0)
    patients = [f"case_{k}" for k in range(12)]
    grid = np.diag([1.5, 1.5, 4.0, 1.0])
    labels = np.zeros((40, 36, 12), np.uint8)
    labels[8:28, 8:26, 2:9] = 1
    labels[12:18, 12:18, 4:7] = 2
    image = Volume(np.where(labels > 0, 100, -50).astype(np.int16), grid)
    masks = {"reference": Volume(labels, grid), **{m: Volume(np.roll(labels, 2, 0), grid) for m in MODELS}}
    case = viewer_case("case_1", image, masks, (-200, 300), 2**20)
    assert case is not None
    maps = {m: {"e1": random.random((20, 18)), "Grad-CAM e5": random.random((5, 5))} for m in MODELS}
    plane = labels[:, :, 5]
    return ReportData(
        "Study",
        "All there is.",
        made_up(),
        curves={
            **{m: {"val/dice": [(s, 1 - 1 / (1 + s)) for s in range(9)]} for m in MODELS[:2]},
            "student-hlfd": {"grad/a/e1": [(0, 1.0), (9, 0.2)], "cos/a/e1": [(0, 0.1), (9, 0.2)]},
        },
        patients=[picture(plane)],
        importance=[ImportancePicture("case_1", plane.astype(float), plane, maps)],
        facts={"Machine": "2 cores"},
        terms={"student-hlfd": {"a": Arrow("importance maps", 0.9, ("e1",), ("e2",))}},
        dice={m: {r: dict(zip(patients, random.random(12), strict=True)) for r in LABELS} for m in MODELS},
        volumes_ml={m: {r: [*map(tuple, random.random((12, 2)) * 80)] for r in LABELS} for m in MODELS},
        lesions={m: [(4.0, 0.0), (12.0, 0.5), (30.0, 1.0)] for m in MODELS},
        calibration={m: Calibration([90, 100, 400], [30.0, 70.0, 390.0], [20, 60, 380]) for m in MODELS},
        attention=Attention(12, dict.fromkeys(LABELS, 0.02), {m: {"e1": dict.fromkeys(LABELS, 0.1)} for m in MODELS}),
        viewer=[case],
        findings=["student-hlfd is better than student by 2.1 Dice [0.9, 3.4]"],
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The report of eleven models."""
    return write_report(full_data(), tmp_path_factory.mktemp("page") / "report.html")


MEASURE = """<script>onload = () => {
const inside = document.querySelector("iframe").contentDocument.documentElement;
document.documentElement.dataset.widths = [inside.clientWidth, inside.scrollWidth];
}</script>"""


def frame(folder: Path, page: Path, width: int) -> str:
    """A page with the report in a frame of a width, and how wide the report wants to be.

    A headless window is at least 500 wide, so a frame is what shows a narrower screen. It holds the report's text, as
    that of a file of its own could not be measured from outside.
    """
    text = html.escape(page.read_text(encoding="utf-8"), quote=True)
    look = f'width="{width}" height="9000" style="border:0; display:block"'
    path = folder / "frame.html"
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><body style="margin:0"><iframe {look} srcdoc="{text}"></iframe>{MEASURE}'
    )
    return path.as_uri()


def browse(tmp_path: Path, page: str, *flags: str) -> str:
    """What the browser prints; fails if the page complained."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, page]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    complaints = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    assert not complaints
    return ended.stdout


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_it_fits_the_window_without_complaints(page: Path, tmp_path: Path, width: int, theme: str):
    dark = ("--blink-settings=preferredColorScheme=0",) if theme == "dark" else ()
    picture, framed = tmp_path / "page.png", frame(tmp_path, page, width)
    flags = ("--disable-gpu", f"--window-size={max(width, 500)},9000", f"--screenshot={picture}", *dark)
    browse(tmp_path, framed, *flags)
    pixels = np.asarray(Image.open(picture).convert("L"), dtype=float)[:, :width]
    assert (pixels[5, 5] < 60) == (theme == "dark")
    assert pixels[:8000].std() > 15  # not blank
    told = browse(tmp_path, framed, "--disable-gpu", f"--window-size={max(width, 500)},900", "--dump-dom")
    found = re.search(r'data-widths="(\d+),(\d+)"', told[:1000])
    assert found is not None
    assert (int(found[1]), int(found[2])) == (width, width)  # tables may scroll within their own box, the page not


def test_the_viewer_shows_a_case(page: Path, tmp_path: Path):
    picture = tmp_path / "viewer.png"
    flags = (*SOFTWARE_3D, "--virtual-time-budget=20000", "--window-size=1280,900")
    told = browse(tmp_path, page.as_uri() + "#open-viewer", *flags, f"--screenshot={picture}", "--dump-dom")
    if NO_3D in told:
        pytest.skip("this browser has no WebGL 2, in software neither")
    assert 'data-shown="0 reference"' in told


def test_without_3d_graphics_it_says_so(page: Path, tmp_path: Path):
    flags = ("--disable-gpu", "--disable-3d-apis", "--virtual-time-budget=5000")
    assert NO_3D in browse(tmp_path, page.as_uri() + "#open-viewer", *flags, "--dump-dom")


def test_it_prints(page: Path, tmp_path: Path):
    browse(tmp_path, page.as_uri(), "--disable-gpu", f"--print-to-pdf={tmp_path / 'report.pdf'}")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")

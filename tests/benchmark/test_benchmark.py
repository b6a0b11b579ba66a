"""hlfd benchmark: what is measured is there, is of the right thing, and reads in 80 columns."""

import hashlib
import importlib.util
import io
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from hlfd.benchmark import clock, memory, run, ways
from hlfd.benchmark.run import Settings, benchmark, names
from hlfd.benchmark.table import benchmark_table
from hlfd.data.preprocess import Preprocess
from hlfd.errors import InputError
from hlfd.labels import organ_and_tumor
from hlfd.report.build import render
from hlfd.report.model import ReportData
from hlfd.report.speed import bars, read_benchmark, write_picture
from hlfd.segmenter import Segmenter, build_network
from hlfd.sources._phantom import make_patient

FAST = ("eager", "channels_last", "bf16", "onnxruntime")


def tiny(folder: Path, width: int = 2, dims: int = 2, **preprocess: object) -> Path:
    """An untrained model of three classes."""
    torch.manual_seed(width)
    shown = Preprocess(window_hu=(-200.0, 300.0), **preprocess)
    network = build_network("unet", {"width": width}, 3, in_channels=shown.channels, dims=dims)
    return Segmenter(network, "unet", {"width": width}, shown, organ_and_tumor("both", "kidney")).save(folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return tiny(tmp_path_factory.mktemp("models") / "teacher" / "model", 3)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    return tiny(tmp_path_factory.mktemp("models") / "student" / "model").parent


@pytest.fixture(scope="module")
def document(teacher: Path, student: Path) -> dict:
    """Each memory is measured in a process of its own, which takes seconds: of the student alone, in two ways."""
    real, measured = memory.peak_mib, ("channels_last", "onnxruntime")

    def peak_mib(path: Path, way: str, *rest: object) -> float | None:
        return real(path, way, *rest) if way in measured and student in path.parents else 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "peak_mib", peak_mib)
        return benchmark([teacher, student], Settings(FAST, (1, 2), (1,), 3, size=64))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory isn't measured."""
    monkeypatch.setattr(memory, "peak_mib", lambda *_: 1.0)


def test_every_model_and_way_is_measured(document, teacher: Path, student: Path):
    assert [model["name"] for model in document["models"]] == ["teacher", "student"]
    for model, folder in zip(document["models"], (teacher, student / "model"), strict=True):
        assert [way["way"] for way in model["ways"]] == list(FAST)
        assert model["parameters"] == Segmenter.load(folder).parameters
        assert model["image"] == [64, 64]
        for way in model["ways"]:
            (found,) = way["runs"]
            assert 0 < found["ms_per_slice"] <= found["ms_per_slice_p95"]
            assert found["s_per_volume"] > 0
            assert set(found["images_per_s"]) == {1, 2}
            assert way["file_mib"] > 0 and way["ready_s"] > 0
    heavy, light = document["models"]
    assert heavy["multiply_adds_per_slice"] > light["multiply_adds_per_slice"] > 1e5
    assert heavy["ways"][0]["file_mib"] > light["ways"][0]["file_mib"]


def test_each_way_computes_what_the_network_does(document):
    for model in document["models"]:
        _, *others = model["ways"]
        for way in others:
            assert 0 <= way["max_difference"] < (0.2 if way["way"] == "bf16" else 1e-3), way["way"]
            assert way["labels_changed"] < (0.2 if way["way"] == "bf16" else 1e-3)
    assert document["models"][0]["ways"][2]["max_difference"] > 0  # bfloat16 is not float32


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile imports what torch itself calls deprecated
@pytest.mark.usefixtures("quick")
def test_compiled_openvino_and_int8(tmp_path: Path):
    """Quantised networks are others, a little; the rest compute the same."""
    torch.manual_seed(0)
    options, shown = {"channels": [4, 8], "num_res_units": 0}, Preprocess(window_hu=(-200.0, 300.0))
    small = build_network("monai:UNet", options, 3)  # of few layers, each of which takes a second to compile
    Segmenter(small, "monai:UNet", options, shown, organ_and_tumor("both", "kidney")).save(tmp_path / "model")
    rest = [way for way in ways.WAYS if way not in FAST]
    assert rest == ["compiled", "onnxruntime-int8", "openvino", "openvino-int8"]
    document = benchmark([tmp_path / "model"], Settings(("eager", *rest), (1,), (1,), 2, size=32))
    (model,) = document["models"]
    lacks = ways.WAYS["compiled"].lacks
    assert model["left_out"] == ({"compiled": lacks} if lacks else {})
    for way in model["ways"][1:]:
        assert way["runs"][0]["ms_per_slice"] > 0
        if way["way"].endswith("int8"):
            assert 1e-6 < way["max_difference"] < 2 and way["labels_changed"] < 0.3
        else:
            assert way["max_difference"] < 1e-3 and way["labels_changed"] < 1e-3


def test_memory_is_that_of_the_model(document):
    for model in document["models"]:
        assert all(0 < way["peak_mib"] < 200 for way in model["ways"])


def test_memory_holds_the_weights(tmp_path: Path):
    """What was opened and freed before it is measured doesn't hide what opening takes."""
    model = Segmenter.load(tiny(tmp_path / "model", 24))
    file = ways.write(ways.WAYS["onnxruntime"], model, tmp_path, [np.zeros((1, 1, 32, 32), np.float32)])
    found = memory.peak_mib(tmp_path / "model", "onnxruntime", file, (1, 1, 32, 32), 1)
    assert file is not None and found is not None
    assert found > file.stat().st_size / 2**20 > 5


def test_a_larger_image_takes_more_memory(student: Path):
    small, large = (memory.peak_mib(student, "eager", None, (1, 1, n, n), 1) for n in (32, 512))
    assert small is not None and large is not None and large > small + 4
    assert memory.peak_mib(student / "nowhere", "eager", None, (1, 1, 32, 32), 1) is None


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits(document, width: int):
    printed = shown(document, width)
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed
    for word in ("teacher", "student", "onnxruntime", "ms/slice", "memory"):
        assert word in printed
    assert ("max. diff." in printed) == (width == 160)


def shown(document: dict, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(benchmark_table(document, width))
    return console.file.getvalue()


def test_the_widest_figures_fit(document):
    wide = json.loads(json.dumps(document))
    large = {"ms_per_slice": 12345.6, "ms_per_slice_p95": 23456.7, "s_per_volume": 1234.5}
    for model in wide["models"]:
        for way in model["ways"]:
            way.update(way="onnxruntime-int8", file_mib=1234.5, peak_mib=12345.6)
            way["runs"] = [{**found, **large, "threads": n} for found in way["runs"] for n in (1, 16)]
    printed = shown(wide, 80)
    assert max(map(len, printed.splitlines())) <= 80 and "…" not in printed and "12346" in printed


@pytest.mark.usefixtures("quick")
def test_a_way_that_is_not_there_is_said(student: Path, monkeypatch: pytest.MonkeyPatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    found = benchmark([student], Settings(("eager", "compiled", "onnxruntime"), (1,), (1,), 1, size=32))
    (model,) = found["models"]
    assert [way["way"] for way in model["ways"]] == ["eager"]
    assert "needs onnxruntime, not installed: pip install 'hlfd[export]'" in model["left_out"]["onnxruntime"]
    assert "student: no compiled: needs a C++ compiler" in " ".join(shown(found, 160).split())


@pytest.mark.usefixtures("quick")
def test_a_way_that_fails_leaves_the_others(student: Path, monkeypatch: pytest.MonkeyPatch):
    real = ways.start

    def start(way, *rest):
        if way.name == "channels_last":
            raise RuntimeError("no such\nkernel")
        return real(way, *rest)

    monkeypatch.setattr(ways, "start", start)
    found = benchmark([student], Settings(("eager", "channels_last"), (1,), (1,), 1, size=32))
    assert [way["way"] for way in found["models"][0]["ways"]] == ["eager"]
    assert found["models"][0]["left_out"] == {"channels_last": "RuntimeError: no such kernel"}


@pytest.mark.usefixtures("quick")
def test_a_way_whose_file_can_not_be_written_leaves_the_others(student: Path, monkeypatch: pytest.MonkeyPatch):
    def write(way, *_):
        raise RuntimeError("no such\nkernel")

    monkeypatch.setattr(ways, "write", lambda way, *rest: write(way) if way.exporter else None)
    found = benchmark([student], Settings(("eager", "onnxruntime"), (1,), (1,), 1, size=32))
    assert [way["way"] for way in found["models"][0]["ways"]] == ["eager"]
    assert found["models"][0]["left_out"] == {"onnxruntime": "RuntimeError: no such kernel"}


def test_a_volume_is_not_called_by_its_name(student: Path, tmp_path: Path):
    path = tmp_path / "Doe_Jane.nii.gz"
    nib.save(nib.Nifti1Image(make_patient(0, 0, organ="kidney", size=32)[0].voxels, np.eye(4)), path)
    found = benchmark([student], Settings(("eager",), (1,), (1,), 1, volume=path))
    assert found["volume"]["said"] == f"CT {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    assert "Doe" not in json.dumps(found)


@pytest.mark.parametrize(
    ("dims", "preprocess", "image", "channels"),
    [(2, {"neighbours": 1}, [32, 32], 3), (3, {"patch": (16, 32, 32)}, [16, 32, 32], 1)],
)
def test_in_25d_and_3d(dims: int, preprocess: dict, image: list[int], channels: int, tmp_path: Path):
    model = tiny(tmp_path / "model", 1, dims, **preprocess)
    found = benchmark([model], Settings(("eager", "onnxruntime"), (1,), (1,), 2, size=32))
    (one,) = found["models"]
    assert (one["image"], one["channels"], one["dims"]) == (image, channels, dims)
    for way in one["ways"]:
        (times,) = way["runs"]
        assert times["ms_per_image"] == pytest.approx(times["ms_per_slice"] * (16 if dims == 3 else 1))
    assert one["ways"][1]["max_difference"] < 1e-3
    assert ("patch of 16 x 32 x 32" if dims == 3 else "slice with neighbours of 32 x 32") in shown(found, 160)


def test_an_exported_file_is_measured_as_it_is(student: Path, tmp_path: Path):
    from hlfd.export import export
    from hlfd.verification import Evidence

    model, (image, _) = Segmenter.load(student / "model"), make_patient(0, 0, organ="kidney", size=32)
    evidence = Evidence("one volume", lambda: [image], lambda: [(image, None)], 1, 1)
    file = export(model, tmp_path / "student.onnx", evidence=evidence, tolerance=1.0).path
    found = benchmark([file], Settings(rounds=1, batches=(1,), threads=(1,), size=64))
    (one,) = found["models"]
    assert (one["name"], one["parameters"]) == ("student.onnx", None)
    assert [way["way"] for way in one["ways"]] == ["onnxruntime"]
    assert one["ways"][0]["file_mib"] == pytest.approx(file.stat().st_size / 2**20)
    assert one["ways"][0]["peak_mib"] > 0


def test_rounds_are_in_turn_and_the_first_are_not_counted():
    order, now = [], iter(range(1000))
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    times = clock.in_turn(calls, 3, warm_up=2, clock=lambda: float(next(now)))
    assert order == ["a", "b"] * 5
    assert times["a"] == (1.0, 1.0)


def test_median_and_p95():
    ticks = iter([x for second in [1, 2, 3, 4, 100] for x in (0.0, float(second))])
    (times,) = clock.in_turn({"a": lambda: None}, 5, warm_up=0, clock=lambda: next(ticks)).values()
    assert times.median == 3
    assert times.p95 == pytest.approx(np.percentile([1, 2, 3, 4, 100], 95))


@pytest.mark.usefixtures("quick")
def test_threads_are_set_and_given_back(student: Path):
    before = torch.get_num_threads()
    found = benchmark([student], Settings(("eager",), (1,), (1, 2), 1, size=32))
    assert [one["threads"] for one in found["models"][0]["ways"][0]["runs"]] == [1, 2]
    assert torch.get_num_threads() == before


def test_names():
    paths = [Path("a/teacher/model"), Path("b/student"), Path("c/student"), Path("d/x.onnx"), Path("d/x.onnx")]
    assert names(paths) == ["teacher", "b/student", "c/student", "d/x.onnx (4)", "d/x.onnx (5)"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "nowhere: no such model folder or file"),
        (("MODEL", "--way", "onxruntime"), "called 'onxruntime' (did you mean 'onnxruntime'"),
        (("MODEL", "--batch", "1;4"), "--batch: expected numbers with commas between, for example 1,4,8, got '1;4'"),
        (("MODEL", "--threads", "0"), "--threads: expected numbers of 1 or more, got 0"),
        (("MODEL", "--plot", "a.pdf"), "a.pdf: expected a name that ends in .png or .svg"),
        (("MODEL", "--volume", "gone.nii.gz"), "gone.nii.gz: no such file"),
        (("MODEL", "--json", "FILE/b.json"), "can't be written: "),
        (("MODEL", "--plot", "FILE/b.png"), "can't be written: "),
        (("MODEL", "--json", "FOLDER"), "is a folder, expected the name of a file"),
    ],
)
def test_mistakes(
    hlfd, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
):
    (tmp_path / "file").touch()
    if "can't be written" in words or "is a folder" in words:
        monkeypatch.setattr(run, "benchmark", lambda *_: pytest.fail("found out after the work"))
    arguments = tuple(a.replace("FILE", str(tmp_path / "file")).replace("FOLDER", str(tmp_path)) for a in arguments)
    ended = hlfd("benchmark", *(student if a == "MODEL" else a for a in arguments))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert words in ended.err


def test_the_command_writes_figures_and_a_chart(hlfd, student: Path, tmp_path: Path, document, monkeypatch):
    monkeypatch.setattr(run, "benchmark", lambda *_: document)
    svg, png, figures = tmp_path / "b.svg", tmp_path / "b.png", tmp_path / "benchmark.json"
    ended = hlfd("benchmark", student, "--json", figures, "--plot", svg)
    assert ended.code == 0, ended.err
    assert str(figures) in ended.out and "onnxruntime" in ended.out
    assert read_benchmark(figures)["models"][0]["name"] == "teacher"
    text = svg.read_text()
    assert all(name in text for name in ("bf16", "onnxruntime", "teacher"))
    assert not re.search(r"#0b000|#010101|#020202|#030303|#040404", text)  # a page's stand-in colours
    write_picture(document, png)
    assert np.asarray(Image.open(png).convert("L")).std() > 5


def test_what_is_no_benchmark_is_refused(tmp_path: Path, document):
    assert read_benchmark(tmp_path / "benchmark.json") == {}
    for text, words in (("{", "can't be read"), ("{}", "not one of ours"), ('{"version": 7}', "expected version 1")):
        (tmp_path / "benchmark.json").write_text(text)
        with pytest.raises(InputError, match=rf"benchmark\.json: .*{words}"):
            read_benchmark(tmp_path / "benchmark.json")
    assert len(bars(document, {"student": 2})) == 8
    assert {bar.slot for bar in bars(document, {"student": 2}) if bar.model == "student"} == {2}


def test_the_report_shows_it(document):
    results = {"models": [{"name": "teacher"}, {"name": "student", "method": "seg"}]}
    page = render(ReportData("Study", "", results, benchmark=document))
    assert 'id="speed"' in page and "student, onnxruntime" in page and "generated phantom patient" in page
    assert 'id="speed"' not in render(ReportData("Study", "", results))

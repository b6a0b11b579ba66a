"""The command line: help everywhere, and a mistake is one line and exit code 2."""

import json
import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer

from hlfd import cli, plugins
from hlfd import recipe as recipes
from hlfd.cli._app import with_cache
from hlfd.data.preprocess import Preprocess
from hlfd.labels import organ_and_tumor
from hlfd.segmenter import Segmenter, build_network

COMMANDS = typer.main.get_command(cli.app).commands


@pytest.fixture
def recipe(kits_root: Path, tmp_path: Path) -> Path:
    """A tiny recipe, its store not prepared."""
    values = {
        "name": "tiny",
        "output": str(tmp_path / "out"),
        "source": {"name": "kits", "root": str(kits_root)},
        "split": {"validation": 1, "test": 1},
        "student": {"name": "unet", "width": 1},
    }
    (tmp_path / "tiny.yaml").write_text(json.dumps(values))
    return tmp_path / "tiny.yaml"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An untrained model of one class, ``tumor``."""
    network = build_network("unet", {"width": 1}, 2)
    labels = organ_and_tumor("tumor", "kidney")
    preprocess = Preprocess(window_hu=(-200.0, 300.0))
    return Segmenter(network, "unet", {"width": 1}, preprocess, labels).save(tmp_path / "model")


def assert_told(ended, code: int, *words: str) -> None:
    """The last line on the terminal says it all; before it stand at most lines on what was prepared."""
    *before, last = ended.err.splitlines()
    assert ended.code == code, ended.err
    assert last.startswith("hlfd: ")
    assert all(line.startswith("preparing: ") or "/store: 3 cases" in line for line in before), ended.err
    for word in words:
        assert word in last


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_has_help(hlfd, name: str):
    ended = hlfd(name, "--help")
    assert ended.code == 0
    assert ended.err == ""
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_can_be_read_in_a_narrow_terminal(hlfd, name: str, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = hlfd(name, "-h").out
    assert max(map(len, shown.splitlines())) <= 80
    for parameter in COMMANDS[name].params:
        for option in (*parameter.opts, *parameter.secondary_opts) if parameter.param_type_name == "option" else ():
            assert option in shown.split() or f"{option}," in shown.split(), f"{name}: {option}"


def test_help_of_all_commands_is_a_whole_line_each(hlfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = hlfd("-h").out
    assert shown == hlfd().out
    assert "..." not in shown.partition("Commands:")[2]


def test_version(hlfd):
    assert hlfd("--version").out == f"hlfd {metadata.version('hlfd')}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nope",), ("No such command 'nope'",)),
        (("predict", "-m", "a", "-i", "b"), ("Missing option '--output'",)),
        (("predict", "--nope"), ("No such option: --nope",)),
        (("predict", "-m", "a", "-i", "b", "-o", "c", "--threads", "0"), ("--threads", "greater than or equal to 1")),
        (("train",), ("Missing argument 'RECIPE'",)),
    ],
)
def test_wrong_arguments_are_one_line(hlfd, arguments, words):
    ended = hlfd(*arguments)
    assert len(ended.err.splitlines()) == 1
    assert_told(ended, 2, *words)


def test_ctrl_c_and_sigterm_are_one_line(hlfd, monkeypatch):
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        monkeypatch.setattr(plugins, "names", lambda *_, number=number: os.kill(os.getpid(), number))
        ended = hlfd("list")
        assert ended.err == "hlfd: interrupted; what is finished stays\n"
        assert ended.code == code


def test_help_names_every_command_and_waits_for_no_library():
    program = (
        "import sys; from hlfd import cli; sys.argv = ['hlfd', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'monai', 'lightning', 'numpy', 'nibabel', 'matplotlib'} & set(sys.modules)\n"
        "assert (code, heavy) == (0, set()), (code, heavy)"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    for name in COMMANDS:
        assert f" {name} " in ended.stdout


def test_a_mistake_in_a_terminal_is_one_line(recipe: Path):
    recipe.write_text(recipe.read_text().replace('"split"', '"splits"'))
    ended = subprocess.run(
        [Path(sys.executable).with_name("hlfd"), "info", recipe],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"hlfd: {recipe}: there is no key 'splits' (did you mean 'split'?")
    assert ended.stderr.count("\n") == 1


def test_list(hlfd):
    everything = hlfd("list").out
    for kind in ("methods", "networks", "sources", "teachers", "exporters"):
        assert kind in everything
        for name in plugins.names(kind):
            assert f"  {name} " in everything
            assert plugins.summary(kind, name) in everything
    assert "unetpp" not in hlfd("list", "methods").out
    one = hlfd("list", "networks", "unet")
    assert one.code == 0
    assert "width: 32" in one.out and "Ronneberger" in one.out
    reader = hlfd("list", "teachers", "nnunet")
    assert reader.code == 0, reader.err
    assert "checkpoint: final" in reader.out and "Isensee 2021" in reader.out
    assert "teachers" in hlfd("list", "--help").out
    assert_told(hlfd("list", "network"), 2, "there is no kind 'network' (did you mean 'networks'?")
    assert_told(hlfd("list", "methods", "hldf"), 2, "there is no method 'hldf' (did you mean 'hlfd'?")


def test_the_cache_option_is_a_change_of_the_recipe(recipe: Path):
    assert recipes.read(recipe, with_cache(["seed=1"], "require")).student_training.cache == "require"
    assert with_cache(None, None) == []


def test_prepare_and_info(hlfd, recipe: Path, model: Path, kits_root: Path, tmp_path: Path):
    ended = hlfd("prepare", recipe, "--workers", 1)
    assert ended.code == 0
    assert "store: 3 cases" in ended.err
    assert "fold 0: 1 train, 1 validation, 1 test patients" in ended.err
    for path, words in (
        (tmp_path / "out" / "store", ("3 cases of 3 patients, 12 slices", "class 2: ")),
        (model, ("unet", "parameters", "1 = tumor", "Research use only")),
        (tmp_path, ("1 = tumor",)),  # a run folder holds its model
        (kits_root / "case_00000" / "imaging.nii.gz", ("4 x 20 x 24 voxels, 2.500 x 0.800 x 0.800 mm", "axes to IPL")),
        (recipe, ("name: tiny", "student_training:", "epochs: 30")),
    ):
        ended = hlfd("info", path)
        assert (ended.code, ended.err) == (0, "")
        for word in words:
            assert word in ended.out
    assert_told(hlfd("info", kits_root), 2, f"{kits_root}: expected a model folder")
    assert_told(hlfd("info", model, "fold=1"), 2, f"{model}: only a model from elsewhere takes options, got fold=1")


def test_predict_keeps_the_grid(hlfd, model: Path, kits_root: Path, tmp_path: Path):
    image = kits_root / "case_00000" / "imaging.nii.gz"
    for name in ("out.nii", "folder/out.nii.gz"):
        ended = hlfd("predict", "-m", model, "-i", image, "-o", tmp_path / name)
        assert ended.code == 0, ended.err
        written, original = nib.load(tmp_path / name), nib.load(image)
        assert written.shape == original.shape
        np.testing.assert_allclose(written.affine, original.affine, atol=1e-6)
        assert set(np.unique(np.asanyarray(written.dataobj))) <= {0, 1}


def change_image(change):
    def apply(root: Path) -> None:
        path = root / "case_00001" / "imaging.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(change(np.asanyarray(image.dataobj).astype(np.float32)), image.affine), path)

    return apply


def change_mask(change, affine=np.array):
    def apply(root: Path) -> None:
        path = root / "case_00001" / "segmentation.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(change(np.asanyarray(image.dataobj)), affine(image.affine)), path)

    return apply


def truncate(root: Path) -> None:
    path = root / "case_00001" / "imaging.nii.gz"
    path.write_bytes(path.read_bytes()[:-100])


MASK, IMAGE = "case_00001/segmentation.nii.gz", "case_00001/imaging.nii.gz"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, (IMAGE, "expected a whole NIfTI file")),
        (change_image(lambda v: v * np.nan), (IMAGE, "expected finite HU, got 1920 voxels")),
        (change_image(lambda v: v * 0 - 5), (IMAGE, "got the constant value -5")),
        (change_image(lambda v: v[..., None].repeat(2, -1)), (IMAGE, "3 axes, got 4: shape (4, 20, 24, 2)")),
        (change_mask(lambda v: v + 1), (MASK, "unknown label values 3; expected only [0, 1, 2]")),
        (change_mask(lambda v: v[:, 1:]), (MASK, "expected shape (4, 20, 24), got (4, 19, 24)")),
        (change_mask(np.array, lambda a: a @ np.diag([1, 1, 1.5, 1])), (MASK, "the affines differ", "mm away")),
        (lambda root: (root / IMAGE).unlink(), ("case_00001: has a segmentation and no imaging.nii.gz",)),
        (
            lambda root: [p.unlink() for p in root.glob("*/segmentation*")],
            ("expected cases with labels, none of the 3",),
        ),
        (lambda root: root.rename(root.with_name("moved")), ("kits: no such folder",)),
    ],
)
def test_bad_data_is_named(hlfd, recipe: Path, kits_root: Path, damage, words):
    damage(kits_root)
    assert_told(hlfd("prepare", recipe, "--workers", 1), 2, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["student_training.epoch=3"], ("tiny.yaml", "'student_training.epoch' (did you mean 'epochs'?")),
        (["student.width=0"], ("network 'unet'", "'width'", "greater than 0", "got 0")),
        (["student.widthh=8"], ("network 'unet' has no option 'widthh' (did you mean 'width'?",)),
        (["methods=[{name: hldf}]"], ("there is no method 'hldf' (did you mean 'hlfd'?",)),
        (["preprocess.window_hu=[5, 5]"], ("window_hu: expected a lower and a higher end",)),
        (["epochs"], ("'epochs': expected key=value",)),
        (["split={test: 2, validation: 1}"], ("3 patients are too few for 2 to test, 1 to validate",)),
        (["split.folds=4"], ("folds: expected 2 to 3",)),
        (["split.file=gone.json"], ("gone.json: no such file",)),
    ],
)
def test_a_recipe_that_can_not_be(hlfd, recipe: Path, arguments, words):
    assert_told(hlfd("prepare", recipe, *arguments, "--workers", 1), 2, *words)


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("case_00000", ("patient case_00000 is both in train and in test",)),
        ("case_9", ("there is no patient 'case_9'",)),
    ],
)
def test_a_split_file_that_does_not_fit(hlfd, recipe: Path, tmp_path: Path, test: str, words):
    fold = {"train": ["case_00000"], "validation": ["case_00001"], "test": [test]}
    (tmp_path / "split.json").write_text(json.dumps({"folds": [fold]}))
    ended = hlfd("prepare", recipe, f"split.file={tmp_path / 'split.json'}", "--workers", 1)
    assert_told(ended, 2, "split.json: ", *words)


@pytest.mark.parametrize("given", ["folds=3", "labelled=1", "stratify=true"])
def test_a_split_file_says_in_which_part_everybody_is(hlfd, recipe: Path, tmp_path: Path, given: str):
    fold = {"train": ["case_00000"], "validation": ["case_00001"], "test": ["case_00002"]}
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"folds": [fold]}))
    ended = hlfd("prepare", recipe, f"split.file={path}", f"split.{given}", "--workers", 1)
    assert_told(ended, 2, f"split.{given.split('=', maxsplit=1)[0]}: {path} says in which part everybody is")


def test_a_store_that_does_not_fit(hlfd, recipe: Path, tmp_path: Path):
    assert hlfd("prepare", recipe, "--workers", 1).code == 0
    ended = hlfd("prepare", recipe, "preprocess.size=[16, 16]", "--workers", 1)
    assert_told(ended, 2, "store: was prepared with preprocess", "choose another folder")
    assert_told(hlfd("prepare", recipe, "split.seed=5", "split.test=2", "split.validation=0.1"), 2, "too few")
    ended = hlfd("prepare", recipe, "split.folds=3", "--workers", 1)
    assert_told(ended, 2, "splits.json: holds another split than the recipe asks for")
    settings = tmp_path / "out" / "store" / "store.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "version": 0}))
    for arguments in (("prepare", recipe, "--workers", 1), ("info", settings.parent)):
        assert_told(hlfd(*arguments), 2, "store.json: expected a store of version 3, got version 0")


def test_teacher_student_and_data_of_different_classes(hlfd, recipe: Path, model: Path, tmp_path: Path):
    ended = hlfd("distill", recipe, "--method", "kd", "--teacher", model, "--workers", 1)
    assert_told(ended, 2, "the teacher's classes are tumor, the student's kidney, tumor")
    ended = hlfd("evaluate", model, recipe, "--output", tmp_path / "evaluation")
    assert_told(ended, 2, f"{model}: its classes are ('tumor',), those of the data ('kidney', 'tumor')")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("distill", "RECIPE", "--method", "kd"), ("no teacher there", "hlfd train RECIPE --role teacher")),
        (("distill", "RECIPE", "--method", "hldf"), ("there is no method 'hldf' (did you mean 'hlfd'?",)),
        (("train", "RECIPE", "--role", "teachers"), ("--role: expected teacher or student, got 'teachers'",)),
        (("distill", "RECIPE", "--cache", "often"), ("--cache: expected auto, require or never, got 'often'",)),
        (("compare", "RECIPE", "--cache", "requires"), ("did you mean 'require'?",)),
        (("train", "RECIPE", "--fold", "3", "--workers", "1"), ("fold 3: the recipe's split has 1",)),
        (("evaluate", "gone", "RECIPE"), ("gone/model.json: no such file",)),
        (("evaluate", "gone", "RECIPE", "--part", "tests"), ("--part: expected one of", "(did you mean 'test'?")),
        (("predict", "-m", "gone", "-i", "a.nii", "-o", "b.nii"), ("gone: no such file or folder",)),
        (("predict", "-m", "MODEL", "-i", "gone.nii", "-o", "b.nii"), ("gone.nii: no such file",)),
        (("report", "gone"), ("gone/results.json: no such file",)),
        (("compare", "gone.yaml"), ("gone.yaml: no such recipe",)),
    ],
)
def test_other_mistakes(hlfd, recipe: Path, model: Path, arguments, words):
    places = {"RECIPE": recipe, "MODEL": model}
    assert_told(hlfd(*(places.get(a, a) for a in arguments)), 2, *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda known: known.update(version=9), ("expected a model of version 1, got version 9",)),
        (lambda known: known.pop("labels"), ("not a model description",)),
        (lambda known: known["network"].update(width=2), ("does not fit network 'unet'",)),
        (lambda known: known["network"].update(name="nett"), ("there is no network 'nett' (did you mean '",)),
        (lambda known: known["preprocess"].update(window_hu=[3, 1]), ("window_hu",)),
        (lambda known: known.update(weights_sha256="0"), ("model.safetensors: damaged",)),
    ],
)
def test_a_model_that_is_damaged(hlfd, model: Path, change, words):
    known = json.loads((model / "model.json").read_text())
    change(known)
    (model / "model.json").write_text(json.dumps(known))
    assert_told(hlfd("info", model), 2, str(model), *words)

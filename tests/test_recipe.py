"""Recipes: what stands there is what runs, and a mistake is answered with the key and what was expected."""

from pathlib import Path

import pytest

import hlfd
from hlfd import recipe
from hlfd.distill.features import TapInfo
from hlfd.errors import InputError

SHIPPED = [*sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml")), Path(hlfd.__file__).parent / "demo.yaml"]
BASE = """
name: small
source: {name: kits, root: data/kits}
student: {name: unet, width: 4}
student_training: {epochs: 3, lr: 1.0e-3}
methods: [{name: seg}, {name: kd}]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(BASE)
    return tmp_path / "r.yaml"


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda p: p.stem)
def test_shipped_recipes_are_valid_and_come_back(shipped: Path, tmp_path: Path):
    chosen = recipe.read(shipped)
    (tmp_path / "again.yaml").write_text(recipe.dump(chosen))
    assert recipe.read(tmp_path / "again.yaml") == chosen


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["student_training.lr=1e-4"], "student_training.lr", 1e-4),
        (["student_training.epochs=1e1"], "student_training.epochs", 10),
        (["student_training.epochs=7", "student_training.epochs=8"], "student_training.epochs", 8),
        (["preprocess.size=[64, 96]"], "preprocess.size", (64, 96)),
        (["student={name: enet}"], "student.name", "enet"),
        (["source.root=/a=b"], "source.root", Path("/a=b")),
        (["name=other"], "folder", Path("runs/other")),
        (["output=there"], "folder", Path("there")),
        (["methods.1.name=hlfd"], "methods.1.name", "hlfd"),
        (["split=null"], "split", None),
        (["split.seed=4"], "split.seed", 4),
        ([], "teacher.name", "unet"),
        (["teacher_models=[there/model]"], "teacher_models.0.model", Path("there/model")),
        (["teacher_models=[{model: a, learned_from: other}]"], "teacher_models.0.learned_from", "other"),
        (["teacher_models=[{model: a, learned_from: x.json}]"], "teacher_models.0.learned_from", Path("x.json")),
        (
            ["teacher_models=[{model: a, classes: {kidney: kidney, tumor: [cyst, mass]}}]"],
            "teacher_models.0.classes",
            {"kidney": ("kidney",), "tumor": ("cyst", "mass")},
        ),
        (["split.labelled=1.0"], "split.labelled", 1),
        (["unseen_only=true", "teacher_folds=2"], "unseen_only", True),
        (["methods.0.as=seg"], "methods.0.label", "seg"),
        (["methods.1.as=mine"], "methods.1.label", "mine"),
        (["methods.1.terms={kd.*: {stop_epoch: 3}}"], "methods.1.name", "kd"),
    ],
)
def test_overrides(path: Path, overrides: list[str], key: str, value: object):
    here = recipe.read(path, overrides)
    for part in key.split("."):
        here = here[int(part)] if part.isdigit() else getattr(here, part)
    assert here == value


def test_a_recipe_derives_from_another(path: Path):
    top = path.parent / "top.yaml"
    top.write_text("extends: r.yaml\nname: top\nstudent: {name: enet}\nstudent_training: {epochs: 9}\n")
    chosen = recipe.read(top)
    assert (chosen.name, chosen.student_training.epochs, chosen.student_training.lr) == ("top", 9, 1e-3)
    assert chosen.student.options == {}  # another plug-in's options don't stay
    assert [m.name for m in chosen.methods] == ["seg", "kd"]
    top.write_text("extends: r.yaml\nstudent: {norm: instance}\n")
    assert recipe.read(top).student.options == {"width": 4, "norm": "instance"}


def test_methods_and_window(path: Path):
    chosen = recipe.read(path, ["methods.1.weight=0.5"])
    assert chosen.method("kd").options == {"weight": 0.5}
    assert chosen.method("hlfd").options == {}
    with pytest.raises(InputError, match="there is no method 'hldf'"):
        chosen.method("hldf")


TAPS = {role: TapInfo(4, 1) for role in ("e1", "e2", "e3", "e4", "e5", "d5", "d4", "d3", "d2")}
TAPS["logits"] = TapInfo(3, 1)


def test_several_methods_are_one_with_the_terms_of_each(path: Path):
    (method,) = recipe.read(path, ["methods=[{name: hlfd+kd, hlfd: {beta: 0.2}, kd: {weight: 3}}]"]).methods
    built = {term.name: term.weight for term in method.build(TAPS, TAPS, 3)}
    assert len(built) == 9
    assert built["hlfd.flfd.e1"] == 0.1 and built["hlfd.plfd.d5"] == 0.05
    assert built["kd.logits"] == 3
    (alone,) = recipe.read(path, ["methods=[{name: hlfd, beta: 0.2}]"]).methods
    assert {term.name for term in alone.build(TAPS, TAPS, 3)} == {n.removeprefix("hlfd.") for n in built} - {
        "kd.logits"
    }


def test_a_method_twice_under_two_names(path: Path):
    methods = "methods=[{name: hlfd, as: flfd, alpha: 0}, {name: hlfd, as: plfd, beta: 0}]"
    chosen = recipe.read(path, [methods])
    assert [(m.label, m.options) for m in chosen.methods] == [("flfd", {"alpha": 0}), ("plfd", {"beta": 0})]
    assert chosen.method("plfd") == chosen.methods[1]
    assert chosen.method("kd").options == {}
    (path.parent / "again.yaml").write_text(recipe.dump(chosen))
    assert recipe.read(path.parent / "again.yaml") == chosen


def test_the_sources_window_holds_unless_the_recipe_has_one(kits_root: Path, path: Path):
    for overrides, window in (([], (-200, 300)), (["preprocess.window_hu=[0, 100]"], (0, 100))):
        chosen = recipe.read(path, [f"source.root={kits_root}", *overrides])
        assert chosen.resolved_preprocess(chosen.make_source()).window_hu == window


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student_trainig.lr=1", r"there is no key 'student_trainig' \(did you mean 'student_training'\?"),
        ("student_training.epoch=1", r"there is no key 'student_training.epoch' \(did you mean 'epochs'\?"),
        ("split.fold=3", r"there is no key 'split.fold' \(did you mean 'folds'\?"),
        ("preprocess.crops=[64, 64]", r"there is no key 'preprocess.crops' \(did you mean 'crop'\?"),
        ("student_training.epochs=0", "'student_training.epochs': input should be greater than 0, got 0"),
        ("student_training.lr=fast", "'student_training.lr': input should be a valid number.* got 'fast'"),
        ("student_training.rare_share=1", "'student_training.rare_share': input should be less than 1, got 1"),
        ("preprocess.window_hu=[300, -200]", r"window_hu: expected a lower and a higher end, got \[300.0, -200.0\]"),
        ("preprocess={size: [64, 64], spacing_mm: 1}", "spacing_mm and size exclude each other"),
        ("preprocess.spacing_mm=0", "'preprocess.spacing_mm': input should be greater than 0, got 0"),
        ("preprocess.size=[4, 64]", "'preprocess.size.0': input should be greater than or equal to 8, got 4"),
        ("methods.1={name: kd, as: seg}", "method 'kd': as: 'seg' is what the student alone is called, choose another"),
        ("methods.1={name: hlfd+seg}", r"method 'hlfd\+seg': seg is the student alone and has no terms: leave it out"),
        ('methods.0={name: seg, terms: {"*": {scale: 2}}}', r"method 'seg' has no terms, got terms: \*"),
        ("split.labelled=1.7", r"split.labelled: expected a share below 1, or a number of patients, got 1\.7"),
        ("split.test=2.5", r"split.test: expected a share below 1, or a number of patients, got 2\.5"),
        ("unseen_only=true", "unseen_only: expected teacher_models to choose from, got none"),
        ("split.validation=0", "'split.validation': input should be greater than 0"),
        ("student.name=unett", r"there is no network 'unett' \(did you mean 'unet'\?"),
        ("student.widthh=4", r"network 'unet' has no option 'widthh' \(did you mean 'width'\?"),
        ("student.width=-4", "network 'unet': 'width': input should be greater than 0, got -4"),
        ("methods.1.weightt=1", r"method 'kd' has no option 'weightt' \(did you mean 'weight'\?"),
        ("methods.2.name=hlfd", "methods.2.name: expected a number below 2 at '2'"),
        ("methods.x=1", "methods.x: expected a number below 2 at 'x'"),
        ("methods.1.name=seg", "methods: each at most once, unless 'as' names them apart, got seg, seg"),
        ("methods.1={name: kd, as: a/b}", "'methods.1.as': string should match pattern"),
        ("methods.1={name: kd+hlfd, beta: 1}", r"method 'kd\+hlfd' has no option 'beta' \(known: hlfd, kd\)"),
        ("methods.1={name: kd+hlfd, hlfd: {betta: 1}}", r"method 'hlfd' has no option 'betta' \(did you mean 'beta'"),
        ("methods.1={name: kd+hlfd, kd: 3}", r"method 'kd\+hlfd': kd: expected its options, got 3"),
        ("methods.1={name: kd+kd}", r"method 'kd\+kd': each at most once"),
        ("methods.1={name: kd+hllfd}", r"there is no method 'hllfd' \(did you mean 'hlfd'"),
        (
            'methods.1={name: kd, terms: {"*": {warmup: 2}}}',
            r"there is no key 'methods.1.terms.\*.warmup' \(did you mean 'warmup_epochs'\?",
        ),
        (
            "teacher_models=[{model: a, wieght: 2}]",
            r"there is no key 'teacher_models.0.wieght' \(did you mean 'weight'",
        ),
        ("teacher_models=[{model: a, weight: 0}]", "'teacher_models.0.weight': input should be greater than 0, got 0"),
        (
            "teacher_training.unlabelled_share=0.5",
            "teacher_training.unlabelled_share: a teacher learns from labels alone",
        ),
        ("student_training.unlabelled_share=1", "'student_training.unlabelled_share': input should be less than 1"),
        ("teacher_folds=1", "'teacher_folds': input should be greater than or equal to 2, got 1"),
        ("source.name=kist", r"there is no source 'kist' \(did you mean 'kits'\?"),
        ("source.task=liver", "source 'kits': 'task': input should be 'tumor', 'organ' or 'both', got 'liver'"),
        ("source={name: kits}", "'source.root' is missing"),
        ("name.x=1", "name.x: 'name' is a value, it has no keys of its own"),
        ("epochs", "'epochs': expected key=value"),
        ("=3", "'=3': expected key=value"),
        ("folds=[1", r"folds: expected a value as YAML, got '\[1'"),
    ],
)
def test_what_a_recipe_can_not_say(path: Path, override: str, message: str):
    with pytest.raises(InputError, match=message) as caught:
        recipe.read(path, [override])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "value error" not in str(caught.value).lower()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such recipe"),
        ("name: [", "not readable as YAML"),
        ("- a\n- b", "expected sections with keys, got list"),
        ("", "expected sections with keys, got NoneType"),
        ("name: x", "'source' is missing"),
        ("1: x", "'name' is missing"),
        ("extends: none.yaml", r"none\.yaml: no such recipe"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str | None, message: str):
    path = tmp_path / "bad.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        recipe.read(path)
    assert str(caught.value).startswith(str(path.parent))


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {base}.yaml\n")
    with pytest.raises(InputError, match=r"a\.yaml: extends itself"):
        recipe.read(tmp_path / "a.yaml")


def test_the_last_epoch_is_always_validated() -> None:
    with pytest.raises(InputError, match="validate_every: expected a divisor of epochs = 5"):
        recipe.from_values(
            {
                "name": "x",
                "source": {"name": "kits", "root": "data"},
                "student_training": {"epochs": 5, "validate_every": 2},
            },
            "x",
        )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": -1}, "'seed'"),
        ({"folds": []}, "'folds'"),
        ({"folds": [0, 0]}, "folds: each at most once"),
        ({"folds": [-1]}, "'folds.0'"),
        ({"methods": []}, "'methods'"),
    ],
)
def test_values_that_could_only_fail_later_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        recipe.from_values({"name": "x", "source": {"name": "kits", "root": "data"}, **values}, "x")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"student_training": {"augment": {"intensty": "both"}}},
            r"'student_training\.augment\.intensty' \(did you mean",
        ),
        (
            {"student_training": {"augment": {"intensity": "noisy"}}},
            r"'student_training\.augment\.intensity': input should",
        ),
        ({"preprocess": {"crop": "foregroud"}}, r"'preprocess\.crop': input should be 'foreground', got 'foregroud'"),
        (
            {"preprocess": {"patch": [1, 64]}},
            r"'preprocess\.patch\.0': input should be greater than or equal to 8, got 1",
        ),
        ({"preprocess": {"patch": [16, 64, 64], "neighbours": 1}}, "neighbours and a patch of three axes exclude"),
        ({"preprocess": {"slice_mm": 0}}, r"'preprocess\.slice_mm': input should be greater than 0, got 0"),
    ],
)
def test_what_images_are_shown_and_how_they_change(section, message):
    with pytest.raises(InputError, match=message):
        recipe.from_values({"name": "x", "source": {"name": "kits", "root": "data"}, **section}, "recipe")

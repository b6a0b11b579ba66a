"""Teachers of a run: several, fold-wise, foreign; slices without labels; terms that are diagnosed and balanced."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hlfd.data.splits import Split, inner_splits
from hlfd.distill.diagnosis import Pull
from hlfd.distill.features import ROLES
from hlfd.errors import InputError
from hlfd.sections import Plugin, TeacherSection
from hlfd.segmenter import Segmenter, patient_keys
from hlfd.training import module as modules
from hlfd.training.logs import read_curves
from hlfd.training.run import run
from hlfd.training.teachers import Opened, _shares, open_teacher

SPLIT = Split(
    train=tuple(f"case_{n:05}" for n in range(4)), validation=("case_00004", "case_00005"), test=("case_00006",)
)


def weights(model: Path) -> dict[str, torch.Tensor]:
    return Segmenter.load(model).network.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def left_out(job_in, tmp_path_factory) -> tuple[list[Split], tuple[TeacherSection, ...]]:
    """Two teachers, each without half of the training patients."""
    root = tmp_path_factory.mktemp("folds")
    inner = inner_splits(SPLIT, 2, seed=0)
    models = [
        run(job_in(root, f"teacher-{k}", epochs=1, network=Plugin(name="unet", width=3), split=split))
        for k, split in enumerate(inner)
    ]
    return inner, tuple(TeacherSection(model=model) for model in models)


def shares(job, *, unseen_only: bool = True) -> torch.Tensor:
    opened = [open_teacher(section, job.data, job.store.patients) for section in job.teachers]
    return _shares(opened, job.data, job.split.train, unseen_only=unseen_only)


# Several teachers.


def test_each_patient_is_taught_only_by_the_teacher_that_has_not_seen_it(make_job, left_out, monkeypatch):
    inner, teachers = left_out
    job = make_job(method="kd", teachers=teachers, unseen_only=True, epochs=1, augment=False)
    expected = [[float(patient in split.test) for split in inner] for patient in SPLIT.train]
    assert shares(job).tolist() == expected

    seen: dict[int, set[str]] = {}
    original = modules.Teaching.forward

    def forward(self, image, student, target, patient, addresses):
        for k, teacher in enumerate(self.teachers):
            teacher.tapped.register_forward_pre_hook(
                lambda _, args, k=k: seen.setdefault(k, set()).update(owners(args[0])), prepend=True
            )
        result = original(self, image, student, target, patient, addresses)
        for teacher in self.teachers:
            teacher.tapped._forward_pre_hooks.clear()
        return result

    slices = {
        torch.from_numpy(slice_).float().numpy().tobytes(): job.store.cases[case].patient
        for case in job.store.cases
        for slice_ in job.store.slices(case)[0][:]
    }

    def owners(images: torch.Tensor) -> list[str]:
        return [slices[image[0].contiguous().numpy().tobytes()] for image in images]

    monkeypatch.setattr(modules.Teaching, "forward", forward)
    run(job)
    assert [seen[k] for k in (0, 1)] == [set(split.test) for split in inner]


def test_a_patient_whom_every_teacher_has_seen_is_refused(make_job, teacher):
    with pytest.raises(InputError, match="unseen_only: every teacher learned from 4 of the 4 training patients"):
        run(make_job(method="kd", teacher=teacher, unseen_only=True))


def test_an_ensemble_weighs_its_teachers_and_the_student_remembers_all_of_them(make_job, left_out):
    _, (first, second) = left_out
    heavy = second.model_copy(update={"weight": 3.0})
    job = make_job(method="hlfd", teachers=(first, heavy), epochs=1)
    assert shares(job, unseen_only=False).tolist() == [[0.25, 0.75]] * 4
    student = Segmenter.load(run(job))
    assert len(student.facts["teachers"]) == 2
    assert student.learned_from == patient_keys("kits", (*SPLIT.train, *SPLIT.validation))
    state = torch.load(job.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    heads = [key for key in state if key.endswith("plfd.d5.student_head.weight") or "student_head.weight" in key]
    assert len(heads) == 2 * 4  # shared, and named in both
    assert torch.equal(state["teaching.distillers.0.terms.4.student_head.weight"],
                       state["teaching.distillers.1.terms.4.student_head.weight"])  # fmt: skip
    with pytest.raises(InputError, match="holds a run with another teachers"):
        run(replace(job, teachers=(first, second)))


def test_one_leaking_teacher_of_several_is_refused(make_job, left_out):
    inner, teachers = left_out
    train, test = inner[0].test[:1], inner[1].test  # the first teacher learned from them
    split = Split(train=train, validation=SPLIT.validation, test=test)
    with pytest.raises(InputError, match="the teacher learned from 2 of the 2 test patients"):
        run(make_job(method="kd", teachers=teachers, split=split))


# Whom a foreign teacher learned from.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the model doesn't say whom it learned from; state it: 'other'"),
        ("[1", "expected a JSON list of patients"),
        ('{"a": 1}', "expected a JSON list of patients' ids as text, got {'a': 1}"),
        ("[1, 2]", r"expected a JSON list of patients' ids as text, got \[1, 2\]"),
        ('["case_00009"]', "there is no patient 'case_00009' in the data"),
        ('["case_00006"]', "the teacher learned from 1 of the 1 test patients"),
    ],
)
def test_provenance_must_be_stated_for_a_model_without_it(content, message, make_job, teacher, tmp_path, monkeypatch):
    stated = None
    if content is not None:
        stated = tmp_path / "patients.json"
        stated.write_text(content)
    forget(monkeypatch)
    section = TeacherSection(model=teacher, learned_from=stated)
    with pytest.raises(InputError, match=message):
        run(make_job(method="kd", teachers=(section,)))


def forget(monkeypatch) -> None:
    """Models no longer say whom they learned from."""
    from hlfd.training import teachers

    original = teachers.open_pretrained
    monkeypatch.setattr(teachers, "open_pretrained", lambda *a, **k: replace(original(*a, **k), learned_from=None))


def test_stated_provenance(make_job, teacher, tmp_path, monkeypatch):
    section = TeacherSection(model=teacher, learned_from="other")
    with pytest.raises(InputError, match="the model itself says whom it learned from; leave it out"):
        run(make_job(method="kd", teachers=(section,)))
    forget(monkeypatch)
    assert open_teacher(section, "kits", SPLIT.train).learned_from == frozenset()
    (tmp_path / "p.json").write_text(json.dumps(["case_00001"]))
    opened: Opened = open_teacher(section.model_copy(update={"learned_from": tmp_path / "p.json"}), "kits", SPLIT.train)
    assert opened.learned_from == patient_keys("kits", ["case_00001"])


# Slices without labels.

FEW = Split(
    train=("case_00000",), validation=SPLIT.validation, test=SPLIT.test, unlabelled=("case_00001", "case_00002")
)


def test_slices_without_labels_take_part_in_the_terms_alone(make_job, teacher, monkeypatch):
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    original = modules.Teaching.forward

    def forward(self, image, student, target, patient, addresses):
        calls.append((target, patient))
        return original(self, image, student, target, patient, addresses)

    monkeypatch.setattr(modules.Teaching, "forward", forward)
    job = make_job(method="hlfd", teacher=teacher, split=FEW, unlabelled_share=0.5)
    model = Segmenter.load(run(job))
    assert len(calls) == 18
    for target, patient in calls:
        without = target.flatten(1).amax(1) < 0
        assert without.sum() == 2
        assert without.tolist() == (patient > 0).tolist()
    assert {int(p) for _, patient in calls for p in patient} == {0, 1, 2}
    assert model.facts["unlabelled_patients"] == 2
    assert patient_keys("kits", FEW.unlabelled) <= model.learned_from
    values = read_curves(job.folder / "metrics.csv")
    assert all(0 < value < 10 for _, value in values["loss/seg"] + values["loss/plfd.d4"])


def test_the_student_alone_sees_labelled_slices_only(make_job):
    plain = run(make_job("plain", method="seg", split=replace(FEW, unlabelled=())))
    mixed = run(make_job("mixed", method="seg", split=FEW, unlabelled_share=0.5))
    assert same(weights(plain), weights(mixed))
    assert Segmenter.load(mixed).facts["unlabelled_patients"] == 0


def test_a_method_of_terms_that_need_labels_learns_nothing_without_them(make_job, teacher):
    with pytest.raises(InputError, match="method 'ifvd': every term needs labels"):
        run(make_job(method="ifvd", teacher=teacher, split=FEW, unlabelled_share=0.5))


def test_no_unlabelled_patients(make_job, teacher):
    with pytest.raises(InputError, match="unlabelled_share is set, and there is no slice without labels"):
        run(make_job(method="kd", teacher=teacher, unlabelled_share=0.5))


# Diagnosis and balance.


def fixed_pulls(ratio: float):
    return lambda student, task, losses: {(name, "logits"): Pull(ratio, 0.5) for name in losses}


@pytest.mark.parametrize(("ratio", "words"), [(40.0, "drowns the task"), (1e-5, "does nothing"), (1.0, None)])
def test_a_term_that_drowns_the_task_or_does_nothing_is_said_once(ratio, words, make_job, teacher, monkeypatch, capsys):
    monkeypatch.setattr(modules.diagnosis, "pulls", fixed_pulls(ratio))
    run(make_job(method="kd", teacher=teacher, diagnose_every=2))
    printed = " ".join(capsys.readouterr().err.split())
    assert printed.count("term kd.logits: its gradient at the student's logits is") == (words is not None)
    if words:
        assert words in printed


def test_a_term_without_a_gradient_is_warned_of_also_in_a_short_run(make_job, teacher, capsys):
    method = {"name": "hlfd", "variant": "released", "feature": False}
    run(make_job(method=method, teacher=teacher, epochs=1))
    printed = " ".join(capsys.readouterr().err.split())
    assert (
        "term plfd.d5: its gradient at the student's d5 is 0 times the segmentation loss's; it does nothing" in printed
    )


def test_a_run_refused_before_its_first_step_leaves_the_folder_free(make_job, teacher):
    with pytest.raises(InputError, match="there is no term 'nope'"):
        run(make_job(method={"name": "kd", "terms": {"nope": {}}}, teacher=teacher, epochs=1))
    run(make_job(method="kd", teacher=teacher, epochs=1))


def test_changed_provenance_is_another_run(make_job, teacher, tmp_path, monkeypatch):
    forget(monkeypatch)
    (tmp_path / "p.json").write_text("[]")
    section = TeacherSection(model=teacher, learned_from=tmp_path / "p.json")
    run(make_job(method="kd", teachers=(section,), epochs=1))
    (tmp_path / "p.json").write_text('["case_00001"]')
    with pytest.raises(InputError, match="holds a run with another teachers"):
        run(make_job(method="kd", teachers=(section,), epochs=1))


def test_readings_come_every_so_often_and_never_at_zero(make_job, teacher):
    job = make_job("every", method="kd", teacher=teacher, diagnose_every=7)
    run(job)
    curves = read_curves(job.folder / "metrics.csv")
    assert [step for step, _ in curves["grad/kd.logits/logits"]] == [0, 7, 14]
    assert {name for name in curves if name.startswith("grad/")} == {f"grad/kd.logits/{role}" for role in ROLES}
    never = make_job("never", method="kd", teacher=teacher, diagnose_every=0)
    run(never)
    assert not any(name.startswith("grad/") for name in read_curves(never.folder / "metrics.csv"))
    assert same(weights(never.folder / "model"), weights(job.folder / "model"))  # looking changes nothing


def test_balance_makes_the_weight_the_ratio_and_survives_a_stop(make_job, teacher, monkeypatch):
    options = {"name": "kd", "weight": 0.5}
    job = make_job("whole", method=options, teacher=teacher, balance="gradnorm", diagnose_every=1, lr=1e-4)
    run(job)
    curves = read_curves(job.folder / "metrics.csv")
    ratios = dict(curves["grad/kd.logits/logits"])
    factors = dict(curves["balance/kd.logits"])
    assert ratios[0] != pytest.approx(0.5, rel=0.2)
    assert ratios[1] == pytest.approx(0.5, rel=0.3)  # another batch, corrected by the first
    assert factors[9] == pytest.approx(factors[1])
    assert factors[1] == pytest.approx(0.5 / ratios[0], rel=1e-4)

    stopped = make_job("stopped", method=options, teacher=teacher, balance="gradnorm", diagnose_every=1, lr=1e-4)
    step = modules.TrainingModule.training_step

    def stop(self, batch, index):
        if self.global_step == 12:
            raise KeyboardInterrupt
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(modules.TrainingModule, "training_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(stopped)
    assert same(weights(run(stopped)), weights(job.folder / "model"))


def test_schedules_of_a_recipe_reach_the_terms(make_job, teacher):
    method = {"name": "skd", "terms": {"pixel.*": {"warmup_epochs": 2}, "map.*": {"stop_epoch": 1}}}
    job = make_job(method=method, teacher=teacher, diagnose_every=3)
    run(job)
    curves = read_curves(job.folder / "metrics.csv")
    steps = {
        name: [s for s, _ in curves[f"grad/{name}/{name[name.index('.') + 1 :]}"]]
        for name in ("map.e5", "pixel.logits")
    }
    assert steps == {"map.e5": [0, 3, 6], "pixel.logits": [3, 6, 9, 12, 15]}


def test_a_student_larger_than_its_teacher_is_warned_of(make_job, teacher, capsys):
    run(make_job(method="kd", teacher=teacher, network=Plugin(name="unet", width=4), epochs=1))
    printed = " ".join(capsys.readouterr().err.split())
    assert "warning: the student has 121,971 parameters, its teacher 68,757" in printed

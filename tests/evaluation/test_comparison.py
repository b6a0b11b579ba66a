"""Comparisons: p values against enumeration, Holm against closed testing, intervals by simulation, sentences by eye."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlfd.errors import InputError
from hlfd.evaluation.comparison import (
    Comparison,
    Measure,
    compare_models,
    holm,
    measure_of,
    patient_values,
    rank_biserial,
    signed_rank,
)
from hlfd.evaluation.protocols import CaseResult, Scores


def enumerated(differences: list[float]) -> float:
    """Two-sided p over all ways to flip the signs; zeros are ranked and then dropped (Pratt 1959)."""
    magnitudes = sorted(abs(d) for d in differences)
    rank = {m: np.mean([i + 1 for i, x in enumerate(magnitudes) if x == m]) for m in magnitudes}
    ranks = [rank[abs(d)] for d in differences if d]
    observed = sum(rank[abs(d)] * np.sign(d) for d in differences)
    flips = [
        sum(r * s for r, s in zip(ranks, signs, strict=True)) for signs in itertools.product((-1, 1), repeat=len(ranks))
    ]
    return float(np.mean([abs(f) >= abs(observed) - 1e-9 for f in flips]))


@pytest.mark.parametrize("patients", [5, 6, 9, 12])
def test_p_without_ties_is_exact(patients: int):
    random = np.random.default_rng(patients)
    for shift in (0.0, 0.5, 2.0):
        differences = random.normal(shift, 1, patients)
        assert signed_rank(differences) == pytest.approx(enumerated(list(differences)), abs=1e-9)


@pytest.mark.parametrize(
    "differences", [[0.0, 0.0, 0.3, 0.5, -0.1, 0.7, 0.2], [0.1, 0.1, 0.1, -0.1, 0.2, 0.2, 0.4, 0.5]]
)
def test_p_with_ties_and_zeros(differences: list[float]):
    assert signed_rank(np.array(differences)) == pytest.approx(enumerated(differences), abs=0.01)


def test_p_of_no_difference():
    assert signed_rank(np.zeros(8)) == 1.0
    assert rank_biserial(np.zeros(8)) == 0.0


def test_p_is_uniform_where_nothing_differs():
    random = np.random.default_rng(0)
    p = [signed_rank(random.normal(size=15)) for _ in range(500)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.025)
    assert np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.06)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_closed_testing(p: list[float]):
    """A hypothesis' adjusted p is the largest Bonferroni p of any set of hypotheses that holds it."""
    everything = range(len(p))
    sets = [s for size in everything for s in itertools.combinations(everything, size + 1)]
    expected = [max(min(1.0, len(s) * min(p[i] for i in s)) for s in sets if index in s) for index in everything]
    assert holm(p) == pytest.approx(expected)


def test_rank_biserial():
    assert rank_biserial(np.array([1.0, 2.0, 3.0])) == 1.0
    assert rank_biserial(np.array([-4.0, 1.0, 2.0, 3.0])) == pytest.approx((1 + 2 + 3 - 4) / 10)


def models(gain: float, patients: int = 31, seeds: int = 5, spread: float = 0.02) -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    base = random.uniform(0.5, 0.9, (patients, 1)) + random.normal(0, 0.01, (patients, seeds))
    return {"kd": base, "hlfd": base + gain + random.normal(0, spread, (patients, seeds))}


def compared(values: dict[str, np.ndarray], metric: str = "dice") -> Comparison:
    (found,) = compare_models(values, [("hlfd", "kd")], metric)
    return found


def test_a_difference_that_is_there():
    values = models(0.03)
    got = compared(values)
    each = (values["hlfd"] - values["kd"]).mean(1)
    assert got.verdict == "better"
    assert got.difference == pytest.approx(each.mean())
    assert got.effect == pytest.approx(each.mean() / each.std(ddof=1))
    assert (got.patients, got.trainings, got.undefined) == (31, (5, 5), 0)
    assert got.by_seed == pytest.approx((values["hlfd"] - values["kd"]).mean(0))
    assert got.patient_sd == pytest.approx(each.std(ddof=1))
    assert got.seed_sd == pytest.approx((values["hlfd"] - values["kd"]).mean(0).std(ddof=1))
    assert got.low is not None
    assert got.high is not None
    text = f"hlfd is better than kd by {100 * each.mean():.1f} Dice [{100 * got.low:.1f}, {100 * got.high:.1f}]"
    assert got.sentence == f"{text}, p < 0.001 after Holm, 31 patients, 5 seeds"
    (other,) = compare_models(values, [("kd", "hlfd")])
    assert other.verdict == "worse"
    assert other.sentence.startswith(f"kd is worse than hlfd by {100 * each.mean():.1f} Dice")


def test_a_difference_that_is_not_there():
    got = compared(models(0.0))
    assert got.verdict == "none"
    assert got.sentence.startswith("no difference shown between hlfd and kd: ")
    same = {"hlfd": models(0)["kd"], "kd": models(0)["kd"]}
    assert compared(same).sentence == (
        "no difference shown between hlfd and kd: 0.0 Dice [0.0, 0.0], p = 1.00 after Holm, 31 patients, 5 seeds"
    )
    assert compared(same).effect is None


@pytest.mark.parametrize("patients", [0, 1, 4])
def test_few_patients_are_no_claim(patients: int):
    got = compared(models(0.3, patients=patients))
    assert (got.verdict, got.p, got.p_holm) == ("refused", None, None)
    many = f"{patients} patient{'s' * (patients != 1)}"
    assert got.sentence == f"no claim about hlfd and kd: {many}, at least 5 are needed"


def test_undefined_patients_count_for_nobody():
    values = models(0.3, patients=6, spread=0.0)
    values["kd"][:2, 0] = np.nan
    got = compared(values)
    assert (got.patients, got.undefined, got.verdict) == (4, 2, "refused")


def test_seeds_that_disagree_are_no_claim():
    values = models(0.03)
    assert compared(values).verdict == "better"
    values["hlfd"] += np.array([0.10, -0.05, -0.02, 0.02, -0.05])  # mean 0: the patients' figures stay as they are
    got = compared(values)
    assert got.low is not None and got.low > 0 and got.p_holm is not None and got.p_holm < 0.001
    assert (got.steady, got.verdict) == (False, "none")
    lowest, highest = 100 * min(got.by_seed), 100 * max(got.by_seed)
    assert got.sentence.startswith("no difference shown between hlfd and kd: 2.9 Dice")
    assert got.sentence.endswith(f"31 patients, 5 seeds, from {lowest:.1f} to {highest:.1f} seed by seed")


def test_a_claim_of_one_training_says_so():
    values = models(0.03, seeds=1)
    assert compared(values).sentence.endswith("p < 0.001 after Holm, 31 patients, one training of each")


def test_a_teacher_was_trained_once():
    values = models(0.03)
    values["teacher"] = values["kd"].mean(1, keepdims=True) + 0.1
    (got,) = compare_models(values, [("teacher", "kd")])
    assert got.difference == pytest.approx(0.1)
    assert got.by_seed == pytest.approx((values["teacher"] - values["kd"]).mean(0))
    assert got.sentence.endswith("31 patients, 1 training of teacher and 5 of kd")


def test_seeds_alone_are_no_finding():
    """300 studies of two equal methods whose trainings differ: of patients alone half would be claims."""
    random = np.random.default_rng(5)
    claims = over_patients = 0
    for _ in range(300):
        trainings = {name: 0.7 + random.normal(0, 0.02, (1, 3)) for name in ("hlfd", "kd")}
        values = {name: all_patients + random.normal(0, 0.02, (30, 3)) for name, all_patients in trainings.items()}
        (got,) = compare_models(values, [("hlfd", "kd")], resamples=200)
        over_patients += got.p is not None and got.p < 0.05
        claims += got.verdict != "none"
    assert over_patients > 120
    assert claims < 25  # 5 % of 300 are 15


def test_holm_is_over_the_comparisons_of_one_call():
    values = models(0.008)
    values["at"] = values["kd"] + np.random.default_rng(1).normal(0, 0.02, values["kd"].shape)
    values["few"] = np.full_like(values["kd"], np.nan)
    one = compare_models(values, [("hlfd", "kd")])[0]
    three = compare_models(values, [("hlfd", "kd"), ("at", "kd"), ("few", "kd")])
    assert one.p == three[0].p == one.p_holm
    assert three[0].p is not None
    assert three[0].p_holm == pytest.approx(2 * three[0].p)  # what is refused is no test
    assert three[2].p_holm is None


@pytest.mark.parametrize(
    ("metric", "one", "other", "words"),
    [
        ("hd95_mm", 3.0, 5.0, "hlfd is better than kd by 2.0 mm HD95 ["),
        ("assd_mm", 5.0, 3.0, "hlfd is worse than kd by 2.0 mm ASSD ["),
        ("rvd", -0.1, 0.3, "hlfd is better than kd by 20.0 rvd ["),
        ("abs_volume_difference_ml", 10.0, 30.0, "hlfd is better than kd by 20.0 ml abs volume difference ["),
        ("voe", 0.2, 0.3, "hlfd is better than kd by 10.0 VOE ["),
        ("lesion_f1", 0.5, 0.2, "hlfd is better than kd by 30.0 lesion f1 ["),
    ],
)
def test_directions_and_units(metric: str, one: float, other: float, words: str):
    noise = np.random.default_rng(0).normal(0, 0.001, (12, 1))
    assert compared({"hlfd": one + noise, "kd": other - noise}, metric).sentence.startswith(words)


def test_measures():
    assert measure_of("dice") == Measure("high", "Dice", 100.0)
    assert measure_of("hd95_mm") == Measure("low", "mm HD95", 1.0)
    assert measure_of("volume_difference_ml").better == "zero"
    assert measure_of("abs_rvd").better == "low"


def test_the_interval_covers_the_true_difference():
    """400 studies of 12 patients and 3 seeds, the differences as skewed as the sum of four waiting times."""
    random = np.random.default_rng(3)
    hits = claims = 0
    for _ in range(400):
        patient = random.beta(4, 2, (12, 1))
        kd = np.clip(patient + random.normal(0, 0.03, (12, 3)), 0, 1)
        hlfd = kd + random.gamma(4, 0.0125, (12, 1)) - 0.05  # true mean difference 0
        (got,) = compare_models({"hlfd": hlfd, "kd": kd}, [("hlfd", "kd")], resamples=400)
        assert got.low is not None
        assert got.high is not None
        hits += got.low <= 0 <= got.high
        claims += got.verdict != "none"
    assert 0.90 <= hits / 400 <= 0.98
    assert claims / 400 <= 0.10


def case(name: str, patient: str, dice: float) -> CaseResult:
    return CaseResult(name, patient, {"tumor": Scores(dice=dice)})


def test_values_by_patient_and_seed():
    nan = math.nan
    runs = {
        "kd": [
            [case("a1", "a", 0.2), case("a2", "a", 0.4), case("b", "b", nan)],
            [case("b", "b", 0.5), case("a1", "a", 0.1)],
        ],
        "hlfd": [
            [case("b", "b", 0.9), case("a1", "a", nan), case("a2", "a", 0.7)],
            [case("a", "a", 0), case("b", "b", 1)],
        ],
    }
    got = patient_values(runs, "tumor", "dice")
    assert np.allclose(got["kd"], [[0.3, 0.1], [nan, 0.5]], equal_nan=True)
    assert np.allclose(got["hlfd"], [[0.7, 0.0], [0.9, 1.0]])


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ({"kd": [[case("a", "a", 1)]], "at": [[case("b", "b", 1)]]}, "at: judged on other patients than kd: a, b"),
        ({"kd": [[case("a", "a", 1)]] * 3, "at": [[case("a", "a", 1)]] * 2}, "at: 2 seeds, kd has 3"),
        ({"kd": [[CaseResult("a", "a", {})]]}, "kd: a: has no dice of tumor"),
    ],
)
def test_refuses_runs_that_are_no_pairs(runs, words):
    with pytest.raises(InputError, match=words):
        patient_values(runs, "tumor", "dice")


def test_refuses_models_that_are_not_there():
    with pytest.raises(InputError, match="no model 'hlf' to compare; there are kd, hlfd"):
        compare_models(models(0), [("hlf", "kd")])
    with pytest.raises(InputError, match=r"hlfd has \(31, 2\), kd \(31, 5\)"):
        compare_models({"hlfd": models(0)["hlfd"][:, :2], "kd": models(0)["kd"]}, [("hlfd", "kd")])

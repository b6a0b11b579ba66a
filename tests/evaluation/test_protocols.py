"""Protocols: what each counts, by hand, against MONAI and against the formulas of the evaluators they follow."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric, SurfaceDiceMetric, SurfaceDistanceMetric
from scipy.spatial.distance import cdist

from hlfd.errors import InputError
from hlfd.evaluation import protocols
from hlfd.evaluation.comparison import measure_of
from hlfd.evaluation.protocols import CaseResult, Protocol, evaluate_case
from hlfd.evaluation.protocols.lits import PENALTY
from hlfd.labels import Labels, consists_of_lesions, organ_and_tumor
from hlfd.volume import Volume

pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call

SPACING = (0.8, 0.8, 2.5)
AFFINE = np.diag([*SPACING, 1.0])
KIDNEY, LIVER = organ_and_tumor("both", "kidney"), organ_and_tumor("both", "liver")


def labels_for(protocol: Protocol) -> Labels:
    return protocol.labels or LIVER


def judge(
    name: str,
    prediction: np.ndarray,
    reference: np.ndarray,
    case: str = "a",
    *,
    affine: np.ndarray = AFFINE,
    labels: Labels | None = None,
    **options,
) -> CaseResult:
    protocol = protocols.load(name, **options)
    volumes = (Volume(v.astype(np.uint8), affine) for v in (prediction, reference))
    return evaluate_case(*volumes, labels or labels_for(protocol), case, protocol=protocol)


def organ(*tumours: tuple[slice, slice, slice]) -> np.ndarray:
    """16 x 16 x 8 with a block of organ and tumours in it."""
    voxels = np.zeros((16, 16, 8), np.uint8)
    voxels[2:14, 2:14, 1:7] = 1
    for tumour in tumours:
        voxels[tumour] = 2
    return voxels


S = slice
ONE, TWO = (S(3, 7), S(3, 7), S(2, 4)), (S(9, 12), S(9, 12), S(3, 6))


def test_names_and_options():
    assert protocols.names() == ["default", "kits19", "kits21", "kits23", "lits", "monai", "released"]
    assert protocols.load("default", tolerance_mm=None).options == {"tolerance_mm": 2.0}
    with pytest.raises(InputError, match=r"no protocol 'lit' \(did you mean 'lits'\?"):
        protocols.load("lit")
    with pytest.raises(InputError, match="protocol 'kits23' has no option 'tolerance_mm'"):
        protocols.load("kits23", tolerance_mm=1.0)
    with pytest.raises(InputError, match=r"protocol 'not_here\.at_all': no module"):
        protocols.load("not_here.at_all")


def test_a_protocol_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "volumes_only.py").write_text(
        "from hlfd.evaluation.overlap import count\n"
        "from hlfd.evaluation.protocols import Protocol, Scores\n"
        "from hlfd.evaluation.protocol import Measured\n"
        "def measure(pair):\n"
        "    voxels = {r: count(*pair.masks(r)) for r in pair.regions}\n"
        "    return Measured({r: Scores(dice=c.both / 7) for r, c in voxels.items()}, voxels)\n"
        "def build():\n"
        "    return Protocol('volumes', ('dice',), '-', lambda labels: labels.regions, measure, lambda cases: {})\n"
    )
    (tmp_path / "ours").mkdir()
    (tmp_path / "volumes_only.py").rename(tmp_path / "ours" / "volumes_only.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert judge("ours.volumes_only", organ(ONE), organ(ONE)).regions["tumor"].dice == 32 / 7


@pytest.mark.parametrize("name", protocols.names())
def test_a_perfect_prediction_is_perfect(name: str):
    got = judge(name, organ(ONE, TWO), organ(ONE, TWO))
    for scores in got.regions.values():
        for metric, value in scores.items():
            if metric not in ("prediction_ml", "reference_ml"):
                best = 1.0 if measure_of(metric).better == "high" else 0.0
                assert value == pytest.approx(best, abs=1e-6), metric


SIZES = ("abs_rvd", "prediction_ml", "reference_ml", "abs_volume_difference_ml")


@pytest.mark.parametrize("name", protocols.names())
def test_a_miss_is_the_worst_there_is_and_never_left_out(name: str):
    """Whatever else is predicted, nothing scores below a miss, but in sizes, which the next test is about."""
    reference = organ(ONE, TWO)
    missed = judge(name, organ(), reference)
    assert missed.voxels["tumor"].empty == "prediction"
    for rest in (organ((S(3, 5), S(3, 5), S(2, 3))), organ((S(12, 14), S(12, 14), S(6, 7))), organ(ONE)):
        other = judge(name, rest, reference)
        for metric, value in missed.regions["tumor"].items():
            better = measure_of(metric).better
            if better == "zero" or metric in SIZES:
                continue
            if name == "released" and metric == "voe":
                assert value == 0.0  # the script's VOE of a miss is perfect: why nobody should use it
                continue
            assert not math.isnan(value), metric
            assert value <= other.regions["tumor"][metric] + 1e-9 if better == "high" else True, metric
            assert value >= other.regions["tumor"][metric] - 1e-9 if better == "low" else True, metric


def test_in_volumes_a_miss_is_not_the_worst():
    """A mean of these improves where a tumour far too large becomes none, so how many were missed stands beside it."""
    reference = organ((S(3, 4), S(3, 4), S(3, 4)))
    missed, everything = (judge("default", p, reference).regions["tumor"] for p in (organ(), 2 * (reference > 0)))
    assert (missed["abs_rvd"], everything["abs_rvd"]) == (1, 863)
    assert (missed["rvd"], everything["rvd"]) == (-1, 863)
    voxel_ml = 0.8 * 0.8 * 2.5 / 1000
    assert missed["abs_volume_difference_ml"] == pytest.approx(voxel_ml)
    assert everything["abs_volume_difference_ml"] == pytest.approx(863 * voxel_ml)
    evaluator = judge("lits", np.where(reference > 0, 2, 0), reference).regions["tumor"]
    assert evaluator["rvd"] == 863 < PENALTY  # LiTS gives a miss 9001, which is worse in all but the tiniest


@pytest.mark.parametrize(
    ("region", "classes", "expected"),
    [
        ("tumor", ["tumor"], True),
        ("Liver_Tumours", ["label_2"], True),
        ("masses", ["tumor", "cyst"], True),
        ("mass", ["label_2", "label_3"], True),
        ("lung metastases", ["lung metastases"], True),
        ("tumor_and_cyst", ["tumor", "cyst"], True),
        ("kidney_and_mass", ["kidney", "tumor", "cyst"], False),
        ("kidney_and_mass", ["label_1", "tumor", "label_3"], False),
        ("kidney_mass", ["kidney", "tumor"], False),
        ("masseter_left", ["masseter_left"], False),
        ("cystic_duct", ["cystic_duct"], False),
        ("liver", ["liver"], False),
    ],
)
def test_which_regions_consist_of_lesions(region: str, classes: list[str], expected: bool):
    assert consists_of_lesions(region, classes) == expected


def test_lesions_are_looked_for_where_there_are_lesions_alone():
    names = ("kidney", "tumor", "cyst")
    regions = {"kidney_and_mass": (1, 2, 3), "mass": (2, 3), "tumor": (2,)}
    case = judge("default", organ(ONE), organ(ONE, TWO), labels=Labels({0: 0, 1: 1, 2: 2, 3: 3}, regions, names))
    assert set(case.lesions) == {"mass", "tumor"}
    assert "lesion_recall" not in case.regions["kidney_and_mass"]
    totals = protocols.load("default").totals([case])
    assert totals["tumor"]["lesion_recall"] == 0.5
    assert "lesion_recall" not in totals["kidney_and_mass"]


@pytest.mark.parametrize("name", ["default", "lits", "kits23", "monai"])
def test_a_sheared_affine_is_measured_as_it_lies(name: str):
    """Gantry tilt, 1 mm a slice: volumes by the determinant, distances between points in the patient."""
    tilted = AFFINE.copy()
    tilted[1, 2] = 1.0
    reference = organ(ONE)
    moved = np.roll(reference, 1, 2)
    got = judge(name, moved, reference, affine=tilted).regions["tumor"]
    plain = judge(name, moved, reference).regions["tumor"]
    assert got["dice"] == plain["dice"]
    if "reference_ml" in got:
        assert got["reference_ml"] == pytest.approx(32 * 0.8 * 0.8 * 2.5 / 1000)
        missed = judge(name, organ(), reference, affine=tilted).regions["tumor"]
        assert missed["hd_mm"] == pytest.approx(math.hypot(16 * 0.8, 16 * 0.8 + 8 * 1.0, 8 * 2.5))
    lesions = judge(name, moved, reference, affine=tilted).lesions.get("tumor", ())
    assert all(x.volume_ml == pytest.approx(32 * 0.8 * 0.8 * 2.5 / 1000) for x in lesions)
    points = [np.argwhere(v == 2) @ tilted[:3, :3].T for v in (moved, reference)]
    between = cdist(*points)  # of all voxels, of which the farthest lies on the border
    for metric in ("hd_mm", "mssd_mm"):
        if metric in got:
            assert got[metric] == pytest.approx(max(between.min(0).max(), between.min(1).max()))


@pytest.mark.parametrize(
    ("name", "both", "invented"),
    [
        (
            "default",
            {"dice": 1, "hd95_mm": 0, "surface_dice": 1, "rvd": 0, "lesion_f1": None},
            {"dice": 0, "rvd": None},
        ),
        ("lits", {"dice": 1, "voe": 0, "assd_mm": 0}, {"dice": 0, "voe": 1, "assd_mm": PENALTY, "rvd": PENALTY}),
        ("kits19", {"dice": 0}, {"dice": 0}),
        ("kits21", {"dice": 1, "surface_dice": 1}, {"dice": 0, "surface_dice": 0}),
        ("kits23", {"dice": 1, "surface_dice": 1}, {"dice": 0, "surface_dice": 0}),
        ("monai", {"dice": None, "hd95_mm": None}, {"dice": None, "hd95_mm": None, "surface_dice": 0}),
        ("released", {"dice": None, "voe": None}, {"dice": None}),
    ],
)
def test_empty_masks(name: str, both: dict, invented: dict):
    for prediction, kind, expected in ((organ(), "both", both), (organ(ONE), "reference", invented)):
        got = judge(name, prediction, organ())
        if name != "released":
            assert got.voxels["tumor"].empty == kind
        for metric, value in expected.items():
            found = got.regions["tumor"][metric]
            assert math.isnan(found) if value is None else found == value, (kind, metric)


def test_the_worst_distance_is_the_diagonal():
    got = judge("default", organ(), organ(ONE)).regions["tumor"]
    assert got["hd95_mm"] == got["assd_mm"] == pytest.approx(math.hypot(16 * 0.8, 16 * 0.8, 8 * 2.5))
    assert judge("monai", organ(), organ(ONE)).regions["tumor"]["hd_mm"] == got["hd_mm"]


# --- lits


def test_lits_lesions_are_counted_by_group():
    # The reference's two tumours are joined by one prediction; one more is invented.
    joined = organ((S(3, 12), S(3, 12), S(2, 6)), (S(13, 14), S(2, 3), S(1, 2)))
    case = judge("lits", joined, organ(ONE, TWO))
    (figures,) = [protocols.load("lits").totals([case])["tumor"]]
    # One group found, 2 components predicted, 2 in the reference.
    assert (figures["lesion_precision"], figures["lesion_recall"]) == (1 / 2, 1 / 2)
    assert (figures["lesion_precision_50"], figures["lesion_recall_50"]) == (0.0, 0.0)
    assert figures["detected_lesion_dice"] == 0.0
    assert figures["detected_lesion_assd_mm"] == PENALTY


def test_lits_scores_only_what_was_detected():
    smaller = (S(3, 6), S(3, 7), S(2, 4))  # 24 of the 32 voxels of ONE
    cases = [judge("lits", organ(smaller), organ(ONE, TWO), "a"), judge("lits", organ(ONE), organ(ONE), "b")]
    tumor = protocols.load("lits").totals(cases)["tumor"]
    assert tumor["lesion_recall_50"] == pytest.approx(2 / 3)
    assert tumor["lesion_precision_50"] == 1.0
    assert tumor["detected_lesion_dice"] == pytest.approx((48 / 56 + 1) / 2)
    assert tumor["detected_lesion_voe"] == pytest.approx((1 - 24 / 32) / 2)
    assert tumor["detected_lesion_rvd"] == pytest.approx(-8 / 32 / 2)
    assert tumor["detected_lesion_rvd_evaluator"] == pytest.approx(8 / 24 / 2)
    assert tumor["detected_lesion_mssd_mm"] == pytest.approx(0.8 / 2)
    assert tumor["dice_global"] == pytest.approx(2 * (24 + 32) / (24 + 32 + 59 + 32))


def test_lits_tumour_burden():
    cases = [judge("lits", organ(ONE), organ(ONE, TWO), "a"), judge("lits", organ(ONE, TWO), organ(ONE), "b")]
    liver = 12 * 12 * 6
    errors = [27 / liver, -27 / liver]
    tumor = protocols.load("lits").totals([*cases, judge("lits", organ(), organ(), "c")])["tumor"]
    assert [c.regions["tumor"]["tumor_burden_error"] for c in cases] == pytest.approx(errors)
    assert tumor["tumor_burden_rmse"] == pytest.approx(math.sqrt(2 * (27 / liver) ** 2 / 3))
    assert tumor["tumor_burden_max_error"] == pytest.approx(27 / liver)
    assert tumor["tumor_burden_max_evaluator"] == pytest.approx(27 / liver)


def test_lits_a_prediction_of_tumour_alone_has_no_liver():
    tumour = np.where(organ(ONE) == 2, 2, 0)
    case = judge("lits", tumour, organ(ONE))
    assert (case.regions["liver"].dice, case.regions["liver"]["assd_mm"]) == (0.0, PENALTY)
    assert case.regions["tumor"].dice == 1.0
    assert case.regions["tumor"]["tumor_burden_error"] == pytest.approx(32 / 864 - PENALTY)


def test_lits_components_touch_by_faces_and_surfaces_by_edges():
    diagonal = organ((S(3, 5), S(3, 5), S(2, 4)), (S(5, 7), S(5, 7), S(2, 4)))
    assert len([x for x in judge("lits", diagonal, diagonal).lesions["tumor"] if x.side == "reference"]) == 2
    assert len([x for x in judge("default", diagonal, diagonal).lesions["tumor"] if x.side == "reference"]) == 1


# --- kits


def test_kits19_composite():
    case = judge("kits19", organ(ONE), organ(ONE, TWO))
    kidney, tumor = 1.0, 2 * 32 / (32 + 59)
    assert {r: s.dice for r, s in case.regions.items()} == pytest.approx({"kidney": kidney, "tumor": tumor})
    totals = protocols.load("kits19").totals([case])
    assert totals["all"]["composite_dice"] == pytest.approx((kidney + tumor) / 2)


@pytest.mark.parametrize(
    ("name", "tolerances"), [("kits21", (2.1781, 1.3930, 1.5363)), ("kits23", (1.0331, 1.1329, 1.1498))]
)
def test_hierarchical_classes_and_tolerances(name: str, tolerances: tuple[float, ...]):
    prediction, reference = organ(ONE), organ(ONE)
    reference[9:12, 9:12, 3:6] = 3  # a cyst
    prediction[9:12, 9:12, 2:6] = 3
    prediction = np.roll(prediction, 1, 0)
    case = judge(name, prediction, reference)
    options = {"include_background": True, "reduction": "none", "use_subvoxels": True}
    for (region, classes), tolerance in zip(
        {"kidney_and_mass": (1, 2, 3), "mass": (2, 3), "tumor": (2,)}.items(), tolerances, strict=True
    ):
        p, r = np.isin(prediction, classes), np.isin(reference, classes)
        assert case.regions[region].dice == pytest.approx(2 * (p & r).sum() / (p.sum() + r.sum()))
        both = [torch.from_numpy(m)[None, None].float() for m in (p, r)]
        expected = SurfaceDiceMetric([tolerance], **options)(*both, spacing=SPACING).item()
        assert case.regions[region]["surface_dice"] == pytest.approx(expected, rel=1e-4), region


def test_classes_that_a_protocol_is_not_made_for():
    with pytest.raises(InputError, match="protocol 'lits': expected the classes liver, tumor, got kidney, tumor"):
        protocols.load("lits").regions(KIDNEY)
    with pytest.raises(InputError, match=r"'kits23': expected the classes kidney, tumor, \[cyst\], got liver, tumor"):
        protocols.load("kits23").regions(LIVER)
    assert protocols.load("kits23").regions(KIDNEY)["mass"] == (2, 3)


# --- monai, released


METRICS: dict[str, Callable[..., object]] = {
    "dice": lambda: DiceMetric(include_background=True, reduction="none"),
    "hd95_mm": lambda: HausdorffDistanceMetric(include_background=True, percentile=95, reduction="none"),
    "hd_mm": lambda: HausdorffDistanceMetric(include_background=True, reduction="none"),
    "assd_mm": lambda: SurfaceDistanceMetric(include_background=True, symmetric=True, reduction="none"),
    "surface_dice": lambda: SurfaceDiceMetric([1.7], include_background=True, reduction="none"),
}


def test_monai_as_monai():
    prediction, reference = organ((S(3, 9), S(4, 7), S(2, 4))), organ(ONE, TWO)
    case = judge("monai", prediction, reference, tolerance_mm=1.7)
    for region, classes in LIVER.regions.items():
        both = [torch.from_numpy(np.isin(v, classes))[None, None].float() for v in (prediction, reference)]
        for metric, build in METRICS.items():
            spacing = {} if metric == "dice" else {"spacing": SPACING}
            assert case.regions[region][metric] == pytest.approx(build()(*both, **spacing).item(), rel=1e-5), metric


def test_released_as_the_script():
    prediction, reference = organ((S(4, 9), S(3, 7), S(0, 8))), organ(ONE)
    got = judge("released", prediction, reference).regions
    for region, least in (("liver", 1), ("tumor", 2)):
        p = g = both = 0
        for k in range(8):  # the slices that its index lists
            if (reference[..., k] >= least).any():
                p += int((prediction[..., k] >= least).sum())
                g += int((reference[..., k] >= least).sum())
                both += int(((prediction[..., k] >= least) & (reference[..., k] >= least)).sum())
        assert got[region].dice == pytest.approx((2 * both + 1) / (p + g + 1))
        assert got[region]["voe"] == pytest.approx(2 * (p - both) / (p + g))
        assert got[region]["rvd"] == pytest.approx(p / g - 1, abs=1e-8)


def test_released_looks_at_axial_slices_wherever_that_axis_is():
    prediction, reference = organ((S(4, 9), S(3, 7), S(0, 8))), organ(ONE)
    protocol = protocols.load("released")
    kits = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-2.5, 0, 0, 0], [0, 0, 0, 1.0]])
    turned = [Volume(np.ascontiguousarray(v.transpose(2, 0, 1)), kits) for v in (prediction, reference)]
    got = evaluate_case(*turned, LIVER, "a", protocol=protocol)
    assert got.regions == judge("released", prediction, reference).regions

"""Who teaches whom in each method, with what weight, and what the options change."""

import pytest
import torch

from hlfd import plugins
from hlfd.distill.distiller import Distiller
from hlfd.distill.features import TapInfo
from hlfd.distill.losses import DistillationLoss, ImportanceMapLoss, PixelLoss
from hlfd.distill.terms import Term
from hlfd.errors import InputError
from hlfd.methods.cwd import ChannelLoss
from hlfd.methods.dist import CorrelationLoss
from hlfd.methods.emkd import RegionAffinityLoss
from hlfd.methods.fitnet import HintLoss
from hlfd.methods.hlfd import ReleasedPixelLoss
from hlfd.methods.ifvd import VariationLoss
from hlfd.methods.pairwise import PairwiseLoss

CLASSES = 3
STRIDES = {"e1": 1, "e2": 2, "e3": 4, "e4": 8, "e5": 16, "d5": 8, "d4": 4, "d3": 2, "d2": 1}
STUDENT = {role: TapInfo(2, stride) for role, stride in STRIDES.items()} | {"logits": TapInfo(CLASSES, 1)}
TEACHER = {role: TapInfo(4, stride) for role, stride in STRIDES.items()} | {"logits": TapInfo(CLASSES, 1)}

Arrow = tuple[type[DistillationLoss], float, str, str]  # loss, weight, student's taps, teacher's taps

ENCODER, DECODER = ("e1", "e2", "e3", "e4", "e5"), ("d5", "d4", "d3", "d2")
TABLES: dict[str, dict[str, Arrow]] = {
    "seg": {},
    "kd": {"kd.logits": (PixelLoss, 1, "logits", "logits")},
    "at": {"at.e5": (ImportanceMapLoss, 1, "e5", "e5")},
    "fitnet": {"fitnet.e3": (HintLoss, 1, "e3", "e3")},
    "pairwise": {"pairwise.e5": (PairwiseLoss, 0.1, "e5", "e5")},
    "ifvd": {"ifvd.e5": (VariationLoss, 10, "e5", "e5")},
    "cwd": {"cwd.logits": (ChannelLoss, 3, "logits", "logits")},
    "dist": {
        "dist.inter": (CorrelationLoss, 1, "logits", "logits"),
        "dist.intra": (CorrelationLoss, 1, "logits", "logits"),
    },
    "emkd": {
        "pixel.logits": (PixelLoss, 0.1, "logits", "logits"),
        "map.e2": (ImportanceMapLoss, 0.9, "e2", "e2"),
        "map.e5": (ImportanceMapLoss, 0.9, "e5", "e5"),
        "region.e2": (RegionAffinityLoss, 0.9, "e2", "e2"),
        "region.e5": (RegionAffinityLoss, 0.9, "e5", "e5"),
    },
    "skd": {
        "pixel.logits": (PixelLoss, 0.1, "logits", "logits"),
        "map.e5": (ImportanceMapLoss, 0.9, "e5", "e5"),
    },
    "dkd_deep": {
        **{f"pixel.{tap}": (PixelLoss, 0.1, tap, tap) for tap in ("logits", *DECODER)},
        **{f"map.{tap}": (ImportanceMapLoss, 0.9, tap, tap) for tap in ENCODER},
    },
    "hifd": {
        **{f"pixel.{tap}": (PixelLoss, 0.1, tap, "logits") for tap in ("logits", "d4", "d2")},
        **{f"map.{tap}": (ImportanceMapLoss, 0.9, tap, "e5") for tap in ("e5", "e2", "e4")},
    },
    "ifd": {
        "pixel.logits": (PixelLoss, 0.1, "logits", "logits"),
        "pixel.decoder": (PixelLoss, 0.1, "d5 d4 d3 d2", "logits"),
        "map.e5": (ImportanceMapLoss, 0.9, "e5", "e5"),
        "map.encoder": (ImportanceMapLoss, 0.9, "e1 e2 e3 e4", "e5"),
    },
    "hlfd": {
        "flfd.e1": (ImportanceMapLoss, 0.45, "e1", "e2 e3 e4"),
        **{f"flfd.{tap}": (ImportanceMapLoss, 0.45, tap, "e5") for tap in ("e2", "e3", "e4")},
        "plfd.d5": (PixelLoss, 0.05, "d5", "d5 d4 d3"),
        **{f"plfd.{tap}": (PixelLoss, 0.05, tap, "logits") for tap in ("d4", "d3", "d2")},
    },
}


def terms(method: str, **options: object) -> dict[str, Term]:
    return {term.name: term for term in plugins.load("methods", method, STUDENT, TEACHER, classes=CLASSES, **options)}


def arrows(found: dict[str, Term]) -> dict[str, Arrow]:
    return {
        name: (type(term.loss), pytest.approx(term.weight), " ".join(term.student), " ".join(term.teacher))
        for name, term in found.items()
    }


def test_every_method_has_its_table_here():
    assert sorted(TABLES) == plugins.names("methods")


@pytest.mark.parametrize("method", TABLES)
def test_who_teaches_whom(method):
    found = arrows(terms(method))
    assert found == TABLES[method]
    assert list(found) == list(TABLES[method])


@pytest.mark.parametrize("method", TABLES)
def test_heads(method):
    """A class head on every side of a pixel term but logits; the hint's goes to the teacher's channels."""
    for name, term in terms(method).items():
        classes = term.loss.head == "classes"
        assert (term.student_head is not None) == ((classes and term.student != ("logits",)) or name == "fitnet.e3")
        assert (term.teacher_head is not None) == (classes and term.teacher != ("logits",)), name
    heads = [term.name for term in Distiller(terms(method).values()).heads()]
    assert heads == {
        "hlfd": ["plfd.d5"],
        "dkd_deep": [f"pixel.{tap}" for tap in DECODER],
    }.get(method, [])


# Options.

OPTIONS = [  # method, option, value, what the terms then have
    ("kd", {"weight": 2}, lambda term: term.weight == 2),
    ("at", {"weight": 2, "power": 2}, lambda term: (term.weight, term.loss.power) == (2, 2)),
    ("fitnet", {"weight": 2}, lambda term: term.weight == 2),
    ("pairwise", {"weight": 2, "nodes": 4}, lambda term: (term.weight, term.loss.nodes) == (2, 4)),
    ("ifvd", {"weight": 2}, lambda term: (term.weight, term.loss.classes) == (2, CLASSES)),
    ("cwd", {"weight": 2, "temperature": 1}, lambda term: (term.weight, term.loss.temperature) == (2, 1)),
    ("dist", {"beta": 2}, lambda term: term.weight == {"dist.inter": 2, "dist.intra": 1}[term.name]),
    ("dist", {"gamma": 2}, lambda term: term.weight == {"dist.inter": 1, "dist.intra": 2}[term.name]),
    ("dist", {}, lambda term: (term.loss.temperature, term.loss.between) == (1, term_between(term.name))),
    ("dist", {"temperature": 4}, lambda term: term.loss.temperature == 4),
    ("emkd", {"alpha": 2}, lambda term: (term.weight == 2) == term.name.startswith("pixel")),
    ("emkd", {"beta1": 2}, lambda term: (term.weight == 2) == term.name.startswith("map")),
    ("emkd", {"beta2": 2}, lambda term: (term.weight == 2) == term.name.startswith("region")),
]
for _method in ("skd", "dkd_deep", "hifd", "ifd"):
    OPTIONS += [
        (_method, {"alpha": 2}, lambda term: (term.weight == 2) == term.name.startswith("pixel")),
        (_method, {"beta": 2}, lambda term: (term.weight == 2) == term.name.startswith("map")),
    ]


def term_between(name: str) -> str:
    return {"dist.inter": "classes", "dist.intra": "pixels"}[name]


@pytest.mark.parametrize(("method", "options", "holds"), OPTIONS, ids=[f"{m}-{'-'.join(o)}" for m, o, _ in OPTIONS])
def test_options(method, options, holds):
    found = terms(method, **options)
    assert list(found) == list(TABLES[method])
    assert all(holds(term) for term in found.values())


@pytest.mark.parametrize("method", ["kd", "skd", "dkd_deep", "hifd", "ifd", "hlfd", "emkd"])
def test_options_of_pixels_and_maps(method):
    for options, expected in (
        ({}, {PixelLoss: (4, "pixels"), ImportanceMapLoss: 4}),
        ({"temperature": 2, "average": "classes"}, {PixelLoss: (2, "classes"), ImportanceMapLoss: 4}),
        *([({"power": 2}, {PixelLoss: (4, "pixels"), ImportanceMapLoss: 2})] if method != "kd" else []),
    ):
        for term in terms(method, **options).values():
            loss = term.loss
            if isinstance(loss, PixelLoss):
                assert (loss.temperature, loss.average) == expected[PixelLoss]
            elif isinstance(loss, ImportanceMapLoss):
                assert loss.power == expected[ImportanceMapLoss]


def test_attention_at_other_taps():
    assert list(terms("at", taps=["e2", "d3"])) == ["at.e2", "at.d3"]
    assert list(terms("at", taps=["e2", "e2"])) == ["at.e2"]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("at", {"taps": []}, "'taps': tuple should have at least 1 item"),
        ("at", {"taps": ["logits"]}, r"'taps\.0': input should be 'e1', 'e2'"),
        ("at", {"power": 0.5}, "'power': input should be greater than or equal to 1"),
        ("pairwise", {"nodes": 0}, "'nodes': input should be greater than 0"),
        ("cwd", {"temperature": 0}, "'temperature': input should be greater than 0"),
        ("ifvd", {"weight": -1}, "'weight': input should be greater than or equal to 0"),
        ("kd", {"average": "patients"}, "'average': input should be 'pixels' or 'classes'"),
        ("hlfd", {"variant": "paper"}, "'variant': input should be 'corrected' or 'released'"),
        ("hlfd", {"feature": False, "pixel": False}, "'hlfd' is left without a term: switch on feature or pixel"),
        ("hlfd", {"unified": False, "individual": False}, "'hlfd' is left without a term"),
    ],
)
def test_what_is_refused(method, options, message):
    with pytest.raises(InputError, match=message):
        terms(method, **options)


# HLFD's parts and the released script.


@pytest.mark.parametrize("variant", ["corrected", "released"])
@pytest.mark.parametrize(
    ("off", "left"),
    [
        (["feature"], ["plfd.d5", "plfd.d4", "plfd.d3", "plfd.d2"]),
        (["pixel"], ["flfd.e1", "flfd.e2", "flfd.e3", "flfd.e4"]),
        (["unified"], ["flfd.e2", "flfd.e3", "flfd.e4", "plfd.d4", "plfd.d3", "plfd.d2"]),
        (["individual"], ["flfd.e1", "plfd.d5"]),
        (["feature", "unified"], ["plfd.d4", "plfd.d3", "plfd.d2"]),
        (["pixel", "individual"], ["flfd.e1"]),
    ],
)
def test_switches_of_hlfd(off, left, variant):
    found = arrows(terms("hlfd", variant=variant, **dict.fromkeys(off, False)))
    whole = arrows(terms("hlfd", variant=variant))
    assert found == {name: whole[name] for name in left}


def released_losses(seed: int) -> dict[str, torch.Tensor]:
    """The released terms of a student that gives the teacher's very features."""
    distiller = Distiller(plugins.load("methods", "hlfd", TEACHER, TEACHER, classes=CLASSES, variant="released"))
    torch.manual_seed(0)
    features = {role: torch.randn(2, tap.channels, 16 // tap.stride, 16 // tap.stride) for role, tap in TEACHER.items()}
    student = {role: feature.clone().requires_grad_() for role, feature in features.items()}
    torch.manual_seed(seed)
    losses = distiller(student, features, torch.zeros(2, 16, 16, dtype=torch.long))
    torch.stack(list(losses.values())).sum().backward()
    losses["d5.grad"] = student["d5"].grad.abs().sum()
    return {name: value.detach() for name, value in losses.items()}


def test_the_released_script_teaches_d5_nothing_and_trains_no_head():
    found = terms("hlfd", variant="released")
    assert not [p for term in found.values() for p in term.parameters()]
    assert [name for name, term in found.items() if isinstance(term.loss, ReleasedPixelLoss)] == [
        "plfd.d4",
        "plfd.d3",
        "plfd.d2",
    ]
    losses = released_losses(0)
    assert float(losses["plfd.d5"]) == float(losses["d5.grad"]) == 0


def test_the_released_pixel_term_is_another_at_each_call_and_the_same_with_the_seed():
    first, again, other = released_losses(1), released_losses(1), released_losses(2)
    for name in ("plfd.d4", "plfd.d3", "plfd.d2"):
        assert first[name] == again[name] != other[name]
        assert first[name] > 0
    assert first["flfd.e2"] == other["flfd.e2"]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_released_pixel_term_is_not_zero_for_the_teacher_s_own_logits(dims):
    logits = 5 * torch.randn(2, 2, *[4] * dims, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    losses = torch.stack([ReleasedPixelLoss()(logits, logits, torch.empty(0)) for _ in range(50)])
    assert float(losses.min()) > 0
    assert float(losses.mean()) > 1
    assert float(losses.std()) > 0.5


def test_the_released_pixel_term_shrinks_with_the_student_s_channels():
    """As `view(-1, 2)` and the mean over its rows do; with two channels it is a mean over pixels."""
    student, teacher = torch.randn(2, 6, 4, 4), torch.randn(2, 3, 4, 4)
    torch.manual_seed(3)
    result = ReleasedPixelLoss(4)(student, teacher, torch.empty(0))
    torch.manual_seed(3)
    bound = 3**-0.5
    weight, bias = torch.empty(6, 3).uniform_(-bound, bound), torch.empty(6, 1).uniform_(-bound, bound)
    projected = torch.einsum("kc,nchw->nkhw", weight, teacher) + bias[..., None]
    torch.testing.assert_close(result, PixelLoss(4)(student, projected, torch.empty(0)) / 3)


@pytest.mark.parametrize("method", ["hlfd", "hifd", "ifd", "dkd_deep"])
def test_pixel_terms_at_the_taps_own_resolution(method):
    built = plugins.load("methods", method, STUDENT, TEACHER, classes=CLASSES, resolution="student")
    pixels = [term.loss for term in built if isinstance(term.loss, PixelLoss)]
    assert pixels
    known = pixels[0].knowledge(torch.randn(1, CLASSES, 8, 8), (4, 4), torch.zeros(1, 8, 8, dtype=torch.long))
    assert known.shape == (1, CLASSES, 4, 4)

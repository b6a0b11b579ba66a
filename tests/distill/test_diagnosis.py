"""A term's pull is its gradient against the task's, at each tap, through later layers too."""

import math

import pytest
import torch
from torch import nn

from hlfd.distill.diagnosis import DROWNS, IDLE, Pull, at_own_taps, balanced, pulls, verdict


def chain() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """image -> e1 -> e2 = 3 e1 -> logits = e2 with its first two pixels swapped."""
    image = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    e1 = 1 * image
    e2 = 3 * e1
    return {"e1": e1, "e2": e2, "logits": e2[[1, 0, 2]]}, image


def test_by_hand():
    features, image = chain()
    task = (features["logits"] * torch.tensor([1.0, 0, 0])).sum()  # gradient at e2: (0, 1, 0), at e1: (0, 3, 0)
    same = 4 * task
    early = (features["e1"] * torch.tensor([0.0, -3, 4])).sum()  # at e1 alone: (0, -3, 4)
    found = pulls(features, task, {"same": same, "early": early, "off": 0 * task, "constant": torch.tensor(1.0)})
    assert found.keys() == {("same", "e1"), ("same", "e2"), ("same", "logits"), ("early", "e1")}
    for role in ("e1", "e2", "logits"):
        assert (found["same", role].ratio, found["same", role].cosine) == pytest.approx((4, 1))
    assert (found["early", "e1"].ratio, found["early", "e1"].cosine) == pytest.approx((5 / 3, -0.6))
    (task + early).backward()  # the graph is still there
    assert image.grad.tolist() == [0, 0, 4]


def test_no_task_no_reading():
    features, _ = chain()
    assert pulls(features, 0 * features["logits"].sum(), {"a": features["e1"].sum()}) == {}


def test_nothing_is_left_behind_in_the_parameters():
    layer = nn.Linear(3, 2)
    e1 = layer(torch.ones(4, 3))
    pulls({"e1": e1}, e1.square().sum(), {"a": e1.sum()})
    assert all(p.grad is None for p in layer.parameters())


def test_a_term_is_judged_at_its_own_taps():
    found = {("a", "e1"): Pull(9, 0), ("a", "e2"): Pull(2, 0), ("a", "e3"): Pull(5, 0), ("b", "e1"): Pull(1, 0)}
    taught = {"a": ("e2", "e3"), "b": ("logits",), "off": ("e1",)}
    assert at_own_taps(found, taught, ["a", "b"]) == {"a": 5, "b": 0}  # b's gradient is zero where it is meant to teach
    assert at_own_taps({}, taught, ["a", "b"]) == {}  # a batch without labels says nothing


@pytest.mark.parametrize(
    ("ratio", "word"),
    [(1.1 * DROWNS, "drowns the task"), (0.9 * DROWNS, None), (1.1 * IDLE, None), (0.9 * IDLE, "does nothing")],
)
def test_verdict(ratio, word):
    text = verdict("flfd.e2", ratio, ("e2",))
    assert (text is None) == (word is None)
    if text:
        assert text.startswith("term flfd.e2: its gradient at the student's e2 is ")
        assert word in text


def test_balance_brings_ratios_to_the_weights():
    factors, weights = {"a": 1.0, "b": 1.0, "off": 1.0, "unread": 3.0}, {"a": 0.5, "b": 2.0, "off": 0.0, "unread": 1.0}
    new = balanced(factors, {"a": 5.0, "b": 0.1, "off": 4.0}, weights)
    assert new == pytest.approx({"a": 0.1, "b": 20, "off": 1, "unread": 3})
    later = balanced({"a": 2.0}, {"a": 32.0}, {"a": 1.0})
    assert later == pytest.approx({"a": 2 / 2})  # 32 ** (1 / 5)
    assert balanced({"a": 1.0}, {"a": 1e-9}, {"a": 1.0}) == {"a": 1e4}


def test_balance_settles_where_the_ratio_is_the_weight():
    factor = 1.0
    for _ in range(40):
        factor = balanced({"a": factor}, {"a": 7 * factor}, {"a": 0.3})["a"]
    assert math.isclose(7 * factor, 0.3)

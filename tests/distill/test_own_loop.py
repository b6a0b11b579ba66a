"""In one's own loop: torch.compile, autocast and several processes give what plain PyTorch gives."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hlfd import Distiller, FrozenTeacher, SegmentationLoss, Tapped, plugins

METHODS = ("hlfd", "cwd", "dist", "emkd", "pairwise", "fitnet")


def network(width: int) -> Tapped:
    torch.manual_seed(width)
    return plugins.load("networks", "unet", in_channels=1, classes=3, dims=2, width=width, norm="instance")


def lesson(method: str) -> tuple[Tapped, FrozenTeacher, Distiller]:
    student, teacher = network(2), FrozenTeacher(network(3))
    torch.manual_seed(0)
    distiller = Distiller.of(method, student, teacher)
    distiller.freeze_heads()
    return student, teacher, distiller


def batch(size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(size, 1, 32, 32, generator=generator)
    return image, torch.randint(3, (size, 32, 32), generator=generator)


def gradients(student: Tapped, distiller: Distiller) -> dict[str, torch.Tensor]:
    both = {**dict(student.named_parameters()), **dict(distiller.named_parameters())}
    return {name: p.grad for name, p in both.items() if p.grad is not None}


def step(student, teacher, distiller, image, target) -> dict[str, float]:
    features = student(image)
    losses = distiller(features, teacher(image), target) | {"task": features["logits"].square().mean()}
    sum(losses.values()).backward()
    return {name: float(value.detach()) for name, value in losses.items()}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
def test_compiled():
    student, teacher, distiller = lesson("hlfd")
    twin, heads = copy.deepcopy(student), copy.deepcopy(distiller)
    image, target = batch()
    expected = step(student, teacher, distiller, image, target)
    compiled = [torch.compile(module, backend="aot_eager") for module in (twin, teacher, heads)]
    for _ in range(2):  # the second call takes what the first compiled
        twin.zero_grad()
        heads.zero_grad()
        assert step(*compiled, image, target) == pytest.approx(expected, rel=1e-5)
    plain = gradients(student, distiller)
    again = gradients(twin, heads)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_terms_are_one_graph(method):
    student, teacher, distiller = lesson(method)
    image, target = batch(2)
    features = {role: f.detach() for role, f in student(image).items()}
    explained = torch._dynamo.explain(distiller)(features, teacher(image), target)
    assert explained.graph_break_count == 0, explained.break_reasons
    distiller.set_epoch(1.5)  # a schedule moves no graph
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_autocast(method, dtype):
    student, teacher, distiller = lesson(method)
    image, target = batch()
    expected = step(student, teacher, distiller, image, target)
    student.zero_grad()
    distiller.zero_grad()
    with torch.autocast("cpu", dtype):
        features = student(image)
        losses = distiller(features, teacher(image), target) | {"task": features["logits"].float().square().mean()}
    assert all(value.dtype == torch.float32 for value in losses.values())
    scale = 1024.0 if dtype == torch.float16 else 1.0  # as a GradScaler would
    (scale * sum(losses.values())).backward()
    for name, value in losses.items():
        assert float(value.detach()) == pytest.approx(expected[name], rel=0.1, abs=2e-3), name
    found = gradients(student, distiller)
    assert {name for name, p in student.named_parameters() if p.requires_grad} <= found.keys()
    assert all(g.isfinite().all() and g.any() for g in found.values())


class Both(torch.nn.Module):
    """What DistributedDataParallel wraps: the student and the heads, which it must both synchronise."""

    def __init__(self, student: Tapped, distiller: Distiller, teacher: FrozenTeacher):
        super().__init__()
        self.student, self.distiller, self.teacher = student, distiller, [teacher]

    def forward(self, image, target):
        features = self.student(image)
        terms = self.distiller(features, self.teacher[0](image), target)
        return sum(terms.values()) + SegmentationLoss(pooled=True)(features["logits"], target)


def one_process(folder: str, rank: int) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    student, teacher, distiller = lesson("hlfd")
    image, target = batch(4)
    mine = slice(2 * rank, 2 * rank + 2)
    parallel = DistributedDataParallel(Both(student, distiller, teacher))  # must live until the backward pass
    loss = parallel(image[mine], target[mine])
    loss.backward()
    torch.save({"loss": loss.detach(), **gradients(student, distiller)}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path):
    command = [sys.executable, __file__, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)]) for rank in (0, 1)]
    assert [process.wait() for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    student, teacher, distiller = lesson("hlfd")
    image, target = batch(4)
    features = student(image)
    losses = distiller(features, teacher(image), target) | {"seg": SegmentationLoss()(features["logits"], target)}
    sum(losses.values()).backward()
    mean = float(first.pop("loss") + second.pop("loss")) / 2
    assert mean == pytest.approx(float(sum(losses.values()).detach()), rel=1e-5)
    alone = gradients(student, distiller)
    assert alone.keys() == first.keys() == second.keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(first[name], gradient, rtol=1e-4, atol=1e-6)
        assert torch.equal(first[name], second[name])


if __name__ == "__main__":
    one_process(sys.argv[1], int(sys.argv[2]))

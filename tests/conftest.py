"""What several test files share: real data, a tiny data set in the KiTS19 layout, a network that thresholds."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs deaf to Ctrl-C
torch.set_num_threads(1)  # tensors here are tiny, and threads that wait for a busy core take a hundred times longer
# Without the phase that explains a failure: it takes minutes.
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)
settings.register_profile("hlfd", deadline=None, max_examples=25, derandomize=True, database=None, phases=PHASES)
settings.load_profile("hlfd")

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"
LONGEST = ("tests/study/test_study.py", "tests/training/test_machine.py", "tests/test_chain.py", "tests/study/")
KITS_AFFINE = np.array([[0, 0, -0.8, 20], [0, -0.8, 0, 30], [-2.5, 0, 0, -40], [0, 0, 0, 1.0]])  # axes I, P, L


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no core waits for another at the end."""
    items.sort(
        key=lambda item: next((i for i, file in enumerate(LONGEST) if item.nodeid.startswith(file)), len(LONGEST))
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real CT that stands beside the project and is no part of it."""
    if not SHARED.is_dir():
        pytest.skip("needs the real CT in ../shared/data, which is not there")
    return SHARED.resolve()


@pytest.fixture(scope="session")
def affines() -> st.SearchStrategy[np.ndarray]:
    """Any affine made of a permutation of the axes, flips, a spacing, a rotation below 20 degrees and an origin."""

    def build(axes: list[int], flips: list[int], spacing_mm: list[float], turn: list[float], origin: list[float]):
        affine = np.eye(4)
        columns = np.eye(3)[:, axes] * flips * spacing_mm
        affine[:3, :3] = Rotation.from_rotvec(turn).as_matrix() @ columns
        affine[:3, 3] = origin
        return affine

    def three(low: float, high: float) -> st.SearchStrategy[list[float]]:
        return st.lists(st.floats(low, high, allow_subnormal=False), min_size=3, max_size=3)

    flips = st.lists(st.sampled_from([-1, 1]), min_size=3, max_size=3)
    return st.builds(build, st.permutations([0, 1, 2]), flips, three(0.4, 5), three(-0.2, 0.2), three(-300, 300))


def make_pair(case: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """HU and labels on axes (slices, rows, columns): a disc (1) with a brighter one in it (2) on noise."""
    random = np.random.default_rng(case)
    k, rows, columns = np.indices(shape)
    distance = np.hypot(rows - shape[1] / 2, columns - shape[2] / 2)
    label = ((distance < 7) & (k > 0)).astype(np.uint8)
    label[(distance < 3) & (k > 1)] = 2
    image = np.array([-60, 40, 120])[label] + random.integers(-30, 30, shape)
    return image.astype(np.int16), label


def write_kits(
    root: Path,
    cases: int = 3,
    *,
    shape: tuple[int, int, int] = (4, 20, 24),
    affine: np.ndarray = KITS_AFFINE,
    suffix: str = ".nii.gz",
) -> Path:
    """Write synthetic cases in the KiTS19 layout; returns ``root``."""
    for case in range(cases):
        folder = root / f"case_{case:05}"
        folder.mkdir(parents=True)
        for name, voxels in zip(("imaging", "segmentation"), make_pair(case, shape), strict=True):
            nib.save(nib.Nifti1Image(voxels, affine), folder / (name + suffix))
    return root


@pytest.fixture
def kits_root(tmp_path: Path) -> Path:
    """Three tiny synthetic cases in the KiTS19 layout, in a folder of the test's own."""
    return write_kits(tmp_path / "kits")


@pytest.fixture(scope="session")
def make_kits() -> Callable[..., Path]:
    """``make_kits(root, cases, shape=..., affine=..., suffix=...)``: write more of them."""
    return write_kits


@pytest.fixture(scope="session")
def threshold():
    """``threshold(preprocess, hu)``: a Segmenter that calls ``tumor`` every pixel above ``hu``.

    With ``organ_hu`` what lies between that and ``hu`` is ``kidney``. With ``stride`` it has a tap of that stride, and
    refuses an image that isn't a multiple of it.
    """
    from hlfd.data.preprocess import Preprocess
    from hlfd.distill.features import Tapped
    from hlfd.labels import organ_and_tumor
    from hlfd.segmenter import Segmenter

    class Pooled(torch.nn.Module):
        def __init__(self, conv: torch.nn.Module, stride: int):
            super().__init__()
            self.conv, self.pool = conv, torch.nn.AvgPool2d(stride)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            pooled = self.pool(image)
            assert all(n == m * self.pool.kernel_size for n, m in zip(image.shape[2:], pooled.shape[2:], strict=True))
            return self.conv(image)

    def build(preprocess: Preprocess, hu: float, stride: int = 1, organ_hu: float | None = None) -> Segmenter:
        low, high = preprocess.window_hu
        limits = torch.tensor([hu] if organ_hu is None else [organ_hu, hu])
        classes = 1 + len(limits)
        conv = torch.nn.Conv2d(1, classes, 1)
        with torch.no_grad():  # each class's logit rises above the one before it at its limit
            conv.weight.copy_(200.0 * torch.arange(classes).reshape(-1, 1, 1, 1))
            conv.bias[0] = 0
            conv.bias[1:] = -200 * ((limits - low) * 2 / (high - low) - 1).cumsum(0)
        tapped = Tapped(Pooled(conv, stride), {"e5": "pool"}, classes=classes, in_channels=1, dims=2)
        return Segmenter(tapped, "none", {}, preprocess, organ_and_tumor("both" if organ_hu else "tumor", "kidney"))

    return build


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def hlfd(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """``hlfd("prepare", path)``: the command line in this process."""
    from hlfd import cli

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["hlfd", *map(str, arguments)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code
        return Ended(code, *capfd.readouterr())

    return run

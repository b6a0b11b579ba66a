"""What a network takes of memory to segment one slice, measured in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from hlfd import machine


def peak_mib(models: Mapping[str, Path], size: Sequence[int]) -> dict[str, float]:
    """Peak memory of each model, MiB: its weights and one image of this size on its way through, batch 1, float32.

    What the process grew by at its highest, so without the program itself, which is the same for all.

    Raises:
        ChildProcessError: such a process failed or was killed.
    """
    command = [sys.executable, "-m", "hlfd.study.memory", "x".join(map(str, size)), *map(str, models.values())]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [float(line) for line in ended.stdout.split()]
    if ended.returncode:
        failed = [*models.values()][len(found)]
        last = ended.stderr.strip().splitlines()[-1:] or [f"exit code {ended.returncode}"]
        raise ChildProcessError(f"{failed}: its memory could not be measured: {last[0]}")
    return dict(zip(models, found, strict=True))


def measure_all(folders: Sequence[Path], size: Sequence[int]) -> int:
    """Print the peak memory of each, measured in a child of this process, which has imported what they share.

    Returns:
        exit code of the first that fails, at which it ends; else 0.
    """
    for shared in ("torch", "hlfd.cost", "hlfd.segmenter"):
        import_module(shared)
    for folder in folders:
        child = os.fork()
        if not child:
            print(measure(folder, size), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            return 1
    return 0


def measure(folder: Path, size: Sequence[int]) -> float:
    """As `peak_mib`, of one model in this process."""
    import torch

    from hlfd.cost import padded_size
    from hlfd.segmenter import Segmenter

    torch.set_num_threads(1)
    with torch.inference_mode():
        once = Segmenter.load(folder).network.eval()  # so that what is imported and set up once is not counted
        once.network(torch.zeros(1, once.in_channels, *padded_size(once, (64,) * once.dims)))
        before = machine.reset_peak_mib()
        network = Segmenter.load(folder).network.eval()
        network.network(torch.zeros(1, network.in_channels, *padded_size(network, size)))
        return max(0.0, machine.peak_mib() - before)


if __name__ == "__main__":
    sys.exit(measure_all([Path(folder) for folder in sys.argv[2:]], [int(n) for n in sys.argv[1].split("x")]))

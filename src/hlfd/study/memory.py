"""What a network takes of memory to segment one slice, measured in a process of its own."""

import multiprocessing
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def peak_mib(models: Mapping[str, Path], plane: tuple[int, int]) -> dict[str, float]:
    """Peak memory of each model, MiB: its weights and one slice of this size on its way through, batch 1, float32.

    What the process grew by at its highest, so without the program itself, which is the same for all.
    """
    context = multiprocessing.get_context("spawn")
    found: dict[str, float] = {}
    for name, folder in models.items():
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_measure, args=(str(folder), plane, send))
        process.start()
        send.close()
        try:
            found[name] = receive.recv()
        except EOFError:
            raise RuntimeError(f"{folder}: its memory could not be measured") from None
        finally:
            process.join()
    return found


def _measure(folder: str, plane: tuple[int, int], send: Any) -> None:
    import torch

    from hlfd.cost import padded_size
    from hlfd.segmenter import Segmenter

    torch.set_num_threads(1)
    with torch.inference_mode():
        torch.nn.functional.conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3))  # what torch sets up once
        before = _reset_peak()
        network = Segmenter.load(Path(folder)).network.eval()
        image = torch.zeros(1, network.in_channels, *padded_size(network, plane))
        network.network(image)
        send.send(max(0.0, _peak() - before))


def _reset_peak() -> float:
    """Forget the peak so far, where the system can; the memory in use, MiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return _peak()


def _peak() -> float:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return most / 2**20 if sys.platform == "darwin" else most / 1024

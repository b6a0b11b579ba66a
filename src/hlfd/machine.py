"""Machine: on what a run computes, which decides its speed and nothing else."""

import ctypes
import gc
import os
import platform
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hlfd.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 2**30  # the C library's own limit on the second is 32 MiB when it adapts by itself; a fixed one may be larger


@dataclass(frozen=True)
class Machine:
    """Devices and processes of one run.

    Attributes:
        devices: processes on this machine, each with its own GPU where there are any; ``batch_size`` is each one's.
        nodes: machines that take part.
        threads: of each process; None: PyTorch's choice, a core each.
        loader_workers: processes that read slices beside each training process; None: two beside a GPU, none beside a
            CPU, which they would only take time from.
        compile: run the teacher through `torch.compile`.
        profile: measure which part of a step takes how long.
    """

    devices: int = 1
    nodes: int = 1
    threads: int | None = None
    loader_workers: int | None = None
    compile: bool = False
    profile: bool = False

    @property
    def processes(self) -> int:
        """All that train together."""
        return self.devices * self.nodes


def processor() -> str:
    """Its name, as the system gives it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def computes_bf16() -> bool:
    """Whether this machine computes bfloat16 faster than float32: a GPU, or a processor with instructions for it."""
    import torch

    known = torch.cpu.get_capabilities()
    return torch.cuda.is_available() or any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def first_process() -> bool:
    """Whether this is the first, or the only, process of a run started by torchrun, SLURM or Lightning."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def require_started(machine: Machine) -> None:
    """Raise `InputError` where a launcher has started another number of processes than the machine is said to have.

    torchrun, srun and Lightning say in the environment how many there are; in a shell that srun opened nobody does.
    """
    given = os.environ
    started = given.get("WORLD_SIZE") if "LOCAL_RANK" in given else None
    if started is None and given.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        started = given.get("SLURM_STEP_NUM_TASKS")
    said = f"--devices {machine.devices}, --num-nodes {machine.nodes}"
    if started is not None and int(started) != machine.processes:
        raise InputError(f"{said}: expected {machine.processes} processes, the launcher has started {started}")
    if started is None and machine.nodes > 1 and "MASTER_ADDR" not in given:
        raise InputError(f"{said}: expected to be started on every machine, by torchrun or srun")


def keep_freed_memory() -> bool:
    """Let the C library keep large blocks that were freed, instead of giving them back to the system at once.

    A feature map's memory then comes without the system having to clear it page by page. Costs at most `KEPT` bytes
    more, of what was in use before anyway.

    Returns:
        whether the C library is one that can (glibc).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))


def peak_mib() -> float:
    """The most memory that this process had, MiB.

    Not `getrusage`'s where the system tells better: on Linux that begins with what the process had that started it.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return most / 2**20 if sys.platform == "darwin" else most / 1024


def reset_peak_mib() -> float:
    """Forget the peak so far, where the system can, and give back what was freed, which would hide what comes.

    Returns:
        the memory in use, MiB.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


@contextmanager
def program_start() -> Generator[None]:
    """While a program imports and opens what it keeps until its end: the garbage collector doesn't look through it.

    Not now, and not later either, nor at the end: half a million objects of PyTorch's modules take it seconds.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()

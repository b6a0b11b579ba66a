"""dry_run: run a network for its shapes alone."""

import copy
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from hlfd.errors import InputError

Answer = TypeVar("Answer")
Size = tuple[int, ...]

SIZES = (64, 96, 128, 32)
"""Pixels an axis of the image, tried in this order."""


def dry_run(
    network: nn.Module,
    run: Callable[[nn.Module, Tensor], Answer],
    *,
    in_channels: int,
    dims: int,
    sizes: Sequence[int | Size] = SIZES,
    computed: bool = False,
) -> tuple[Answer, Size]:
    """``run(copy of the network, image)`` in eval mode, and the size of the first image that the network accepts.

    Nothing is computed (it runs on the meta device) unless the network can't do without values; its own state stays.

    Args:
        sizes: of the image, tried in this order; a number is that many pixels an axis.
        computed: compute at once, for a small network: getting ready for shapes alone takes PyTorch two seconds.

    Raises:
        InputError: no size is accepted, or a package is missing that the network needs.
    """
    shapes = [(size,) * dims if isinstance(size, int) else size for size in sizes]
    devices, first = ["cpu" if computed else "meta"], None
    for device in devices:
        # The copy leaves the network's own state and mode alone.
        probe = copy.deepcopy(network).to(device).eval()
        for shape in shapes:
            try:
                with torch.no_grad(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    return run(probe, torch.zeros(1, in_channels, *shape, device=device)), shape
            except ImportError as error:
                raise missing_package(error) from None
            except Exception as error:  # it is anyone's network
                first = first or error
                if device == "meta" and (isinstance(error, NotImplementedError) or "meta" in str(error).lower()):
                    devices.append("cpu")
                    break
    if isinstance(first, InputError):
        raise first
    tried = f"images of {times(shapes[0])}" + (f" (or of {', '.join(map(times, shapes[1:]))})" if shapes[1:] else "")
    raise InputError(
        f"the network can't be run on {tried} pixels and {in_channels} channel(s): {one_line(first)}"
    ) from None


def missing_package(error: ImportError) -> InputError:
    """The `InputError` for a network whose code imports what is not installed."""
    named = re.search(r"No module named '([\w.]+)'", str(error))
    package = error.name or (named.group(1) if named else None)
    if package is None:
        return InputError(f"the network's code can't be imported: {one_line(error)}")
    return InputError(f"the network needs the package '{package}', which is not installed: pip install {package}")


def one_line(error: Exception | None) -> str:
    """Type and message of an exception, at most 300 letters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def times(numbers: Sequence[int]) -> str:
    """``64 x 96``."""
    return " x ".join(map(str, numbers))

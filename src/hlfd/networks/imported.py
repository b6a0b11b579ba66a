"""Any torch.nn.Module that is installed, by the dotted path of its class: ``my_package.nets.Net``."""

import importlib
import inspect
from typing import Any

from pydantic import PositiveInt
from torch import nn

from hlfd import plugins
from hlfd.distill.discovery import tapped
from hlfd.distill.dry_run import missing_package
from hlfd.distill.features import Tapped
from hlfd.errors import InputError, nearest
from hlfd.networks import _classes
from hlfd.networks._blocks import Dims


def build(
    argument: str, /, *, in_channels: PositiveInt, classes: PositiveInt, dims: Dims = 2, **options: Any
) -> Tapped:
    """Any torch.nn.Module that can be imported: name is the dotted path of its class, ``my_package.nets.Net``.

    Its constructor gets the options, and what the recipe decides under the names it declares:
    the image's channels as in_channels, in_chans, input_channels or n_channels;
    the number of classes with background as classes, num_classes, n_classes, out_channels or output_channels;
    the spatial axes as dims, spatial_dims, dimensions or ndim.
    What it doesn't declare it must have fixed itself; a dry run checks the logits. An option img_size, image_size or
    input_size is taken for the only image size that the network accepts.

    Taps are proposed by a dry run; see them with ``hlfd taps my_package.nets.Net``, change them with the option
    ``taps``. The package must be installed, or on PYTHONPATH.

    Args:
        argument: the dotted path.
        in_channels: channels of the image.
        classes: number of classes with background.
        dims: spatial axes of the image.
        options: of the constructor.

    Raises:
        InputError: nothing there, or no class of torch.nn.Module; an option that it doesn't have; a network that gives
            no logits at the image's size.
    """
    network = _find(argument)
    _classes.check(network, options)
    made = _classes.construct(network, options, in_channels=in_channels, classes=classes, dims=dims)
    size = _classes.only_size(network, options, dims)
    return tapped(made, in_channels=in_channels, classes=classes, dims=dims, size=size)


def check(argument: str, options: dict[str, Any]) -> None:
    """Raise `InputError` for a class or an option that doesn't exist, without building anything."""
    _classes.check(_find(argument), options)


def defaults(argument: str) -> dict[str, Any]:
    """The options of the constructor with their defaults; ``...`` for one that must be given."""
    return _classes.defaults(_find(argument))


def _find(path: str) -> type[nn.Module]:
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if error.name is None or not f"{path}.".startswith(f"{error.name}."):
                raise missing_package(error) from error
            continue
        except ImportError as error:
            raise missing_package(error) from error
        except Exception as error:  # anyone's code
            raise InputError(plugins.import_problem(error, ".".join(parts[:end]))) from error
        break
    else:
        raise InputError("no module of that name can be imported")
    for i, part in enumerate(parts[end:], end):
        if not hasattr(found, part):
            there = [n for n, c in vars(found).items() if inspect.isclass(c) and issubclass(c, nn.Module)]
            raise InputError(f"{'.'.join(parts[:i])} has no '{part}'{nearest(part, there)}")
        found = getattr(found, part)
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        what = found.__name__ if inspect.isclass(found) else type(found).__name__
        raise InputError(f"expected a class derived from torch.nn.Module, got {what}")
    return found

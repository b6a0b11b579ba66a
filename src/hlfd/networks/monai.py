"""Any segmentation network of MONAI, by the name of its class: ``monai:SegResNet``."""

import inspect
from typing import Any

from pydantic import PositiveInt
from torch import nn

from hlfd.distill.discovery import tapped
from hlfd.distill.features import Tapped
from hlfd.errors import InputError, nearest
from hlfd.networks import _classes
from hlfd.networks._blocks import Dims

_CHANNELS = (16, 32, 64, 128, 256)

NETWORKS = (
    "AttentionUnet",
    "BasicUNet",
    "BasicUNetPlusPlus",
    "DynUNet",
    "FlexibleUNet",
    "HighResNet",
    "MedNeXt",
    "SegResNet",
    "SegResNetDS",
    "SwinUNETR",
    "UNETR",
    "UNet",
    "VNet",
)
"""Those that are tested here. Any other class with input channels and classes may do as well: the dry run decides."""


def build(
    argument: str, /, *, in_channels: PositiveInt, classes: PositiveInt, dims: Dims = 2, **options: Any
) -> Tapped:
    """Any segmentation network of MONAI (arXiv 2211.02701): monai:NAME, a class of monai.networks.nets.

    The options are those of the class. Its own in_channels, out_channels and spatial_dims are filled in. Where it has
    no default: UNet and AttentionUnet have channels 16, 32, 64, 128, 256 and strides 2 (UNet: two residual units a
    level), DynUNet five levels of kernel 3 and stride 2, FlexibleUNet the backbone efficientnet-b0 and VNet the
    dropout of its dims. UNETR needs ``img_size``, the only image size that it accepts. No pretrained weights are
    fetched. Of deep supervision the finest output counts, as the logits. SwinUNETR needs the package einops.

    Taps are proposed by a dry run; see them with ``hlfd taps monai:NAME``, change them with the option ``taps``.

    Args:
        argument: the class.
        in_channels: channels of the image.
        classes: number of classes with background.
        dims: spatial axes of the image.
        options: of the class.

    Raises:
        InputError: no such class or option; a package that the class needs and that is not installed; a network that
            gives no logits at the image's size.
    """
    network = _find(argument)
    check(argument, options)
    full = _filled(network, options, dims)
    made = _classes.construct(network, full, in_channels=in_channels, classes=classes, dims=dims)
    size = _classes.only_size(network, full, dims)
    return tapped(made, in_channels=in_channels, classes=classes, dims=dims, size=size)


def definition(argument: str, *, in_channels: int, classes: int, dims: int, options: dict[str, Any]) -> dict[str, Any]:
    """The class and its arguments, as a MONAI configuration names them."""
    network = _find(argument)
    given = {"in_channels": in_channels, "classes": classes, "dims": dims}
    filled = {name: given[what] for what, name in _classes.filled_in(network).items()}
    return {"_target_": f"monai.networks.nets.{network.__name__}", **filled, **_filled(network, options, dims)}


def check(argument: str, options: dict[str, Any]) -> None:
    """Raise `InputError` for a class or an option that doesn't exist, without building anything."""
    network = _find(argument)
    _classes.check(network, _filled(network, options, 2))
    if options.get("pretrained"):
        raise InputError("pretrained: weights are not fetched from the network, expected false")
    if options.get("deep_supervision") and network.__name__ == "BasicUNetPlusPlus":
        raise InputError("deep_supervision: its first output would be the shallowest, not the final; expected false")


def defaults(argument: str) -> dict[str, Any]:
    """The options of the class, with the defaults it gets here; ``...`` for one that must be given."""
    network = _find(argument)
    return _classes.defaults(network) | _filled(network, {}, 2)


def _filled(network: type[nn.Module], options: dict[str, Any], dims: int) -> dict[str, Any]:
    """The options, with a default where the class has none or one for another number of axes."""
    mine: dict[str, Any] = {}
    match network.__name__:
        case "UNet" | "AttentionUnet":
            channels = _by_level(options, "channels", _CHANNELS)
            mine = {"channels": channels, "strides": (2,) * (len(channels) - 1)}
            if network.__name__ == "UNet":
                mine["num_res_units"] = 2
        case "DynUNet":
            strides = _by_level(options, "strides", (1, 2, 2, 2, 2))
            mine = {"strides": strides, "kernel_size": (3,) * len(strides), "upsample_kernel_size": strides[1:]}
        case "FlexibleUNet":
            mine = {"backbone": "efficientnet-b0"}
        case "VNet":
            mine = {"dropout_dim": dims}
        case _:
            pass
    return mine | options


def _by_level(options: dict[str, Any], key: str, default: tuple[int, ...]) -> tuple[Any, ...]:
    value: Any = options.get(key, default)
    if not isinstance(value, list | tuple):
        raise InputError(f"'{key}': expected a list, one for each level, got {value!r}")
    return (*value,)


def _find(name: str) -> type[nn.Module]:
    from monai.networks import nets  # slow, and not needed to list the plug-ins

    found = getattr(nets, name, None)
    if inspect.isclass(found) and issubclass(found, nn.Module) and _segments(found):
        return found
    what = "is no network with input channels and classes" if found is not None else "doesn't exist"
    raise InputError(f"monai.networks.nets.{name} {what}{nearest(name, NETWORKS)}")


def _segments(network: type[nn.Module]) -> bool:
    return {"in_channels", "classes"} <= _classes.filled_in(network).keys()

"""plans.json and dataset.json of nnU-Net v2, and the network that they describe."""

from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, Field, PositiveFloat
from torch import nn

from hlfd.errors import InputError, nearest
from hlfd.teachers._files import described, read_config

LIBRARY = "dynamic_network_architectures"
NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
BLOCKS = ("BasicBlockD", "BottleneckD")
LAYERS = {
    f"{name}{dims}d": getattr(nn, f"{name}{dims}d")
    for name in ("Conv", "InstanceNorm", "BatchNorm", "Dropout")
    for dims in (2, 3)
} | {layer.__name__: layer for layer in (nn.LeakyReLU, nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.PReLU, nn.Dropout)}


class Properties(BaseModel):
    """Intensities of the foreground of the training set, HU."""

    percentile_00_5: float
    percentile_99_5: float
    mean: float
    std: float


class Plans(BaseModel):
    """What is needed of plans.json."""

    dataset_name: str
    transpose_forward: list[int]
    image_reader_writer: str = ""
    configurations: dict[str, dict[str, Any]]
    intensities: dict[str, Properties] = Field(
        validation_alias=AliasChoices(
            "foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality"
        )
    )


class Architecture(BaseModel):
    """The network: class and arguments, in plans since nnU-Net 2.3."""

    network_class_name: str
    arch_kwargs: dict[str, Any]
    requires_import: list[str] = Field(alias="_kw_requires_import")


class OldArchitecture(BaseModel):
    """The network in plans of before nnU-Net 2.3, where most of it was implied."""

    network: str = Field(alias="UNet_class_name")
    base_features: int = Field(alias="UNet_base_num_features")
    max_features: int = Field(alias="unet_max_num_features")
    kernel_sizes: list[list[int]] = Field(alias="conv_kernel_sizes")
    strides: list[list[int]] = Field(alias="pool_op_kernel_sizes")
    encoder_convs: list[int] = Field(alias="n_conv_per_stage_encoder")
    decoder_convs: list[int] = Field(alias="n_conv_per_stage_decoder")

    def architecture(self) -> Architecture:
        """As the newer plans would say it."""
        dims = len(self.kernel_sizes[0])
        stages = len(self.encoder_convs)
        per_stage = "n_conv_per_stage" if self.network == "PlainConvUNet" else "n_blocks_per_stage"
        return Architecture(
            network_class_name=f"{LIBRARY}.{self.network}",
            arch_kwargs={
                "n_stages": stages,
                "features_per_stage": [min(self.base_features * 2**i, self.max_features) for i in range(stages)],
                "conv_op": f"torch.nn.Conv{dims}d",
                "kernel_sizes": self.kernel_sizes,
                "strides": self.strides,
                per_stage: self.encoder_convs,
                "n_conv_per_stage_decoder": self.decoder_convs,
                "conv_bias": True,
                "norm_op": f"torch.nn.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            _kw_requires_import=["conv_op", "norm_op", "dropout_op", "nonlin"],
        )


class Configuration(BaseModel):
    """One of the plans' configurations: ``2d``, ``3d_fullres``, ``3d_lowres``."""

    spacing: list[PositiveFloat] = Field(min_length=2, max_length=3)
    normalization_schemes: list[str]
    previous_stage: str | None = None
    architecture: Architecture


def read_plans(path: Path) -> Plans:
    """Read plans.json."""
    return described(read_config(path), Plans, str(path))


def configuration(plans: Plans, name: str, path: Path) -> Configuration:
    """The configuration ``name``, with what it inherits.

    Raises:
        InputError: there is none of that name, it inherits from itself, or something is missing in it.
    """
    values: dict[str, Any] = {}
    seen: list[str] = []
    ancestor: Any = name
    while ancestor is not None:
        if not isinstance(ancestor, str) or ancestor not in plans.configurations:
            where = f"{path}: there is no configuration '{ancestor}'"
            raise InputError(f"{where}{nearest(str(ancestor), plans.configurations)}")
        if ancestor in seen:
            raise InputError(f"{path}: configuration '{name}' inherits from itself ({' -> '.join([*seen, ancestor])})")
        seen.append(ancestor)
        values = {**plans.configurations[ancestor], **values}
        ancestor = plans.configurations[ancestor].get("inherits_from")
    where = f"{path}: configurations.{name}"
    if "architecture" not in values:
        values["architecture"] = described(values, OldArchitecture, where).architecture()
    return described(values, Configuration, where)


def class_names(path: Path) -> tuple[str, ...]:
    """Foreground classes of dataset.json, in order.

    Raises:
        InputError: regions, which overlap; values that aren't 0, 1, 2, ...; an image that isn't CT alone.
    """
    values = read_config(path)
    channels = values.get("channel_names", values.get("modality"))
    if not isinstance(channels, dict) or [str(name).casefold() for name in channels.values()] != ["ct"]:
        raise InputError(f"{path}: channel_names: expected one modality, {{'0': 'CT'}}, got {channels}")
    labels = values.get("labels")
    if not isinstance(labels, dict):
        raise InputError(f"{path}: labels: expected names with values, got {labels!r}")
    values_of = {str(name): value if isinstance(value, list) else [value] for name, value in labels.items()}
    values_of.pop("ignore", None)  # no class of the network's
    for name, several in values_of.items():
        if len(several) > 1:
            raise InputError(
                f"{path}: labels.{name}: regions that overlap ({several}) are not supported, only classes that exclude "
                "each other"
            )
    by_value = {value[0]: name for name, value in values_of.items() if value and isinstance(value[0], int)}
    if not by_value or sorted(by_value) != list(range(len(values_of))):
        raise InputError(f"{path}: labels: expected values 0 (background), 1, 2, ..., got {labels}")
    return tuple(by_value[value] for value in range(1, len(by_value)))


def build_network(architecture: Architecture, classes: int, where: str) -> nn.Module:
    """The described network with fresh weights; image of one channel in, logits out, no deep supervision.

    Raises:
        InputError: the library is missing, a class that isn't allowed, arguments the class can't take.
    """
    library, _, name = architecture.network_class_name.rpartition(".")
    if library.split(".")[0] != LIBRARY or name not in NETWORKS:
        got = architecture.network_class_name
        raise InputError(f"{where}.network_class_name: expected {' or '.join(NETWORKS)} of {LIBRARY}, got '{got}'")
    try:
        from dynamic_network_architectures.architectures import unet
        from dynamic_network_architectures.building_blocks import residual
    except ImportError:
        raise InputError(f"{where}: the network needs {LIBRARY}: pip install 'hlfd[nnunet]'") from None
    kwargs = dict(architecture.arch_kwargs)
    allowed = LAYERS | {f"{block}": getattr(residual, block) for block in BLOCKS}
    for key in architecture.requires_import:
        if (wanted := kwargs.get(key)) is None:
            continue
        package, _, layer = str(wanted).rpartition(".")
        home = LIBRARY if layer in BLOCKS else "torch.nn"
        if layer not in allowed or not f"{package}.".startswith(f"{home}."):
            raise InputError(f"{where}.arch_kwargs.{key}: '{wanted}' is not allowed{nearest(layer, allowed)}")
        kwargs[key] = allowed[layer]
    try:
        return getattr(unet, name)(input_channels=1, num_classes=classes, deep_supervision=False, **kwargs)
    except (TypeError, ValueError, AssertionError, AttributeError, IndexError, KeyError, RuntimeError) as error:
        problem = " ".join(str(error).split())[:200]
        raise InputError(f"{where}.arch_kwargs: {name} can't be built: {problem}") from None

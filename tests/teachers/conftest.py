"""Model folders as nnU-Net and MONAI write them, small."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from dynamic_network_architectures.architectures import unet
from monai.networks import nets
from torch import nn


@dataclass
class Made:
    """A model folder, and the network whose weights are in it."""

    folder: Path
    network: nn.Module

    def edit(self, name: str, change: Callable[[Any], Any]) -> None:
        """Change what a JSON file says: ``change`` is given the values and alters them."""
        values = json.loads((self.folder / name).read_text())
        change(values)
        (self.folder / name).write_text(json.dumps(values))

    def resave(self, name: str, change: Callable[[Any], Any]) -> None:
        """Change what a checkpoint holds: ``change`` returns it."""
        values = torch.load(self.folder / name, weights_only=False)
        torch.save(change(values), self.folder / name)


class Runs:
    """Pickled, it wants to run a command when it is read."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def runs_code(tmp_path: Path) -> Runs:
    """An object that makes ``marker`` when a pickle of it is read."""
    return Runs(tmp_path / "marker")


def nnunet_network(kind: str, dims: int, classes: int, features: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(1)
    stages = len(features)
    convs = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    return getattr(unet, kind)(
        input_channels=1,
        n_stages=stages,
        features_per_stage=list(features),
        conv_op={2: nn.Conv2d, 3: nn.Conv3d}[dims],
        kernel_sizes=[[3] * dims] * stages,
        strides=strides(dims, stages),
        **{convs: [1] * stages},
        num_classes=classes,
        n_conv_per_stage_decoder=[1] * (stages - 1),
        conv_bias=True,
        norm_op={2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims],
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    ).eval()


def strides(dims: int, stages: int) -> list[list[int]]:
    """In 3D, the first step is in plane alone, as nnU-Net has it for thick slices."""
    return [[1] * dims] + [[1 if dims == 3 and stage == 0 else 2, *[2] * (dims - 1)] for stage in range(stages - 1)]


def architecture(kind: str, dims: int, features: tuple[int, ...]) -> dict[str, Any]:
    stages = len(features)
    convs = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(features),
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": [[3] * dims] * stages,
            "strides": strides(dims, stages),
            convs: [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


@pytest.fixture
def nnunet(tmp_path: Path) -> Callable[..., Made]:
    """``nnunet(...)``: a result folder."""

    def write(
        kind: str = "PlainConvUNet",
        dims: int = 2,
        *,
        features: tuple[int, ...] = (4, 6, 8, 10, 12),
        configuration: str = "",
        mirrored: Any = ...,
    ) -> Made:
        configuration = configuration or {2: "2d", 3: "3d_fullres"}[dims]
        folder = tmp_path / "Dataset220_KiTS" / f"nnUNetTrainer__nnUNetPlans__{configuration}"
        (folder / "fold_0").mkdir(parents=True)
        seen = {"max": 3071.0, "mean": 100.5, "median": 103.0, "min": -1015.0, "std": 75.25}
        plans = {
            "dataset_name": "Dataset220_KiTS",
            "plans_name": "nnUNetPlans",
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {
                configuration: {
                    "data_identifier": f"nnUNetPlans_{configuration}",
                    "batch_size": 2,
                    "patch_size": [64] * dims,
                    "spacing": [3.0, 0.78, 0.78][-dims:],
                    "normalization_schemes": ["CTNormalization"],
                    "use_mask_for_norm": [False],
                    "architecture": architecture(kind, dims, features),
                }
            },
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {
                "0": {**seen, "percentile_00_5": -58.0, "percentile_99_5": 302.0}
            },
        }
        dataset = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "kidney": 1, "tumor": 2},
            "numTraining": 489,
            "file_ending": ".nii.gz",
        }
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps(dataset))
        network = nnunet_network(kind, dims, 3, features)
        optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True)
        checkpoint = {
            "network_weights": network.state_dict(),
            "optimizer_state": optimizer.state_dict(),
            "grad_scaler_state": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
            "logging": {
                "mean_fg_dice": [np.float64(0.5)],
                "ema_fg_dice": [np.float64(0.5)],
                "dice_per_class_or_region": [[np.float32(0.25), np.float64(0.75)]],
                "train_losses": [np.float32(-0.5)],
                "lrs": [0.01],
                "epoch_start_timestamps": [1.5],
            },
            "_best_ema": np.float64(0.5),
            "current_epoch": 1000,
            "init_args": {
                "plans": plans,
                "configuration": configuration,
                "fold": 0,
                "dataset_json": dataset,
                "unpack_dataset": True,
                "device": torch.device("cpu"),
            },
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": tuple(range(dims)) if mirrored is ... else mirrored,
        }
        torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
        return Made(folder, network)

    return write


def segresnet(levels: int) -> dict[str, Any]:
    """Arguments of a SegResNet with strides up to 2 ** (levels - 1)."""
    return {
        "init_filters": 4,
        "in_channels": 1,
        "blocks_down": [1] * levels,
        "blocks_up": [1] * (levels - 1),
        "upsample_mode": "deconv",
        "norm": ["GROUP", {"num_groups": 2}],
    }


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Made]:
    """``bundle(...)``: a MONAI bundle."""

    def write(dims: int = 3, suffix: str = "json", config: str = "inference", levels: int = 2) -> Made:
        folder = tmp_path / "liver_ct_segmentation"
        (folder / "configs").mkdir(parents=True)
        (folder / "models").mkdir()
        image = {
            "type": "image",
            "format": "hounsfield",
            "modality": "CT",
            "num_channels": 1,
            "spatial_shape": [32] * dims,
            "dtype": "float32",
            "value_range": [0, 1],
            "is_patch_data": True,
            "channel_def": {"0": "image"},
        }
        names = {"0": "background", "1": "liver", "2": "tumor"}
        pred = {**image, "format": "segmentation", "num_channels": 3, "channel_def": names}
        metadata = {
            "version": "0.2.0",
            "monai_version": "1.4.0",
            "task": "Decathlon liver segmentation",
            "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
        }
        key, arguments = {"keys": "@image_key"}, segresnet(levels)
        window = {"a_min": -57, "a_max": 164, "b_min": 0.0, "b_max": 1.0, "clip": True}
        transforms = [
            {"_target_": "LoadImaged", **key},
            {"_target_": "EnsureChannelFirstd", **key},
            {"_target_": "Orientationd", **key, "axcodes": "RAS"},
            {"_target_": "Spacingd", **key, "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
            {"_target_": "ScaleIntensityRanged", **key, **window},
            {"_target_": "EnsureTyped", **key},
        ]
        inference = {
            "imports": ["$import glob"],
            "bundle_root": ".",
            "image_key": "image",
            "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
            "channels": {"out": 3},
            "network_def": {
                "_target_": "SegResNet",
                "spatial_dims": dims,
                "out_channels": "@channels#out",
                **arguments,
            },
            "network": "$@network_def.to(@device)",
            "preprocessing": {"_target_": "Compose", "transforms": transforms},
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
            },
            "evaluator": {"_target_": "SupervisedEvaluator", "network": "@network", "amp": True},
        }
        (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
        text = json.dumps(inference) if suffix == "json" else yaml.safe_dump(inference)
        (folder / "configs" / f"{config}.{suffix}").write_text(text)
        torch.manual_seed(2)
        network = nets.SegResNet(spatial_dims=dims, out_channels=3, **arguments).eval()
        torch.save(network.state_dict(), folder / "models" / "model.pt")
        return Made(folder, network)

    return write

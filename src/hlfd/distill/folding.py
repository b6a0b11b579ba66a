"""Folding: batch norms of a frozen network become part of the convolutions before them."""

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hlfd.distill.dry_run import SIZES, dry_run
from hlfd.distill.features import Features, Tapped

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
TOLERANCE = 1e-3
"""The largest change of a feature, beside its largest value, that counts as rounding."""


def fold_batch_norms(tapped: Tapped) -> int:
    """Make each batch norm that reads a convolution's output part of the convolution, in place.

    In eval mode a batch norm is a factor and a shift for each channel, which weights and bias can hold: the features
    stay the same to rounding (1e-6 to 1e-4 of their largest value, by depth), and a pass over memory is saved for each.
    Only for networks that are not trained any more: it is put into eval mode.

    What a tap reads, a convolution that runs more than once or shares its weights stays as it is. The features of a
    random image are compared before and after; if one differs by more than rounding (somebody else reads the
    convolution's output), all is as before.

    Returns:
        how many were folded.
    """
    pairs, size = _pairs(tapped)
    tapped.eval()
    if not pairs:
        return 0
    parameter = next(tapped.parameters())
    image = torch.rand(1, tapped.in_channels, *size, generator=torch.Generator().manual_seed(0)).to(parameter)
    before = _features(tapped, image)
    network = tapped.network
    originals = {name: network.get_submodule(name) for pair in pairs for name in pair}
    for conv_name, norm_name in pairs:
        conv, norm = originals[conv_name], originals[norm_name]
        transposed = isinstance(conv, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
        folded = fuse_conv_bn_eval(conv, norm, transpose=transposed)  # pyright: ignore[reportArgumentType]
        network.set_submodule(conv_name, folded.requires_grad_(False))
        network.set_submodule(norm_name, nn.Identity())
    if not _same(before, _features(tapped, image)):
        for name, module in originals.items():
            network.set_submodule(name, module)
        pairs = []
    return len(pairs)


def _pairs(tapped: Tapped) -> tuple[list[tuple[str, str]], tuple[int, ...]]:
    """Names of each convolution and the batch norm that reads its output, and the image size they were found at."""
    tapped_names, shared = set(tapped.taps.values()), _with_shared_weights(tapped.network)

    def run(probe: nn.Module, image: Tensor) -> list[tuple[str, str]]:
        assert isinstance(probe, Tapped)
        # An output's id is its own while it lives.
        outputs: dict[int, tuple[str, Tensor]] = {}
        calls: dict[str, int] = {}
        found: list[tuple[str, str]] = []

        def after(name: str):
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                calls[name] = calls.get(name, 0) + 1
                if type(module) in _CONVOLUTIONS:
                    outputs[id(output)] = name, output
                elif inputs and id(inputs[0]) in outputs:
                    found.append((outputs[id(inputs[0])][0], name))

            return hook

        handles = [
            module.register_forward_hook(after(name))
            for name, module in probe.network.named_modules()
            if type(module) in _CONVOLUTIONS or (type(module) in _NORMS and module.track_running_stats)
        ]
        try:
            probe(image)
        finally:
            for handle in handles:
                handle.remove()
        once = [pair for pair in found if calls[pair[0]] == calls[pair[1]] == 1]
        return [pair for pair in once if pair[0] not in tapped_names and not shared & {*pair}]

    sizes = (tapped.size,) if tapped.size else (32, *SIZES)
    return dry_run(tapped, run, in_channels=tapped.in_channels, dims=tapped.dims, sizes=sizes, computed=True)


def _with_shared_weights(network: nn.Module) -> set[str]:
    owners: dict[int, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    return {name for sharing in owners.values() if len(set(sharing)) > 1 for name in sharing}


@torch.no_grad()
def _features(tapped: Tapped, image: Tensor) -> Features:
    return {role: feature.clone() for role, feature in tapped(image).items()}  # the next layer may work in place


def _same(before: Features, after: Features) -> bool:
    return all(
        bool((after[role] - feature).abs().amax() <= TOLERANCE * feature.abs().amax().clamp_min(1e-12))
        for role, feature in before.items()
    )

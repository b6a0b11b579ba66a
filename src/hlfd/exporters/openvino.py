"""OpenVINO's intermediate representation."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hlfd.errors import unreadable
from hlfd.exporters import _quiet
from hlfd.exporters._graph import Graph, Precision, Run, trace_onnx
from hlfd.exporters._signals import kept_signal_stack

SUFFIX = ".xml"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


def build(graph: Graph, path: Path, *, precision: Precision = "fp32") -> list[Path]:
    """OpenVINO (.xml with .bin beside it), the fastest on Intel's processors.

    fp16 halves the weights on disk; what is computed is up to the device. int8 is NNCF's post-training quantisation,
    ranges from calibration images.

    Returns:
        the files.
    """
    openvino = _quiet.openvino()
    plain = path.with_name("plain.onnx")
    trace_onnx(graph, plain)
    network: Any = openvino.Core().read_model(plain)
    plain.unlink()
    if precision == "int8":
        nncf = _quiet.nncf()
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        # NNCF's default, the mean of the images' ranges, cuts off what only the few images with a tumour activate. And
        # processors without VNNI add products in 16 bits, which overflow unless weights keep to half their range.
        careful = AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX, overflow_fix=OverflowFix.ENABLE
        )
        images = [np.ascontiguousarray(image) for image in graph.calibration]
        with kept_signal_stack():
            network = nncf.quantize(network, nncf.Dataset(images), subset_size=len(images), advanced_parameters=careful)
    network.set_rt_info(graph.text, ["hlfd"])
    openvino.save_model(network, path, compress_to_fp16=precision == "fp16")
    return [path, path.with_suffix(".bin")]


def open_file(path: Path, threads: int | None = None) -> Run:
    """A compiled model on the CPU, computing in float32 but where the file is quantised.

    Args:
        threads: of inference; None: as many as torch has.
    """
    openvino = _quiet.openvino()
    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        with kept_signal_stack():
            compiled = core.compile_model(core.read_model(path), "CPU", options)
    except RuntimeError as error:
        raise unreadable(path, "an OpenVINO file", error) from None
    request = compiled.create_infer_request()
    return lambda images: request.infer([images], share_inputs=True)[0].copy()

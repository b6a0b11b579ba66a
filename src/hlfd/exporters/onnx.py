"""ONNX, run by onnxruntime."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hlfd.errors import unreadable
from hlfd.exporters._graph import INPUT, OUTPUT, Graph, Precision, Run, needs, trace_onnx

SUFFIX = ".onnx"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


def build(graph: Graph, path: Path, *, precision: Precision = "fp32") -> list[Path]:
    """ONNX (opset 17), run by onnxruntime on any machine.

    fp16 keeps float32 at its ends; it halves the file. int8 is a static quantisation with
    QDQ nodes, weights by channel, ranges from calibration images.

    Returns:
        the files.
    """
    try:
        import onnx
    except ImportError:
        raise needs("onnx") from None
    if precision == "int8":
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            plain = Path(folder) / "plain.onnx"
            trace_onnx(graph, plain)
            _quantise(graph, plain, path)
    else:
        trace_onnx(graph, path)
    written = onnx.load(path)
    if precision == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        half = OnnxModel(convert_float_to_float16(written, keep_io_types=True))
        half.topological_sort()
        written = half.model
    onnx.helper.set_model_props(written, {"hlfd": graph.text})
    onnx.checker.check_model(written)
    onnx.save(written, path)
    return [path]


def open_file(path: Path, threads: int | None = None) -> Run:
    """An onnxruntime session on the CPU.

    Args:
        threads: of the session; None: as many as torch has.
    """
    try:
        import onnxruntime
    except ImportError:
        raise needs("onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
        raise unreadable(path, "an ONNX file", error) from None

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([OUTPUT], {INPUT: images})[0])

    return run


def _quantise(graph: Graph, plain: Path, path: Path) -> None:
    import logging

    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.images = iter(graph.calibration)

        def get_next(self) -> Any:
            image: np.ndarray | None = next(self.images, None)
            return None if image is None else {INPUT: image}

    prepared = plain.with_name("prepared.onnx")
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # advice to do what is done here
    try:
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # processors without VNNI add products in 16 bits, which overflow otherwise
        )
    finally:
        root.setLevel(level)

"""OpenVINO and NNCF without their telemetry."""

import logging
import sys
from typing import Any

from hlfd.exporters._graph import needs


def openvino() -> Any:
    """The package, imported without the telemetry it brings: nothing is reported to anybody."""
    _block()
    try:
        import openvino as package
    except ImportError:
        raise needs("openvino") from None
    return package


def nncf() -> Any:
    """The package, imported without telemetry, and silent."""
    openvino()
    try:
        import nncf as package
    except ImportError:
        raise needs("nncf") from None
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return package


def _block() -> None:
    # Both go on without telemetry if the package isn't there, and None is how Python is told that it isn't.
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino_telemetry"]:
        del sys.modules[name]
    sys.modules["openvino_telemetry"] = None  # pyright: ignore[reportArgumentType]

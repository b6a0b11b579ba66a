"""A stack for signal handlers that OpenVINO can't take away."""

import ctypes
import sys
from collections.abc import Generator
from contextlib import contextmanager


class SignalStack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> SignalStack:
    """What this thread's signal handlers run on."""
    now = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(now))
    return now


@contextmanager
def kept_signal_stack() -> Generator[None]:
    """After the block this thread's signal handlers run on the stack they had before.

    OpenVINO's CPU plugin gives the thread that loads it a stack of its own, and the one before back when it is
    unloaded: a freed one, where several are loaded and not unloaded in reverse order. The next signal that Python
    handles, Ctrl-C or the end of a child, then kills the process.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    before = signal_stack()
    try:
        yield
    finally:
        ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)

"""TensorFlow's ops on the CPU kernels (`csrc/tensorflow`): loaded when first asked for, and why they are missing.

A graph that was saved while training holds these ops by name, so whoever loads it calls `load` first.
"""

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

import tensorflow as tf

from batchnorm import _kernels
from batchnorm._kernels import NOT_BUILT

__all__ = ["load", "tell_threads", "threads", "why_missing"]

LIBRARY = Path(__file__).with_name("libbatchnorm_tensorflow.so")
FRAMEWORK = "libtensorflow_framework.so.2"

_told: int | None = None
_settled: int | None = None


def load() -> Any:
    """The module of ops, or None if there is none; `why_missing` then says why."""
    return _import()[0]


def tell_threads(computing: bool) -> None:
    """Let the ops run on as many threads as TensorFlow uses inside one.

    Args:
        computing: whether TensorFlow computes already; its setting is then final.
    """
    global _settled, _told
    if _settled is None and computing:
        _settled = tf.config.threading.get_intra_op_parallelism_threads()
    number, library = threads(), _import()[1]
    if number != _told and library is not None:
        library.batchnorm_tensorflow_set_threads(ctypes.c_int(number))
        _told = number


def threads() -> int:
    """How many threads TensorFlow uses inside one op, as far as is known by now."""
    asked = tf.config.threading.get_intra_op_parallelism_threads() if _settled is None else _settled
    return asked or _kernels.threads()


def why_missing() -> str | None:
    """Why there are no ops, in one sentence; None if there are."""
    return _import()[2]


@cache
def _import() -> tuple[Any, ctypes.CDLL | None, str | None]:
    if not LIBRARY.exists():
        return None, None, NOT_BUILT
    try:
        _show_framework()
        ops = tf.load_op_library(str(LIBRARY))
        return ops, ctypes.CDLL(str(LIBRARY)), None
    except (OSError, RuntimeError, tf.errors.OpError) as error:
        return None, None, f"built, but not loaded: {error}"


def _show_framework() -> None:
    """Let the library find TensorFlow's functions, which are loaded but perhaps not visible to others."""
    path = Path(tf.sysconfig.get_lib()) / FRAMEWORK
    if path.exists() and hasattr(os, "RTLD_NOLOAD"):
        ctypes.CDLL(str(path), os.RTLD_NOLOAD | os.RTLD_NOW | os.RTLD_GLOBAL)

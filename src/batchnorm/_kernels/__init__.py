"""The CPU kernels (`csrc/`): which binding loaded, what is missing, and on how many threads they run.

The package works without them. Nothing is loaded before the first request, and the result is kept.
"""

import importlib
import os
from functools import cache
from types import ModuleType

from batchnorm.errors import format_error

__all__ = ["NOT_BUILT", "available", "instructions", "load", "set_threads", "threads", "why_missing"]

NOT_BUILT = (
    "not built: no C++17 compiler (GCC or Clang) was found when batchnorm was installed, or it runs from sources that "
    "were never installed"
)
THREADS_VARIABLE = "BATCHNORM_NUM_THREADS"

_chosen_threads: int | None = None


@cache
def load() -> ModuleType | None:
    """The compiled module, or None if there is none; `why_missing` then says why."""
    return _import()[0]


def available() -> bool:
    """Whether the kernels can be used."""
    return load() is not None


def why_missing() -> str | None:
    """Why there are no kernels, in one sentence; None if there are."""
    return _import()[1]


@cache
def _import() -> tuple[ModuleType | None, str | None]:
    try:
        return importlib.import_module("batchnorm._kernels._native"), None
    except ModuleNotFoundError:
        return None, NOT_BUILT
    except ImportError as error:
        return None, f"built, but not loaded: {error}"


def instructions() -> str | None:
    """The instruction set in use: "avx512", "avx2", "neon" or "baseline"; None without kernels.

    It is the best the processor has, unless the environment variable BATCHNORM_INSTRUCTIONS names another one.
    """
    native = load()
    return None if native is None else native.instructions()


def threads() -> int:
    """How many threads work on one call, unless a framework sets the number.

    The number given to `set_threads`; otherwise the environment variable BATCHNORM_NUM_THREADS; otherwise one for each
    processor that this process may use.
    """
    return _chosen_threads or _default_threads()


def set_threads(number: int | None) -> None:
    """Set how many threads work on one call; None restores the default."""
    global _chosen_threads
    if number is not None and number < 1:
        raise ValueError(
            format_error(
                f"set_threads({number}) was asked for",
                "The calling thread always works, so there is at least one",
                "Pass a positive int, or None for the default",
            )
        )
    _chosen_threads = number


@cache
def _default_threads() -> int:
    named = os.environ.get(THREADS_VARIABLE, "")
    if named.isdecimal() and int(named) > 0:
        return int(named)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

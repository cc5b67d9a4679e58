"""The PyTorch engine: the framework's kernels, and plain operations that can be traced."""

from typing import Any

from batchnorm._core.engine import Engine
from batchnorm._engines.torch import passes

__all__ = ["engine"]

engine: Engine[Any] = passes

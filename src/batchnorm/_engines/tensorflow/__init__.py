"""The TensorFlow engine: the CPU kernels, or compiled loops where they pay off, or plain operations that run anywhere.

Importing it also makes TensorFlow write graphs that contain our ops in its own operations (`export`).
"""

from typing import Any

from batchnorm._core.engine import Engine
from batchnorm._engines.tensorflow import export, passes

__all__ = ["engine"]

export.install()

engine: Engine[Any] = passes

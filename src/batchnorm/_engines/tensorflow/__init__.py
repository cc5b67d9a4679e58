"""The TensorFlow engine: the CPU kernels, or compiled loops where they pay, or plain operations that run anywhere.

With it come the ops that graphs saved while training hold, where they were built: TensorFlow must know an op by name to
load such a graph.
"""

from typing import Any

from batchnorm._engines.protocol import Engine
from batchnorm._engines.tensorflow import passes
from batchnorm._kernels.tensorflow import load

__all__ = ["engine"]

load()

engine: Engine[Any] = passes  # pyright: ignore[reportAssignmentType]

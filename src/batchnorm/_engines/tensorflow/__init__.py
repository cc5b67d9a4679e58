"""The TensorFlow engine: compiled loops where they pay, plain operations that run anywhere elsewhere."""

from typing import Any

from batchnorm._engines.protocol import Engine
from batchnorm._engines.tensorflow import passes

__all__ = ["engine"]

engine: Engine[Any] = passes  # pyright: ignore[reportAssignmentType]

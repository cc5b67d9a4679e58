"""The TensorFlow engine: the CPU kernels, or compiled loops if they pay off, or plain operations that run anywhere.

Importing it also makes TensorFlow write graphs that contain our ops in its own operations (`export`).
"""

from batchnorm._engines.tensorflow import dispatch, export
from batchnorm._engines.tensorflow.host import host_values
from batchnorm._engines.tensorflow.passes import engine

__all__ = ["dispatch", "engine", "host_values"]

export.install()

"""The NumPy engines.

`engine` is the composed passes, of reference grade in float64. `native` is the CPU kernels where they are installed
and can go, and those passes elsewhere. `pullback` gives the gradient on request, by the one or the other.
"""

from typing import Any

from batchnorm._core.engine import Engine
from batchnorm._engines.numpy import kernels
from batchnorm._engines.numpy.reference import engine, pullback

__all__ = ["engine", "native", "pullback"]

native: Engine[Any] = kernels

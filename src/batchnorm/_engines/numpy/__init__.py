"""The NumPy engines.

`engine` is the composed passes, of reference grade in float64. `native` uses the CPU kernels if they are installed
and can be used, and those passes otherwise. `pullback` gives the gradient on request, with either.
"""

from typing import Any

from batchnorm._core.engine import Engine
from batchnorm._engines.numpy.kernels import CpuKernels
from batchnorm._engines.numpy.reference import engine, pullback

__all__ = ["engine", "native", "pullback"]

native: Engine[Any] = CpuKernels(engine.ops, engine.differentiate, engine.add_up)

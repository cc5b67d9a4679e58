"""The NumPy engines.

`composed` is the composed passes, of reference grade in float64. `engine` uses the CPU kernels if they are installed
and can be used, and those passes otherwise. `pullback` gives the gradient on request, with either.
"""

from batchnorm._engines.numpy import dispatch
from batchnorm._engines.numpy.kernels import CpuKernels
from batchnorm._engines.numpy.reference import composed, pullback

__all__ = ["composed", "dispatch", "engine", "pullback"]

engine = CpuKernels(composed.ops, composed.differentiate, composed.add_up)

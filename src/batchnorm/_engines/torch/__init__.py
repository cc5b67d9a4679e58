"""The PyTorch engine: the framework's kernels, and plain operations that can be traced."""

from batchnorm._engines.torch import dispatch
from batchnorm._engines.torch.host import host_values
from batchnorm._engines.torch.passes import engine

__all__ = ["dispatch", "engine", "host_values"]

"""Batch normalization for PyTorch: drop-ins for `torch.nn`'s layers, with every option of this package.

BatchNorm1d, BatchNorm2d, BatchNorm3d   the layers
convert                                 swaps torch.nn's layers of a model for these, and back
joined, Join                            what convert(fuse=True) joined with the activations behind it
clipping_schedule                       bounds on renorm's corrections that widen over the steps
checkpoint_contexts                     for `torch.utils.checkpoint`: the recomputation does not count twice
frozen_statistics                       a block in which training leaves the running statistics alone
"""

from batchnorm._require import require

require("torch", "PyTorch", "torch", "batchnorm.torch")

from batchnorm._engines.torch.recompute import checkpoint_contexts, frozen_statistics  # noqa: E402
from batchnorm.torch._chains import Join  # noqa: E402
from batchnorm.torch._convert import convert  # noqa: E402
from batchnorm.torch._fuse import joined  # noqa: E402
from batchnorm.torch._layers import BatchNorm1d, BatchNorm2d, BatchNorm3d  # noqa: E402
from batchnorm.torch._schedule import clipping_schedule  # noqa: E402

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Join",
    "checkpoint_contexts",
    "clipping_schedule",
    "convert",
    "frozen_statistics",
    "joined",
]

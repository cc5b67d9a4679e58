"""What `convert` makes of `torch.nn`'s lazy layers: ours, once an input or a checkpoint gives the channel count."""

from typing import Any

import torch
from torch import nn

from batchnorm.layout import canonical_axes, product
from batchnorm.torch._layers import BatchNorm1d, BatchNorm2d, BatchNorm3d, Layer
from batchnorm.torch._settings import configure

__all__ = ["LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d"]


class _Lazy(Layer):
    """Combines `torch.nn`'s lazy layer, whose methods do the waiting, with ours, whose class it then takes."""

    def initialize_parameters(self, input: torch.Tensor, *rest: Any, **named: Any) -> None:
        del rest, named
        axes = canonical_axes(self.settings.axes, input.dim())
        channels: Any = product(input.shape[axis] for axis in axes)
        if self.has_uninitialized_params():  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
            self._begin(channels)
        elif not self.num_features:
            # There is nothing to create, or PyTorch has read the tensors of a checkpoint.
            self.num_features = channels
            configure(self, self.settings)

    def _begin(self, channels: Any) -> None:
        # This reads only the size of axis 1.
        super().initialize_parameters(torch.empty(1, channels, device="meta"))  # pyright: ignore
        configure(self, self.settings)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        mean: Any = state_dict.get(prefix + "running_mean")
        known = mean is not None and not nn.parameter.is_lazy(mean)
        if known and self.has_uninitialized_params():  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
            self._begin(len(state_dict[prefix + "running_mean"]))
        # Without running statistics there is nothing of ours to fill in.
        loader = super() if known else super(Layer, self)
        loader._load_from_state_dict(state_dict, prefix, *rest)  # pyright: ignore


class LazyBatchNorm1d(_Lazy, BatchNorm1d, nn.LazyBatchNorm1d):  # pyright: ignore
    """`torch.nn.LazyBatchNorm1d` with our options."""

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(_Lazy, BatchNorm2d, nn.LazyBatchNorm2d):  # pyright: ignore
    """`torch.nn.LazyBatchNorm2d` with our options."""

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(_Lazy, BatchNorm3d, nn.LazyBatchNorm3d):  # pyright: ignore
    """`torch.nn.LazyBatchNorm3d` with our options."""

    cls_to_become = BatchNorm3d

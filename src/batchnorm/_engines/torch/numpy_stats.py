"""A step on the CPU kernels, in which only the large arrays are PyTorch's and the statistics are NumPy's.

Between the passes the core computes some sixty operations on groups × channels numbers. PyTorch takes a few
microseconds for each, however few the numbers are, which for small inputs is most of the step; NumPy takes a fraction.
The memory is the same, and no number is copied.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from batchnorm._core import state as core
from batchnorm._core.engine import Batch, Gradients, GradTerms, Inputs, Moments, Saved
from batchnorm._engines.torch import cpu_kernels, numpy_ops
from batchnorm._engines.torch.autodiff import differentiable
from batchnorm._engines.torch.composed import composed, sum_over_replicas
from batchnorm._engines.torch.cpu_kernels import Kernels
from batchnorm._engines.torch.numpy_ops import as_numpy, as_tensor
from batchnorm._kernels.axis_groups import why_not_weights
from batchnorm.layout import Layout, plan_in_memory
from batchnorm.options import Options

__all__ = ["Host", "advance", "apply", "find"]

Tensor = torch.Tensor
Array = Any


def find(layout: Layout, inputs: Inputs[Tensor]) -> "Host | None":
    """The engine for a step on these inputs, or None if the kernels cannot be used."""
    x, gamma, beta, weights, state = inputs[:5]
    kernels = cpu_kernels.find(layout, x, gamma, beta, weights, *state.values())
    if kernels is not None and not x.is_contiguous():
        layout = plan_in_memory(tuple(x.shape), x.stride(), layout.axes, layout.ghost)
        kernels = cpu_kernels.find(layout, x)
    return None if kernels is None else Host(kernels, layout)


def apply(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, layout: Layout) -> Tensor | None:
    """(x − mean)·scale + shift without a gradient; None if the kernels cannot be used."""
    given = x, mean, scale, shift
    kernels = None if cpu_kernels.is_recorded(*given) else cpu_kernels.find(layout, *given)
    if kernels is None:
        return None
    return Host(kernels, layout).apply(x, as_numpy(mean), as_numpy(scale), as_numpy(shift), layout)


def advance(options: Options, state: Mapping[str, Tensor], batch: Batch[Any]) -> bool:
    """Move the state in place, if it is plain numbers in the memory of the CPU; otherwise return False."""
    values: list[Any] = [*state.values(), *batch]
    if not cpu_kernels.has_raw_memory(*values) or not all(value.is_contiguous() for value in state.values()):
        return False
    if isinstance(options.decay, Tensor):
        options = replace(options, decay=float(options.decay))
    before: dict[str, Array] = {name: as_numpy(value) for name, value in state.items()}
    with np.errstate(all="ignore"):
        as_arrays: Batch[Any] = Batch(*map(as_numpy, batch))
        after = core.advance(numpy_ops, options, before, as_arrays)
    for name, value in after.items():
        before[name][...] = value
    cpu_kernels.tell_written(state.values())
    return True


class Host:
    """The engine of one step, whose kernels were found. Statistics are NumPy's arrays, [G, C].

    `layout` is in the order of memory, in which the kernels see the large arrays; the core passes layouts of the
    original inputs.
    """

    __slots__ = ("dtype", "kernels", "layout")

    ops = numpy_ops
    composed = composed

    def __init__(self, kernels: Kernels, layout: Layout) -> None:
        self.kernels, self.layout = kernels, layout
        self.dtype = np.float64 if kernels.kind == kernels.module.FLOAT64 else np.float32

    def specialize(self, layout: Layout, inputs: Inputs[Any]) -> None:
        del layout, inputs

    def moments(self, x: Tensor, weights: Tensor | None, layout: Layout) -> Moments[Array]:
        """Mean and mean squared deviation over the reduced runs."""
        kernels, by_group = self.kernels, False
        spread, effective = None, [0, 0]
        totals: Any = (float(layout.count),) * 2
        if weights is not None:
            spread = self._spread(weights)
            if spread is None:
                return Moments(*map(as_numpy, composed.moments(x, weights, layout)))
            by_group = bool(kernels.by_group)
            totals, effective = self._rows(2, layout.ghosts if by_group else 1, 1)
        statistics, addresses = self._rows(3, layout.ghosts, layout.channels)
        x = self._dense(x)
        kernels.module.moments(
            kernels.kind,
            kernels.sizes,
            x.data_ptr(),
            cpu_kernels.address(spread),
            by_group,
            *effective,
            *addresses,
            kernels.threads,
        )
        mean, rest, variance = statistics
        return Moments(totals[0], totals[1], mean, variance, mean, rest)

    def apply(self, x: Tensor, mean: Array, scale: Array, shift: Array, layout: Layout) -> Tensor:
        """(x − mean)·scale + shift."""
        del layout
        kernels, y, x = self.kernels, self._like(x), self._dense(x)
        known = self._known((mean, scale, shift))
        kernels.module.apply(
            kernels.kind, kernels.sizes, x.data_ptr(), *map(_address, known), y.data_ptr(), kernels.threads
        )
        return y

    def grad_sums(self, dy: Tensor, x: Tensor, mean: Array, layout: Layout) -> tuple[Array, Array]:
        """Σdy and Σdy·(x − mean)."""
        kernels, dy, x = self.kernels, self._dense(dy.to(x.dtype)), self._dense(x)
        (mean,) = self._known((mean,))
        (first, second), addresses = self._rows(2, layout.ghosts, layout.channels)
        kernels.module.grad_sums(
            kernels.kind,
            kernels.sizes,
            dy.data_ptr(),
            x.data_ptr(),
            _address(mean),
            *addresses,
            kernels.threads,
        )
        return first, second

    def grad_input(
        self,
        dy: Tensor,
        x: Tensor,
        weights: Tensor | None,
        mean: Array,
        terms: GradTerms[Array],
        layout: Layout,
    ) -> Tensor:
        """slope·dy + w·(tilt·(x − mean) + offset)."""
        kernels = self.kernels
        spread = None if weights is None else self._spread(weights)
        known = self._known((mean, *terms))
        if weights is not None and spread is None:
            mean, *rest = map(as_tensor, known)
            return composed.grad_input(dy, x, weights, mean, GradTerms(*rest), layout)
        dx, dy, x = self._like(x), self._dense(dy.to(x.dtype)), self._dense(x)
        kernels.module.grad_input(
            kernels.kind,
            kernels.sizes,
            dy.data_ptr(),
            x.data_ptr(),
            cpu_kernels.address(spread),
            spread is not None and bool(kernels.by_group),
            *map(_address, known),
            dx.data_ptr(),
            kernels.threads,
        )
        return dx

    def grad_weights(
        self,
        x: Tensor,
        weights: Tensor,
        center: Array,
        offset: Array,
        variance: Array,
        terms: GradTerms[Array],
        layout: Layout,
    ) -> Tensor | None:
        """The gradient of the weights, if it is requested: that of a mask hardly ever is."""
        if not weights.requires_grad:
            return None
        center, offset, variance, *known = map(as_tensor, self._known((center, offset, variance, *terms)))
        return composed.grad_weights(x, weights, center, offset, variance, GradTerms(*known), layout)

    def sum_over_replicas(self, values: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(map(as_numpy, sum_over_replicas(tuple(map(as_tensor, values)))))

    def fused_train(
        self, x: Tensor, gamma: Array | None, beta: Array | None, epsilon: float, layout: Layout
    ) -> tuple[Tensor, Moments[Array], Array]:
        """y, the moments and the scale in one call."""
        given = as_tensor(gamma), as_tensor(beta)
        y, statistics = cpu_kernels.train_by(
            self.kernels, self._dense(x), *given, epsilon, self.layout, self._like(x)
        )
        mean, rest, variance, scale = as_numpy(statistics)
        total = float(layout.count)
        return y, Moments(total, total, mean, variance, mean, rest), scale

    def fused_gradients(
        self, dy: Tensor, x: Tensor, saved: Saved[Array], epsilon: float, layout: Layout
    ) -> tuple[Tensor, Array, Array]:
        """dx, Σdy and Σdy·x̂ in one call."""
        del layout
        statistics = (saved.center, saved.offset, saved.variance, saved.scale)
        known = [as_tensor(value) for value in self._known(statistics)]
        dx, dy, x = self._like(x), self._dense(dy.to(x.dtype)), self._dense(x)
        _, sums = cpu_kernels.gradients_by(self.kernels, dy, x, known, epsilon, self.layout, dx)
        return dx, *as_numpy(sums)

    def fused_infer(self, *asked: Any) -> None:
        """Inference does not come here: PyTorch has an operation for it."""
        del asked

    def differentiable(
        self,
        forward: Callable[..., Any],
        backward: Callable[..., Any],
        reference: Callable[..., Any],
        forward_mode: object = None,
    ) -> Callable[[Inputs[Tensor]], tuple[Tensor, Batch[Tensor]]]:
        """PyTorch's, around functions that see NumPy's arrays per channel."""
        del forward_mode

        def forward_on_arrays(inputs: Inputs[Tensor]) -> tuple[Tensor, Batch[Tensor], Saved[Array]]:
            x, gamma, beta, weights, state = inputs[:5]
            seen = {name: as_numpy(value) for name, value in state.items()}
            # Numbers that are not finite stay so without a word, as in PyTorch.
            with np.errstate(all="ignore"):
                y, batch, saved = forward(Inputs(x, as_numpy(gamma), as_numpy(beta), weights, seen))
            return y, Batch(*map(as_tensor, batch)), saved

        def backward_on_arrays(inputs: Inputs[Tensor], saved: Saved[Array], dy: Tensor) -> Gradients[Tensor]:
            # The gradient may be asked for in other circumstances than the output.
            if not cpu_kernels.has_raw_memory(dy, inputs.x):
                return reference(inputs, dy)
            with np.errstate(all="ignore"):
                return Gradients(*map(_released, backward(inputs, saved, dy)))

        return differentiable(forward_on_arrays, backward_on_arrays, reference)

    def _dense(self, x: Tensor) -> Tensor:
        """In the order of memory, without gaps."""
        return (x if self.layout.order is None else x.permute(self.layout.order)).contiguous()

    def _like(self, x: Tensor) -> Tensor:
        """An uninitialized tensor like x, in the same memory order without gaps."""
        if self.layout.order is None and not x.is_contiguous():
            return torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return torch.empty_like(x)

    def _spread(self, weights: Tensor) -> Tensor | None:
        """Weights over all positions; None if they differ between channels, or along a part of the second run."""
        if self.layout.order is not None:
            weights = weights.permute(self.layout.order)
        if why_not_weights(weights.shape, self.layout, self.kernels.by_group) is not None:
            return None
        dtype = torch.float64 if self.dtype is np.float64 else torch.float32
        return weights.detach().to(dtype).expand(self.layout.weight_shape).contiguous()

    def _known(self, values: Sequence[Array]) -> list[Array]:
        """Statistics as dense [G, C], which some only broadcast to."""
        shape = self.layout.ghosts, self.layout.channels
        return [
            np.ascontiguousarray(numpy_ops.broadcast_to(numpy_ops.cast(value, self.dtype), shape))
            for value in values
        ]

    def _rows(self, number: int, groups: int, channels: int) -> tuple[Array, range]:
        """`number` uninitialized arrays [groups, channels], and the addresses at which they begin."""
        rows = np.empty((number, groups, channels), self.dtype)
        first, step = _address(rows), groups * channels * rows.itemsize
        return rows, range(first, first + number * step, step)


def _released(gradient: Any) -> Any:
    """A gradient as a tensor in memory that PyTorch allocated, which programs may resize."""
    return as_tensor(gradient).clone() if isinstance(gradient, np.ndarray) else gradient


def _address(value: Array) -> int:
    return value.__array_interface__["data"][0]

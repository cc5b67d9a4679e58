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
from batchnorm._core.engine import Batch, Epilogue, Gradients, GradTerms, Inputs, Moments, Saved
from batchnorm._engines.torch import cpu_kernels, numpy_ops
from batchnorm._engines.torch.autodiff import differentiable
from batchnorm._engines.torch.composed import composed, sum_over_replicas
from batchnorm._engines.torch.cpu_kernels import Kernels
from batchnorm._engines.torch.numpy_ops import as_numpy, as_tensor
from batchnorm._kernels.axis_groups import why_not_weights
from batchnorm.layout import Layout
from batchnorm.options import Options

__all__ = ["Host", "advance", "find"]

Tensor = torch.Tensor
Array = Any


def find(layout: Layout, inputs: Inputs[Tensor]) -> "Host | None":
    """The engine for a step on these inputs, or None if the kernels cannot be used."""
    x, gamma, beta, weights, state, _, residual = inputs
    kernels = cpu_kernels.find(layout, x, gamma, beta, weights, residual, *state.values())
    return None if kernels is None else Host(kernels)


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
    """The engine of one step for which kernels were found. Statistics are NumPy arrays, [G, C].

    The kernels hold the layout in the order of memory; the core passes the layout of the original inputs.
    """

    __slots__ = ("dtype", "kernels")

    ops = numpy_ops
    composed = composed

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self.dtype = np.float64 if kernels.head[0] == kernels.module.FLOAT64 else np.float32

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
        (mean, rest, variance), rows = self._rows(3, layout.ghosts, layout.channels)
        x = kernels.dense(x)
        read = x.data_ptr(), cpu_kernels.address(spread), by_group
        kernels.module.moments(*kernels.head, *read, *effective, *rows, kernels.threads)
        return Moments(totals[0], totals[1], mean, variance, mean, rest)

    def apply(
        self,
        x: Tensor,
        mean: Array,
        scale: Array,
        shift: Array,
        layout: Layout,
        epilogue: Epilogue[Any] | None = None,
    ) -> Tensor:
        """(x − mean)·scale + shift, and what follows it."""
        del layout
        kernels, known = self.kernels, self._known((mean, scale, shift))
        y, x = kernels.like(x), kernels.dense(x)
        residual = None if epilogue is None else kernels.residual(epilogue)
        after = None if epilogue is None else kernels.after(epilogue, residual)
        read = x.data_ptr(), *map(_address, known)
        kernels.module.apply(*kernels.head, *read, y.data_ptr(), kernels.threads, after)
        return y

    def grad_sums(self, dy: Tensor, x: Tensor, mean: Array, layout: Layout) -> tuple[Array, Array]:
        """Σdy and Σdy·(x − mean)."""
        kernels = self.kernels
        dy, x = kernels.dense(dy.to(x.dtype)), kernels.dense(x)
        (mean,) = self._known((mean,))
        (first, second), rows = self._rows(2, layout.ghosts, layout.channels)
        read = dy.data_ptr(), x.data_ptr(), _address(mean)
        kernels.module.grad_sums(*kernels.head, *read, *rows, kernels.threads)
        return first, second

    def pulled_sums(
        self, dy: Tensor, x: Tensor, mean: Array, layout: Layout, epilogue: Epilogue[Any], keep: bool
    ) -> tuple[Array, Array, Tensor | None]:
        """Σh and Σh·(x − mean), and h if it is to be kept."""
        kernels = self.kernels
        pulled, residual = kernels.like(x) if keep else None, kernels.residual(epilogue)
        dy, x = kernels.dense(dy.to(x.dtype)), kernels.dense(x)
        mean, *known = self._known((mean, epilogue.scale, epilogue.shift))
        (first, second), rows = self._rows(2, layout.ghosts, layout.channels)
        read = dy.data_ptr(), x.data_ptr(), _address(mean)
        after = kernels.after(epilogue, residual), *map(_address, known), cpu_kernels.address(pulled)
        kernels.module.grad_sums(*kernels.head, *read, *rows, kernels.threads, *after)
        return first, second, pulled

    def grad_input(
        self,
        dy: Tensor,
        x: Tensor,
        weights: Tensor | None,
        mean: Array,
        terms: GradTerms[Array],
        layout: Layout,
        epilogue: Epilogue[Any] | None = None,
    ) -> Tensor:
        """slope·h + w·(tilt·(x − mean) + offset)."""
        kernels, spread = self.kernels, None if weights is None else self._spread(weights)
        known = self._known((mean, *terms))
        if weights is not None and spread is None:
            mean, *rest = map(as_tensor, known)
            return composed.grad_input(dy, x, weights, mean, GradTerms(*rest), layout)
        by_group = spread is not None and bool(kernels.by_group)
        dx, dy, x = kernels.like(x), kernels.dense(dy.to(x.dtype)), kernels.dense(x)
        read = dy.data_ptr(), x.data_ptr(), cpu_kernels.address(spread), by_group, *map(_address, known)
        if epilogue is None:
            kernels.module.grad_input(*kernels.head, *read, dx.data_ptr(), kernels.threads)
            return dx
        (shift,) = self._known((epilogue.shift,))
        after = kernels.after(epilogue, None), _address(shift)
        kernels.module.grad_input(*kernels.head, *read, dx.data_ptr(), kernels.threads, *after)
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
        self,
        x: Tensor,
        gamma: Array | None,
        beta: Array | None,
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[Any] | None = None,
    ) -> tuple[Tensor, Moments[Array], Array]:
        """y, the moments and the scale in one call."""
        parameters = as_tensor(gamma), as_tensor(beta)
        y, statistics = cpu_kernels.train_by(self.kernels, x, *parameters, epsilon, epilogue)
        mean, rest, variance, scale = as_numpy(statistics[:4])
        total = float(layout.count)
        return y, Moments(total, total, mean, variance, mean, rest), scale

    def fused_gradients(
        self,
        dy: Tensor,
        x: Tensor,
        saved: Saved[Array],
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[Any] | None = None,
    ) -> tuple[Tensor, Array, Array, Tensor | None]:
        """dx, Σh, Σh·x̂ and the gradient of a residual in one call."""
        del layout
        known = self._known((saved.center, saved.offset, saved.variance, saved.scale))
        if epilogue is not None:
            epilogue = epilogue._replace(shift=as_tensor(self._known((epilogue.shift,))[0]))
        known = [*map(as_tensor, known)]
        dx, sums, pulled = cpu_kernels.gradients_by(self.kernels, dy, x, known, epsilon, epilogue)
        return dx, *as_numpy(sums), pulled

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
            x, gamma, beta, weights, state, _, residual = inputs
            seen = {name: as_numpy(value) for name, value in state.items()}
            # Numbers that are not finite stay so without a word, as in PyTorch.
            with np.errstate(all="ignore"):
                given = Inputs(x, as_numpy(gamma), as_numpy(beta), weights, seen, residual=residual)
                y, batch, saved = forward(given)
            return y, Batch(*map(as_tensor, batch)), saved

        def backward_on_arrays(inputs: Inputs[Tensor], saved: Saved[Array], dy: Tensor) -> Gradients[Tensor]:
            # The gradient may be asked for in other circumstances than the output.
            if not cpu_kernels.has_raw_memory(dy, inputs.x, inputs.gamma, inputs.beta, inputs.residual):
                return reference(inputs, dy)
            inputs = inputs._replace(gamma=as_numpy(inputs.gamma), beta=as_numpy(inputs.beta))
            with np.errstate(all="ignore"):
                return Gradients(*map(_released, backward(inputs, saved, dy)))

        return differentiable(forward_on_arrays, backward_on_arrays, reference)

    def _spread(self, weights: Tensor) -> Tensor | None:
        """Weights over all positions; None if they differ between channels, or along a part of the second run."""
        layout = self.kernels.layout
        if layout.order is not None:
            weights = weights.permute(layout.order)
        if why_not_weights(weights.shape, layout, self.kernels.by_group) is not None:
            return None
        dtype = torch.float64 if self.dtype is np.float64 else torch.float32
        return weights.detach().to(dtype).expand(layout.weight_shape).contiguous()

    def _known(self, values: Sequence[Array]) -> list[Array]:
        """Statistics as dense [G, C], which some only broadcast to."""
        layout, cast = self.kernels.layout, numpy_ops.cast
        shape = layout.ghosts, layout.channels
        spread = [numpy_ops.broadcast_to(cast(value, self.dtype), shape) for value in values]
        return list(map(np.ascontiguousarray, spread))

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

"""The passes on the CPU kernels (`csrc/`), or None if these cannot be used.

They take PyTorch's own tensors in the memory of the CPU, in every layout that needs no permutation, with weights that
are the same for all channels. They compute by address, which no transformation of PyTorch's sees: where the program is
traced, transformed or watched they do not go. All of this is decided in `_look`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from batchnorm._core.engine import Epilogue
from batchnorm._engines.torch import ops
from batchnorm._engines.torch.private import has_storage, is_watched, is_zero_tensor
from batchnorm._engines.torch.tracing import EXACT_TYPES, is_recorded, why_traced
from batchnorm._kernels import load, why_missing
from batchnorm._kernels.axis_groups import WHY_NO_RUNS, KernelSizes, kernel_sizes, why_not_weights
from batchnorm._kernels.torch import threads
from batchnorm.layout import Layout, plan_in_memory, plan_layout

__all__ = [
    "Kernels",
    "address",
    "find",
    "has_raw_memory",
    "infer",
    "move_averages",
    "prefers_operation",
    "tell_written",
    "why_not",
]

Tensor = torch.Tensor

_KINDS = {
    torch.float32: "FLOAT32",
    torch.float64: "FLOAT64",
    torch.bfloat16: "BFLOAT16",
    torch.float16: "FLOAT16",
}


class Kernels(NamedTuple):
    """The compiled module and what it needs to know of a step besides the arrays.

    Attributes:
        module: the compiled functions.
        head: their first arguments: what the module calls the dtype, and the sizes of the layout's runs.
        by_group: whether weights differ along the second run.
        threads: how many threads may work.
        layout: that of the inputs in the order of memory, which is how the kernels see large arrays.
    """

    module: Any
    head: tuple[int, tuple[int, int, int, int, int]]
    by_group: bool | None
    threads: int
    layout: Layout

    def dense(self, x: Tensor) -> Tensor:
        """x in the order of memory, without gaps."""
        return (x if self.layout.order is None else x.permute(self.layout.order)).contiguous()

    def residual(self, epilogue: Epilogue[Tensor]) -> Tensor | None:
        """The residual in the order of memory of x, without gaps."""
        return None if epilogue.residual is None else self.dense(epilogue.residual)

    def after(self, epilogue: Epilogue[Tensor], residual: Tensor | None) -> tuple[int, float, int]:
        """An epilogue as the compiled functions take it, with the dense residual, which must outlive the call."""
        activation = epilogue.activation
        name, slope = ("identity", 0.0) if activation is None else (activation.name, activation.slope or 0.0)
        return self.module.ACTIVATIONS[name], slope, address(residual)

    def like(self, x: Tensor) -> Tensor:
        """An uninitialized tensor like x, in the same memory order without gaps."""
        if self.layout.order is None and not x.is_contiguous():
            return torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return torch.empty_like(x)


def find(layout: Layout, x: Tensor, *others: Tensor | None) -> Kernels | None:
    """The kernels for x, or None if they cannot be used; `others` are what else they would read."""
    found = _look(layout, x, others)
    return None if isinstance(found, str) else found


def why_not(layout: Layout, x: Tensor, weights: Tensor | None = None) -> str | None:
    """Why the kernels cannot be used, in a few words; None if they can."""
    found = _look(layout, x, (weights,))
    if isinstance(found, str):
        return found
    return None if weights is None else why_not_weights(weights.shape, layout, found.by_group)


def has_raw_memory(*values: Tensor | None) -> bool:
    """Whether these tensors may be used by their addresses, at this point of the program."""
    return _why_hidden(values) is None


def _look(layout: Layout, x: Tensor, others: Sequence[Tensor | None]) -> Kernels | str:
    """The kernels for x, or why they cannot go."""
    hidden = _why_hidden((x, *others))
    if hidden is not None:
        return hidden
    module, name = load(), _KINDS.get(x.dtype)
    if module is None:
        return f"they are {why_missing()}"
    if name is None:
        return f"they have no {x.dtype}"
    if x.numel() == 0:
        return "the input is empty"
    if not x.is_contiguous():
        layout = plan_in_memory(tuple(x.shape), x.stride(), layout.axes, layout.ghost)
    runs: KernelSizes | None = kernel_sizes(layout)
    if runs is None:
        return WHY_NO_RUNS
    return Kernels(module, (getattr(module, name), runs.sizes), runs.by_group, threads(), layout)


def train_by(
    kernels: Kernels,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    epsilon: float,
    epilogue: Epilogue[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """y, and mean, rest, variance and scale as one tensor [4, G, C]; with an activation, shift as well."""
    y, (statistics, rows) = kernels.like(x), _rows(4 if epilogue is None else 5, x, kernels.layout)
    x = kernels.dense(x)
    gamma, beta = _dense(gamma, statistics.dtype), _dense(beta, statistics.dtype)
    read = x.data_ptr(), address(gamma), address(beta), kernels.layout.channels, float(epsilon)
    if epilogue is None:
        kernels.module.train(*kernels.head, *read, y.data_ptr(), *rows, kernels.threads)
    else:
        residual = kernels.residual(epilogue)
        after = kernels.after(epilogue, residual), rows[4]
        kernels.module.train(*kernels.head, *read, y.data_ptr(), *rows[:4], kernels.threads, *after)
    return y, statistics


def gradients_by(
    kernels: Kernels,
    dy: Tensor,
    x: Tensor,
    known: Sequence[Tensor],
    epsilon: float,
    epilogue: Epilogue[Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """dx, Σh and Σh·x̂ as one tensor [2, G, C], and h if there is a residual.

    `known` are the dense mean, rest, variance and scale; an epilogue comes with its dense shift.
    """
    dx, (sums, rows) = kernels.like(x), _rows(2, x, kernels.layout)
    pulled = None if epilogue is None or epilogue.residual is None else kernels.like(x)
    dy, x = kernels.dense(dy.to(x.dtype)), kernels.dense(x)
    read = *map(address, (dy, x, *known)), float(epsilon)
    if epilogue is None:
        kernels.module.gradients(*kernels.head, *read, dx.data_ptr(), *rows, kernels.threads)
    else:
        residual = kernels.residual(epilogue)
        after = kernels.after(epilogue, residual), address(epilogue.shift), address(pulled)
        kernels.module.gradients(*kernels.head, *read, dx.data_ptr(), *rows, kernels.threads, *after)
    return dx, sums, pulled


def infer(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    axes: Sequence[int],
    epilogue: Epilogue[Tensor] | None = None,
) -> Tensor | None:
    """act(γ·(x − mean) / √(variance + ε) + β + z) in one call; None without a kernel, or if a gradient is recorded."""
    given = (gamma, beta, mean, variance)
    residual = None if epilogue is None else epilogue.residual
    if is_recorded(x, residual, *given):
        return None
    layout, dtype = plan_layout(x.shape, axes), ops.stat_dtype(x)
    found = find(layout, x, residual, *given)
    unfit = any(v is not None and (v.dtype is not dtype or v.numel() != layout.channels) for v in given)
    if found is None or unfit:
        return None
    y, x = found.like(x), found.dense(x)
    gamma, beta, *statistics = (_dense(value, dtype) for value in given)
    read = *map(address, (x, gamma, beta)), layout.channels, *map(address, statistics), float(epsilon)
    if epilogue is None:
        found.module.infer(*found.head, *read, y.data_ptr(), found.threads)
    else:
        residual = found.residual(epilogue)
        found.module.infer(*found.head, *read, y.data_ptr(), found.threads, found.after(epilogue, residual))
    return y


def prefers_operation(x: Tensor) -> bool:
    """Whether inference should use PyTorch's operation: in traced programs, and if x is not in CPU memory."""
    return torch.compiler.is_compiling() or type(x) not in EXACT_TYPES or is_watched() or not x.is_cpu


def move_averages(
    averages: tuple[Tensor, Tensor], statistics: tuple[Tensor, Tensor], factor: float, share: float
) -> None:
    """Move a mean and a variance as `_core.state` does in a plain step: old += share·(new − old).

    By one call each: PyTorch's operations, of which this takes four, cost more than the arithmetic.

    Args:
        averages: the old mean and variance, written in place.
        statistics: those of the groups, [G, C], whose plain average is the new value.
        factor: by which the new variance is multiplied, N / (N − 1) for the sample's.
        share: of the new value. With 0 nothing of it counts, not even infinities.
    """
    if share == 0.0:
        return
    for old, rows, times in zip(averages, statistics, (1.0, factor), strict=True):
        module = load()
        if (
            module is None
            or old.dtype is not rows.dtype
            or not old.is_contiguous()
            or _why_odd(old) is not None
        ):
            mean = rows[0] if len(rows) == 1 else rows.mean(0)
            new = (mean * times).to(old.dtype)
            # From an infinite value to itself, lerp_ would compute a NaN.
            old.copy_(new) if share == 1.0 else old.lerp_(new, share)
        else:
            kind, rows = getattr(module, _KINDS[rows.dtype]), rows.contiguous()
            module.blend(kind, *rows.shape, rows.data_ptr(), float(times), float(share), old.data_ptr())
            tell_written((old,))


def tell_written(values: Iterable[Tensor]) -> None:
    """Tell PyTorch what was written by address, so that it refuses gradients that need the old numbers."""
    torch.autograd.graph.increment_version(values)


def address(value: Tensor | None) -> int:
    """Where the numbers begin; 0 if there are none."""
    return 0 if value is None else value.data_ptr()


def _why_hidden(values: Sequence[Tensor | None]) -> str | None:
    """Why what is at the tensors' addresses may not be all that matters; None if it is."""
    traced = why_traced()
    if traced is not None:
        return traced
    if is_watched():
        return "a tracer or a mode of PyTorch's watches the operations"
    for value in values:
        odd = None if value is None else _why_odd(value)
        if odd is not None:
            return odd
    return None


def _why_odd(value: Tensor) -> str | None:
    """Why what is at the tensor's address may not be its numbers; None if it is."""
    if type(value) not in EXACT_TYPES:
        return f"a {type(value).__name__}, being a subclass of Tensor, may keep its numbers elsewhere"
    if not value.is_cpu:
        return f"a tensor is on the device {value.device}, not in the memory of the CPU"
    if value.layout is not torch.strided or not has_storage(value):
        return "a tensor has no dense numbers in memory"
    if value.is_neg() or is_zero_tensor(value):
        return (
            "a tensor's numbers are not those in its memory: a sign is still to be applied, or all are zero"
        )
    return None


def _dense(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The same without gaps, in this dtype; most are that already."""
    if value is None or (value.dtype is dtype and value.is_contiguous()):
        return value
    return value.to(dtype).contiguous()


def _rows(number: int, x: Tensor, layout: Layout) -> tuple[Tensor, range]:
    """`number` uninitialized statistics [G, C] as one tensor, and the addresses at which they begin."""
    rows = x.new_empty((number, layout.ghosts, layout.channels), dtype=ops.stat_dtype(x))
    first, step = rows.data_ptr(), rows.stride(0) * rows.element_size()
    return rows, range(first, first + number * step, step)

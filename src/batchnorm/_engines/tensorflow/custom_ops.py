"""The passes as ops on the CPU kernels (`csrc/`), in eager and graph mode, with known and unknown sizes."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from batchnorm._core import fused
from batchnorm._core.composed import pull_through
from batchnorm._core.engine import Epilogue, GradTerms, Moments, Saved
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.attributes import activation_attributes, to_bits
from batchnorm._engines.tensorflow.composed import composed
from batchnorm._engines.tensorflow.dispatch import Kernels
from batchnorm._engines.tensorflow.native_or_composed import native_or_composed
from batchnorm.layout import Layout

__all__ = [
    "apply",
    "fused_gradients",
    "fused_train",
    "grad_input",
    "grad_sums",
    "large",
    "moments",
    "pulled_sums",
    "statistic",
]

Tensor = Any


def moments(kernels: Kernels, x: Tensor, weights: Tensor | None, layout: Layout) -> Moments[Tensor]:
    """Mean and mean squared deviation over the reduced runs."""
    spread = None if weights is None else _spread(weights, x, layout)
    dtype = ops.stat_dtype(x)

    def native(layout: Layout) -> tuple[Tensor, ...]:
        total, effective, *statistics = kernels.ops.batchnorm_kernels_moments(
            x,
            [] if spread is None else [spread],
            U=dtype,
            weights_by_group=int(spread is not None and bool(kernels.by_group)),
            **kernels.attributes,
        )
        statistics = tuple(statistic(value, layout) for value in statistics)
        return statistics if spread is None else (*statistics, total, effective)

    def plain(layout: Layout) -> tuple[Tensor, ...]:
        total, effective, _, variance, center, offset = composed.moments(x, weights, layout)
        statistics = (center, offset, variance)
        return statistics if spread is None else (*statistics, total, effective)

    center, offset, variance, *totals = native_or_composed(x, layout, native, plain)
    total, effective = totals or [ops.as_float(layout.count, dtype)] * 2
    return Moments(total, effective, center + offset, variance, center, offset)


def apply(
    kernels: Kernels,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    layout: Layout,
    epilogue: Epilogue[Tensor] | None = None,
) -> Tensor:
    """(x − mean)·scale + shift, and what follows it."""
    mean, scale, shift = _known((mean, scale, shift), layout)

    def native(layout: Layout) -> Tensor:
        y = kernels.ops.batchnorm_kernels_apply(
            x,
            mean,
            scale,
            shift,
            _residual(epilogue),
            **_activation(epilogue),
            **kernels.attributes,
        )
        return large(y, layout)

    return native_or_composed(
        x, layout, native, lambda layout: composed.apply(x, mean, scale, shift, layout, epilogue)
    )


def grad_sums(kernels: Kernels, dy: Tensor, x: Tensor, mean: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Σdy and Σdy·(x − mean)."""
    (mean,) = _known((mean,), layout)

    def native(layout: Layout) -> tuple[Tensor, ...]:
        dy_sum, dy_centered_sum, _ = kernels.ops.batchnorm_kernels_grad_sums(
            dy, x, mean, [], [], [], **kernels.attributes
        )
        return statistic(dy_sum, layout), statistic(dy_centered_sum, layout)

    return native_or_composed(x, layout, native, lambda layout: composed.grad_sums(dy, x, mean, layout))


def pulled_sums(
    kernels: Kernels,
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    layout: Layout,
    epilogue: Epilogue[Tensor],
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Σh and Σh·(x − mean), and h if it is to be kept."""
    mean, scale, shift = _known((mean, epilogue.scale, epilogue.shift), layout)
    epilogue = epilogue._replace(scale=scale, shift=shift)

    def native(layout: Layout) -> tuple[Tensor, ...]:
        dy_sum, dy_centered_sum, pulled = kernels.ops.batchnorm_kernels_grad_sums(
            dy,
            x,
            mean,
            [scale],
            [shift],
            _residual(epilogue),
            keeps=int(keep),
            **_activation(epilogue),
            **kernels.attributes,
        )
        sums = statistic(dy_sum, layout), statistic(dy_centered_sum, layout)
        return *sums, *(large(value, layout) for value in pulled)

    def plain(layout: Layout) -> tuple[Tensor, ...]:
        dy_sum, dy_centered_sum, pulled = composed.pulled_sums(dy, x, mean, layout, epilogue, keep)
        return (dy_sum, dy_centered_sum, pulled) if keep else (dy_sum, dy_centered_sum)

    dy_sum, dy_centered_sum, *pulled = native_or_composed(x, layout, native, plain)
    return dy_sum, dy_centered_sum, pulled[0] if pulled else None


def grad_input(
    kernels: Kernels,
    dy: Tensor,
    x: Tensor,
    weights: Tensor | None,
    mean: Tensor,
    terms: GradTerms[Tensor],
    layout: Layout,
    epilogue: Epilogue[Tensor] | None = None,
) -> Tensor:
    """slope·h + w·(tilt·(x − mean) + offset), h being dy without an epilogue."""
    spread = None if weights is None else _spread(weights, x, layout)
    mean, *known = _known((mean, *terms), layout)
    epilogue = _with_known(epilogue, layout)

    def native(layout: Layout) -> Tensor:
        dx = kernels.ops.batchnorm_kernels_grad_input(
            dy,
            x,
            mean,
            *known,
            [] if spread is None else [spread],
            [] if epilogue is None else [epilogue.shift],
            weights_by_group=int(spread is not None and bool(kernels.by_group)),
            **_activation(epilogue),
            **kernels.attributes,
        )
        return large(dx, layout)

    return native_or_composed(
        x,
        layout,
        native,
        lambda layout: composed.grad_input(dy, x, weights, mean, GradTerms(*known), layout, epilogue),
    )


def fused_train(
    kernels: Kernels,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    epsilon: float,
    layout: Layout,
    epilogue: Epilogue[Tensor] | None = None,
) -> tuple[Tensor, Moments[Tensor], Tensor]:
    """y, the moments and the scale in one call."""
    dtype = ops.stat_dtype(x)

    def native(layout: Layout) -> tuple[Tensor, ...]:
        y, *statistics = kernels.ops.batchnorm_kernels_train(
            x,
            [] if gamma is None else [gamma],
            [] if beta is None else [beta],
            _residual(epilogue),
            U=dtype,
            epsilon_bits=to_bits(epsilon),
            **_activation(epilogue),
            **kernels.attributes,
        )
        return large(y, layout), *(statistic(value, layout) for value in statistics)

    def plain(layout: Layout) -> tuple[Tensor, ...]:
        y, moments, scale = fused.train(composed, x, gamma, beta, epsilon, layout, epilogue)
        return y, moments.center, moments.offset, moments.variance, scale

    y, center, offset, variance, scale = native_or_composed(x, layout, native, plain)
    total = ops.as_float(layout.count, dtype)
    return y, Moments(total, total, center + offset, variance, center, offset), scale


def fused_gradients(
    kernels: Kernels,
    dy: Tensor,
    x: Tensor,
    saved: Saved[Tensor],
    epsilon: float,
    layout: Layout,
    epilogue: Epilogue[Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """dx, Σh and Σh·x̂ in one call, and h if there is a residual."""
    statistics = (saved.center, saved.offset, saved.variance, saved.scale)
    center, offset, variance, scale = known = _known(statistics, layout)
    epilogue = _with_known(epilogue, layout)
    keep = epilogue is not None and epilogue.residual is not None

    def native(layout: Layout) -> tuple[Tensor, ...]:
        dx, *sums, pulled = kernels.ops.batchnorm_kernels_gradients(
            dy,
            x,
            *known,
            [] if epilogue is None else [epilogue.shift],
            _residual(epilogue),
            epsilon_bits=to_bits(epsilon),
            keeps=int(keep),
            **_activation(epilogue),
            **kernels.attributes,
        )
        parts = large(dx, layout), *(statistic(part, layout) for part in sums)
        return *parts, *(large(value, layout) for value in pulled)

    def plain(layout: Layout) -> tuple[Tensor, ...]:
        h = dy if epilogue is None else pull_through(ops, dy, x, center, layout, epilogue)
        parts = fused.gradients(composed, h, x, center, offset, variance, scale, epsilon, layout)
        return (*parts, ops.cast(h, x.dtype)) if keep else parts

    dx, dy_sum, dy_xhat_sum, *pulled = native_or_composed(x, layout, native, plain)
    return dx, dy_sum, dy_xhat_sum, pulled[0] if pulled else None


def _spread(weights: Tensor, x: Tensor, layout: Layout) -> Tensor:
    """Weights over all positions."""
    return ops.broadcast_to(ops.cast(weights, ops.stat_dtype(x)), layout.weight_shape)


def _known(values: Sequence[Tensor], layout: Layout) -> list[Tensor]:
    """Statistics as [G, C]; some arrive in a shape that only broadcasts to it."""
    return [ops.broadcast_to(value, (layout.ghosts, layout.channels)) for value in values]


def _with_known(epilogue: Epilogue[Tensor] | None, layout: Layout) -> Epilogue[Tensor] | None:
    """An epilogue of the gradient, whose scale and shift are [G, C]."""
    if epilogue is None:
        return None
    scale, shift = _known((epilogue.scale, epilogue.shift), layout)
    return epilogue._replace(scale=scale, shift=shift)


def _activation(epilogue: Epilogue[Tensor] | None) -> dict[str, int]:
    return {} if epilogue is None else activation_attributes(epilogue.activation)


def _residual(epilogue: Epilogue[Tensor] | None) -> list[Tensor]:
    return [] if epilogue is None or epilogue.residual is None else [epilogue.residual]


def statistic(value: Tensor, layout: Layout) -> Tensor:
    return _shaped(value, (layout.ghosts, layout.channels))


def large(value: Tensor, layout: Layout) -> Tensor:
    return _shaped(value, layout.shape)


def _shaped(value: Tensor, shape: Sequence[Any]) -> Tensor:
    """The same tensor, after telling the graph what is known of its shape."""
    if not tf.executing_eagerly():
        value.set_shape([size if isinstance(size, int) else None for size in shape])
    return value

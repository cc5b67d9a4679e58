"""What follows the affine map in the same pass: an activation, and before it a residual that is added.

    y = act(u)      u = (x − center)·scale + shift + z

The gradient computes u again from x, which it reads anyway, so nothing more is saved. With g = ∂L/∂y,

    h = act′(u)·g       ∂L/∂z = h

and the rest of the gradient is that of a step without an epilogue whose gradient of y is h. In forward mode the
tangent is act′(u)·(u̇ + ż), u̇ being that of such a step.
"""

from collections.abc import Callable
from math import pi, sqrt
from typing import Any, NamedTuple

from batchnorm._core.affine import shift_of
from batchnorm._core.engine import A, Epilogue, Inputs, Ops, Saved
from batchnorm.activation import Activation
from batchnorm.layout import Layout
from batchnorm.options import Options

__all__ = ["activate", "activation_of", "epilogue_of", "follow", "pull", "recomputed"]


def activation_of(options: Options) -> Activation | None:
    """The options' activation, which is a record once they are made."""
    return options.activation if isinstance(options.activation, Activation) else None


def epilogue_of(options: Options, inputs: Inputs[A]) -> Epilogue[A] | None:
    """What follows the affine map of this step, if anything does."""
    activation = activation_of(options)
    return None if activation is None and inputs.residual is None else Epilogue(activation, inputs.residual)


def recomputed(
    ops: Ops[A], options: Options, layout: Layout, inputs: Inputs[A], saved: Saved[A]
) -> Epilogue[A] | None:
    """The same for the gradient, with what it needs to compute u again; None without an activation, as h is then g."""
    activation = activation_of(options)
    if activation is None:
        return None
    shift = shift_of(ops, saved.scale, saved.offset, saved.d, inputs.gamma, inputs.beta, layout)
    return Epilogue(activation, inputs.residual, saved.scale, shift)


def activate(ops: Ops[A], activation: Activation | None, u: A) -> A:
    """act(u): by the framework's own operation, if it has one."""
    if activation is None:
        return u
    own = ops.activation(activation.name, activation.slope or 0.0)
    return _FUNCTIONS[activation.name].value(ops, u, activation.slope) if own is None else own(u)


def follow(ops: Ops[A], y: A, epilogue: Epilogue[A] | None) -> A:
    """act(y + z) in the dtype of y, for engines whose kernel ends before."""
    if epilogue is None:
        return y
    u = ops.cast(y, ops.stat_dtype(y))
    u = u if epilogue.residual is None else u + ops.cast(epilogue.residual, ops.dtype(u))
    return ops.cast(activate(ops, epilogue.activation, u), ops.dtype(y))


def pull(ops: Ops[A], activation: Activation, u: A, g: A) -> A:
    """act′(u)·g."""
    return _FUNCTIONS[activation.name].pull(ops, u, g, activation.slope)


class _Function(NamedTuple):
    """act(u) and act′(u)·g, given the slope that one of them has."""

    value: Callable[[Ops[Any], Any, Any], Any]
    pull: Callable[[Ops[Any], Any, Any, Any], Any]


def _clip(low: float, high: float | None) -> _Function:
    """Bounds on u, by conditions: NaN passes, and a framework that differentiates them finds `pull`."""

    def value(ops: Ops[Any], u: Any, slope: float) -> Any:
        del slope
        above = ops.where(u <= low, low, u)
        return above if high is None else ops.where(u >= high, high, above)

    def pull(ops: Ops[Any], u: Any, g: Any, slope: float) -> Any:
        del slope
        above = ops.where(u > low, g, 0.0)
        return above if high is None else ops.where(u < high, above, 0.0)

    return _Function(value, pull)


def _smooth(value: Callable[[Ops[Any], Any], Any], derivative: Callable[[Ops[Any], Any], Any]) -> _Function:
    return _Function(lambda ops, u, slope: value(ops, u), lambda ops, u, g, slope: derivative(ops, u) * g)


def _hard_swish(ops: Ops[Any], u: Any) -> Any:
    return u * (_CLIP_TO_6.value(ops, u + 3.0, 0.0) / 6.0)


def _hard_swish_derivative(ops: Ops[Any], u: Any) -> Any:
    return ops.where(u <= -3.0, 0.0, ops.where(u >= 3.0, 1.0, u / 3.0 + 0.5))


def _silu_derivative(ops: Ops[Any], u: Any) -> Any:
    s = ops.sigmoid(u)
    return s * (1.0 + u * (1.0 - s))


def _normal(ops: Ops[Any], u: Any) -> Any:
    """The distribution function of the standard normal distribution, Φ(u)."""
    return 0.5 * ops.erfc(-sqrt(0.5) * u)


def _gelu_derivative(ops: Ops[Any], u: Any) -> Any:
    return _normal(ops, u) + u * (ops.exp(-0.5 * (u * u)) * (1.0 / sqrt(2.0 * pi)))


def _gelu_tanh(ops: Ops[Any], u: Any) -> Any:
    # (1 + tanh(v)) / 2 = σ(2v), which keeps its digits near zero.
    return u * ops.sigmoid(_gelu_argument(_bounded(ops, u)))


def _gelu_tanh_derivative(ops: Ops[Any], u: Any) -> Any:
    near = _bounded(ops, u)
    s = ops.sigmoid(_gelu_argument(near))
    rate = 2.0 * sqrt(2.0 / pi) * (1.0 + 3.0 * 0.044715 * near * near)
    return s * (1.0 + near * (1.0 - s) * rate)


def _gelu_argument(u: Any) -> Any:
    return 2.0 * sqrt(2.0 / pi) * (u + 0.044715 * (u * u * u))


def _bounded(ops: Ops[Any], u: Any) -> Any:
    """u within [−40, 40], beyond which gelu is 0 or u: its cube must not become infinite."""
    return ops.minimum(ops.maximum(u, -40.0), 40.0)


def _sigmoid_derivative(ops: Ops[Any], u: Any) -> Any:
    s = ops.sigmoid(u)
    return s * (1.0 - s)


def _tanh_derivative(ops: Ops[Any], u: Any) -> Any:
    t = ops.tanh(u)
    return 1.0 - t * t


_CLIP_TO_6 = _clip(0.0, 6.0)
_FUNCTIONS = {
    "relu": _clip(0.0, None),
    "relu6": _CLIP_TO_6,
    "hard_tanh": _clip(-1.0, 1.0),
    "leaky_relu": _Function(
        lambda ops, u, slope: ops.where(u > 0.0, u, slope * u),
        lambda ops, u, g, slope: ops.where(u > 0.0, g, slope * g),
    ),
    "hard_swish": _smooth(_hard_swish, _hard_swish_derivative),
    "silu": _smooth(lambda ops, u: u * ops.sigmoid(u), _silu_derivative),
    "gelu": _smooth(lambda ops, u: u * _normal(ops, u), _gelu_derivative),
    "gelu_tanh": _smooth(_gelu_tanh, _gelu_tanh_derivative),
    "sigmoid": _smooth(lambda ops, u: ops.sigmoid(u), _sigmoid_derivative),
    "tanh": _smooth(lambda ops, u: ops.tanh(u), _tanh_derivative),
}

"""What the core asks of a framework: a dozen functions for small arrays, and four passes over large ones.

An engine is a frozen object. Large arrays (`x`, `y`, `dy`) have the input's own shape and dtype; statistics are [G, C]
(ghost groups by channels) in `Ops.stat_dtype(x)`: float32 for 16-bit floats, else the dtype of x. A layout says how to
view the one against the other.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from batchnorm.activation import Activation
from batchnorm.layout import Layout, Size

__all__ = [
    "A",
    "Array",
    "Batch",
    "Engine",
    "Epilogue",
    "GradTerms",
    "Gradients",
    "Inputs",
    "Moments",
    "Ops",
    "Saved",
    "State",
]


class Array(Protocol):
    """The arithmetic that every framework's arrays have."""

    def __add__(self, other: Any, /) -> Any: ...
    def __radd__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __rsub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...
    def __rmul__(self, other: Any, /) -> Any: ...
    def __truediv__(self, other: Any, /) -> Any: ...
    def __rtruediv__(self, other: Any, /) -> Any: ...
    def __rpow__(self, other: Any, /) -> Any: ...
    def __neg__(self, /) -> Any: ...
    def __lt__(self, other: Any, /) -> Any: ...
    def __le__(self, other: Any, /) -> Any: ...
    def __gt__(self, other: Any, /) -> Any: ...
    def __ge__(self, other: Any, /) -> Any: ...


A = TypeVar("A", bound=Array)
State = dict[str, A]


class Moments(NamedTuple, Generic[A]):
    """Weighted moments of x, each [G, C] or broadcasting to it.

    `total` is Σw and `effective_count` is (Σw)² / Σw²; without weights both are N, a float if N is known. If `total` is
    zero, the others are finite but meaningless.

    The passes subtract `center`, a number near the mean, and the arithmetic between them accounts for the remainder,
    μ = center + offset. For a mean of a million and a deviation of 1, what `mean` loses in rounding to float32 is 3%
    of the deviation, while x − center is exact near the center. Gradients treat the center as a constant and flow
    through the offset.
    """

    total: A | float
    effective_count: A | float
    mean: A
    variance: A
    center: A
    offset: A


class Batch(NamedTuple, Generic[A]):
    """What one batch contributes to the moving averages, each [C].

    `stored_variance` is the variance to store according to `Options.variance`. `has_weight` is False if no example had
    weight, and the averages stay as they are; None if every channel is known to have some. `updates` is how many
    successive updates of the averages this represents; None means one. `total` is the number of numbers in the batch,
    a scalar or [C], if it is known only at run time and decides whether the batch counts; otherwise None.
    """

    mean: A
    variance: A
    stored_variance: A
    has_weight: A | None
    updates: A | None = None
    total: A | None = None


class Inputs(NamedTuple, Generic[A]):
    """The inputs of one training step. gamma and beta are [C]; `residual` has the shape and dtype of x.

    Gradients flow to x, gamma, beta, the weights and the residual. `scalars` are the options that are arrays, for
    engines that must be given every array that a step reads. An engine may drop them: the options hold them too.
    """

    x: A
    gamma: A | None
    beta: A | None
    weights: A | None
    state: State[A]
    scalars: State[A] | None = None
    residual: A | None = None


class Saved(NamedTuple, Generic[A]):
    """What the gradient needs from the forward pass, per group and channel, [G, C].

    `scale` is γ·r / √(σ² + ε), the slope of y over x. `r` and `d` are None without renorm. μ = center + offset, as in
    `Moments`.
    """

    total: A | float
    center: A
    offset: A
    variance: A
    scale: A
    r: A | None
    d: A | None


class Gradients(NamedTuple, Generic[A]):
    """Gradients with respect to the inputs of the same names; None for an input that was None."""

    x: A
    gamma: A | None
    beta: A | None
    weights: A | None
    residual: A | None = None


class Epilogue(NamedTuple, Generic[A]):
    """What follows the affine map in the same pass: y = act(u), u = (x − mean)·scale + shift + residual.

    Without an activation y = u. The gradient computes u again, and for that it is given scale and shift, [G, C], which
    `apply` has as arguments.
    """

    activation: Activation | None
    residual: A | None
    scale: A | None = None
    shift: A | None = None


class GradTerms(NamedTuple, Generic[A]):
    """dx = slope·dy + w·(tilt·(x − mean) + offset), each [G, C]."""

    slope: A
    tilt: A
    offset: A


class Ops(Protocol[A]):
    """Functions on arrays, named as in NumPy."""

    def sqrt(self, x: A, /) -> A: ...
    def exp(self, x: A, /) -> A: ...
    def tanh(self, x: A, /) -> A: ...
    def sigmoid(self, x: A, /) -> A: ...
    def erfc(self, x: A, /) -> A: ...
    def activation(self, name: str, slope: float, /) -> Callable[[A], A] | None:
        """The framework's own operation for an activation, which its exporters know; None if it has none."""
        ...

    def maximum(self, x: A, y: A | float, /) -> A: ...
    def minimum(self, x: A, y: A | float, /) -> A: ...
    def where(self, condition: A, x: A | float, y: A | float, /) -> A: ...
    def zeros_like(self, x: A, /) -> A: ...
    def stop_gradient(self, x: A, /) -> A: ...
    def sum(self, x: A, axes: Sequence[int], /) -> A: ...
    def cumulate(self, x: A, /) -> A:
        """Cumulative sums along axis 0, each including its own row."""
        ...

    def reshape(self, x: A, shape: Sequence[Size], /) -> A: ...
    def broadcast_to(self, x: A, shape: Sequence[Size], /) -> A: ...
    def transpose(self, x: A, order: Sequence[int], /) -> A: ...
    def first(self, x: A, count: Size, /) -> A:
        """The first `count` rows."""
        ...

    def append_zeros(self, x: A, count: Size, /) -> A:
        """x followed by `count` rows of zeros."""
        ...

    def shape(self, x: A, /) -> tuple[Size, ...]: ...
    def cast(self, x: A, dtype: Any, /) -> A: ...
    def dtype(self, x: A, /) -> Any: ...
    def stat_dtype(self, x: A, /) -> Any: ...
    def as_float(self, size: Size, dtype: Any, /) -> A | float: ...


class Engine(Protocol[A]):
    """The four passes, a way to give a function our gradient, and shortcuts for what a framework has kernels for."""

    @property
    def ops(self) -> Ops[A]: ...

    @property
    def composed(self) -> "Engine[A]":
        """The same engine without shortcuts, in operations that the framework can differentiate to any order."""
        ...

    def specialize(self, layout: Layout, inputs: Inputs[A], /) -> "Engine[A] | None":
        """An engine that suits a training step on these inputs better; None if there is none."""
        ...

    def moments(self, x: A, weights: A | None, layout: Layout, /) -> Moments[A]: ...

    def apply(
        self, x: A, mean: A, scale: A, shift: A, layout: Layout, epilogue: Epilogue[A] | None = None, /
    ) -> A:
        """(x − mean)·scale + shift in the dtype of x, and what follows it."""
        ...

    def grad_sums(self, dy: A, x: A, mean: A, layout: Layout, /) -> tuple[A, A]:
        """Σdy and Σdy·(x − mean)."""
        ...

    def pulled_sums(
        self, dy: A, x: A, mean: A, layout: Layout, epilogue: Epilogue[A], keep: bool, /
    ) -> tuple[A, A, A | None]:
        """The same of h = act′(u)·dy, and h, which may be None unless `keep` asks for it."""
        ...

    def grad_input(
        self,
        dy: A,
        x: A,
        weights: A | None,
        mean: A,
        terms: GradTerms[A],
        layout: Layout,
        epilogue: Epilogue[A] | None = None,
        /,
    ) -> A:
        """slope·dy + w·(tilt·(x − mean) + offset); with an epilogue of h = act′(u)·dy in place of dy.

        An epilogue comes only without weights and without a residual: h was kept then.
        """
        ...

    def grad_weights(
        self, x: A, weights: A, center: A, offset: A, variance: A, terms: GradTerms[A], layout: Layout, /
    ) -> A:
        """Σ terms.offset·(x − μ) + ½·tilt·((x − μ)² − variance) over all that the weights were broadcast along."""
        ...

    def sum_over_replicas(self, values: tuple[A, ...], /) -> tuple[A, ...]: ...

    def fused_train(
        self,
        x: A,
        gamma: A | None,
        beta: A | None,
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[A] | None = None,
        /,
    ) -> tuple[A, Moments[A], A] | None:
        """y, the moments and the scale of plain batch normalization in one call, or None without a kernel."""
        ...

    def fused_gradients(
        self,
        dy: A,
        x: A,
        saved: Saved[A],
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[A] | None = None,
        /,
    ) -> tuple[A, A, A, A | None] | None:
        """dx, Σh and Σh·x̂ in one call, and h if there is a residual, or None. Without an epilogue h = dy."""
        ...

    def fused_infer(
        self,
        x: A,
        gamma: A | None,
        beta: A | None,
        mean: A,
        variance: A,
        epsilon: float,
        layout: Layout,
        epilogue: Epilogue[A] | None = None,
        /,
    ) -> A | None:
        """Normalization by given statistics in one call, or None."""
        ...

    def differentiable(
        self,
        forward: Callable[[Inputs[A]], tuple[A, Batch[A], Saved[A]]],
        backward: Callable[[Inputs[A], Saved[A], A], Gradients[A]],
        reference: Callable[[Inputs[A], A], Gradients[A]],
        forward_mode: Callable[[Inputs[A], Gradients[A]], A],
        /,
    ) -> Callable[[Inputs[A]], tuple[A, Batch[A]]]:
        """`forward` with `backward` as its gradient.

        `reference` computes the same gradients from the inputs alone, in operations that the framework can
        differentiate; second and higher derivatives are those of `reference`. `forward_mode` likewise computes the
        tangent of y from those of the inputs, for frameworks that cannot transpose `backward` by themselves.
        """
        ...

"""Batch normalization as one pure function, for the arrays of any framework.

    options = batchnorm.Options(axes=(-1,), decay=0.9)
    params, state = batchnorm.init(options, x.shape, like=x)
    y, state = batchnorm.batch_norm(x, params, state, options, training=True)

    training    y = act(γ·(a_s·(r·x̂ + d) + a_b) + β + z)      x̂ = (x − μ) / √(σ² + ε)
    inference   y = act(γ·(x − M) / √(V + ε) + β + z)

State goes in and comes out; nothing is changed in place, so the function may be compiled, differentiated and mapped as
the framework does with any other. The layers of each framework use the same core.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from batchnorm._core.adjustment import Adjustment
from batchnorm._core.engine import Engine, Gradients, Inputs, Ops
from batchnorm._core.state import SCALARS, advance, initial_state, slots
from batchnorm._core.step import infer, train
from batchnorm._engines.dispatch import require_fused
from batchnorm._engines.lookup import NUMPY, Framework, framework_of
from batchnorm._validation import (
    check_floating,
    check_names,
    check_options,
    check_owner,
    check_size,
    check_training,
    read_adjustment,
    read_residual,
    spread_weights,
)
from batchnorm.errors import format_error
from batchnorm.layout import Layout, plan_layout
from batchnorm.options import Options

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["batch_norm", "init"]

Array = Any
X = TypeVar("X")
NumPyArray = TypeVar("NumPyArray", bound="NDArray[Any]")
NumPyState = dict[str, "NDArray[Any]"]
Pullback = Callable[["NDArray[Any]"], Gradients["NDArray[Any]"]]


@overload
def init(
    options: Options, shape: Sequence[int], *, like: "NDArray[Any] | None" = None, dtype: Any = None
) -> tuple[NumPyState, NumPyState]: ...
@overload
def init(
    options: Options, shape: Sequence[int], *, like: X, dtype: Any = None
) -> tuple[dict[str, X], dict[str, X]]: ...
def init(
    options: Options, shape: Sequence[int], *, like: Array | None = None, dtype: Any = None
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The parameters and the state for a first call.

    Args:
        options: the options of the calls to come.
        shape: the shape of the inputs; only the sizes of the channel axes matter.
        like: an array of the framework to use; without it NumPy.
        dtype: the dtype of the returned arrays, by NumPy's name for it; by default that of the statistics: float64 for
            float64 inputs, otherwise float32.

    Returns:
        (params, state): "gamma", ones, and "beta", zeros, as far as the options ask for them; and the moving statistics
        by their historical names, means of zero and variances of one. All are [C]; counters are scalars.

    Raises:
        ValueError: the axes do not fit the shape, or the size of a channel axis is not known.
        TypeError: `like` is not an array.

    Examples:
        >>> from batchnorm import Options, init
        >>> params, state = init(Options(axes=(1,)), (8, 3, 32, 32))
        >>> print(params["gamma"], state["moving_mean"])
        [1. 1. 1.] [0. 0. 0.]
    """
    import numpy

    check_options(options)
    framework = NUMPY if like is None else framework_of(like, "An array `like`")
    if dtype is None:
        wide = like is not None and "float64" in str(like.dtype)
        dtype = "float64" if wide else "float32"
    if isinstance(shape, int) or not hasattr(shape, "__iter__"):
        raise TypeError(
            format_error(
                f"shape={shape!r} was given",
                "It is the shape of the inputs, of which the channel axes give the sizes of the parameters",
                "Pass a tuple of ints such as (32, 8)",
            )
        )
    layout = plan_layout(tuple(shape), options.axes)
    channels = layout.channels
    if not isinstance(channels, int):
        raise ValueError(
            format_error(
                f"Inputs of shape {tuple(shape)} were announced with channel axes {options.axes}",
                "The sizes of the channel axes are those of the parameters, and one of them is not known",
                "Pass a shape in which they are ints",
            )
        )
    zeros, ones = numpy.zeros(channels, dtype), numpy.ones(channels, dtype)
    wanted = {"gamma": (options.with_gamma, ones), "beta": (options.with_beta, zeros)}
    params = {name: value for name, (asked, value) in wanted.items() if asked}
    state = initial_state(NUMPY.engine.ops, options, zeros, ones)
    return tuple(  # pyright: ignore[reportReturnType]
        # Copy each array: some frameworks use NumPy's memory directly.
        {name: framework.from_numpy(numpy.array(value), like) for name, value in values.items()}
        for values in (params, state)
    )


@overload
def batch_norm(
    x: NumPyArray,
    params: Mapping[str, Any],
    state: Mapping[str, Any],
    options: Options,
    *,
    training: bool,
    weights: Any | None = None,
    adjustment: tuple[Any, Any] | None = None,
    residual: Any | None = None,
    axis_name: Any = None,
    with_pullback: Literal[False] = False,
) -> tuple[NumPyArray, NumPyState]: ...
@overload
def batch_norm(
    x: NumPyArray,
    params: Mapping[str, Any],
    state: Mapping[str, Any],
    options: Options,
    *,
    training: bool,
    weights: Any | None = None,
    adjustment: tuple[Any, Any] | None = None,
    residual: Any | None = None,
    axis_name: Any = None,
    with_pullback: Literal[True],
) -> tuple[NumPyArray, NumPyState, Pullback]: ...
@overload
def batch_norm(
    x: NumPyArray,
    params: Mapping[str, Any],
    state: Mapping[str, Any],
    options: Options,
    *,
    training: bool,
    weights: Any | None = None,
    adjustment: tuple[Any, Any] | None = None,
    residual: Any | None = None,
    axis_name: Any = None,
    with_pullback: bool,
) -> tuple[NumPyArray, NumPyState] | tuple[NumPyArray, NumPyState, Pullback]: ...
@overload
def batch_norm(
    x: X,
    params: Mapping[str, Any],
    state: Mapping[str, Any],
    options: Options,
    *,
    training: bool,
    weights: Any | None = None,
    adjustment: tuple[Any, Any] | None = None,
    residual: Any | None = None,
    axis_name: Any = None,
    with_pullback: Literal[False] = False,
) -> tuple[X, dict[str, X]]: ...
def batch_norm(
    x: Array,
    params: Mapping[str, Array],
    state: Mapping[str, Array],
    options: Options,
    *,
    training: bool,
    weights: Array | None = None,
    adjustment: tuple[Array, Array] | None = None,
    residual: Array | None = None,
    axis_name: Any = None,
    with_pullback: bool = False,
) -> Any:
    """Normalize x, and return the state after it.

    Args:
        x: floating array of NumPy, TensorFlow, PyTorch or JAX, of any rank; its framework does the computing. 16-bit
            floats are summed in float32.
        params: "gamma" and "beta", each [C], as `init` returns them; as far as the options ask for them.
        state: the moving statistics, as `init` or the last call returned them.
        options: what to compute.
        training: whether to normalize by the batch's statistics and update the moving ones; otherwise the moving
            statistics normalize.
        weights: how much each number counts in the statistics, not negative; 0 leaves it out. An array whose axes
            are the first axes of x, with the same sizes or 1: [batch], or up to the rank of x. Numbers without weight
            are normalized all the same, and must be finite. Negative weights and NaN are refused, unless the
            program is being traced or the check would have to wait for a device.
        adjustment: factor and offset applied before gamma and beta while training; each broadcasts to x.
        residual: an array of the shape of x that is added before the activation, z in the formula above.
        axis_name: for JAX and `Options(synchronized=True)`: the mapped axes over which statistics are taken, as in
            `jax.lax.psum`.
        with_pullback: for NumPy, which has no automatic differentiation: also return the function that computes the
            gradient.

    Returns:
        (y, state): y in the shape and dtype of x, and a new record of the state, which at inference holds the same
        arrays as the old one. With `with_pullback`, (y, state, pullback), where pullback(dy) computes the gradients of
        (x, gamma, beta, weights, residual) from that of y; None for those that were not given and for weights that
        are not floating.

    Raises:
        TypeError: x is not a floating array of a known framework, `training` is not a bool, or an argument belongs to
            another framework.
        ValueError: parameters, state, weights or ghost batches do not fit x and the options; a weight is negative or
            NaN; or `fused=True` asks for kernels that this training step cannot use (`batchnorm.explain` says how a
            call is computed).

    Examples:
        >>> import numpy as np
        >>> from batchnorm import Options, batch_norm, init
        >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
        >>> options = Options(decay=0.9)
        >>> params, state = init(options, x.shape, like=x)
        >>> y, state = batch_norm(x, params, state, options, training=True)
        >>> print(y.round(2))
        [[-1. -1.]
         [ 1.  1.]]
        >>> print(state["moving_mean"].round(2))
        [0.2 2. ]
    """
    check_options(options)
    framework = framework_of(x, "An input x")
    engine = _engine(framework, options, axis_name)
    ops = engine.ops
    check_floating(ops, x)
    check_training(training)
    dtype = ops.stat_dtype(x)
    ghost = options.ghost if training else None
    layout = plan_layout(ops.shape(x), options.axes, ghost, cached=not framework.is_compiling())
    check_names("parameter", params, [*["gamma"] * options.with_gamma, *["beta"] * options.with_beta])
    check_names("state", state, slots(options))
    read: dict[str, Array] = {}
    for name, value in (*params.items(), *state.items()):
        check_owner(framework, value, name)
        read[name] = ops.cast(value, dtype)
        check_size(ops, read[name], name, () if name in SCALARS else (layout.channels,))
    inputs = Inputs(
        x,
        read.get("gamma"),
        read.get("beta"),
        spread_weights(framework, ops, x, weights) if training else None,
        {slot: read[slot] for slot in slots(options)},
        residual=read_residual(framework, ops, x, residual),
    )
    if training:
        require_fused(framework.dispatch, options, layout, x, inputs.weights)
    if with_pullback:
        _check_pullback(framework, training, adjustment)
        return _with_pullback(options, layout, inputs, state, weights)
    if not training:
        return infer(engine, options, layout, inputs), dict(state)
    y, batch = train(engine, options, layout, inputs, _adjustment(framework, ops, adjustment, dtype))
    return y, _stored(ops, advance(ops, options, inputs.state, batch), state)


def _engine(framework: Framework, options: Options, axis_name: Any) -> Engine[Array]:
    if axis_name is not None and not (framework.maps_axes and options.synchronized):
        asked = (
            "without Options(synchronized=True)" if framework.maps_axes else f"with a {framework.title} array"
        )
        raise ValueError(
            format_error(
                f"axis_name={axis_name!r} was given {asked}",
                "It names the mapped axes over which JAX takes synchronized statistics",
                "Leave it out, or pass JAX arrays and Options(synchronized=True)",
            )
        )
    if axis_name is None and framework.maps_axes and options.synchronized:
        raise ValueError(
            format_error(
                "Options(synchronized=True) was given without axis_name",
                "JAX has no current strategy to ask which devices take part",
                "Pass axis_name, the name of the mapped axis, inside shard_map or vmap; under a sharded jit leave "
                "synchronized out, because statistics are global there",
            )
        )
    return framework.engine_for(options.fused, axis_name)


def _check_pullback(framework: Framework, training: bool, adjustment: Any) -> None:
    if framework is not NUMPY or not training or adjustment is not None:
        raise ValueError(
            format_error(
                f"with_pullback=True was asked for with a {framework.title} array, training={training} and "
                f"{'no' if adjustment is None else 'an'} adjustment",
                "It replaces the automatic differentiation that NumPy lacks, in training steps without adjustment",
                "Differentiate with the framework itself, or leave the adjustment out",
            )
        )


def _with_pullback(
    options: Options, layout: Layout, inputs: Inputs[Array], state: Mapping[str, Array], weights: Array | None
) -> tuple[Array, dict[str, Array], Callable[[Array], Gradients[Array]]]:
    from batchnorm._engines.numpy import pullback

    engine = NUMPY.engine
    ops = engine.ops
    y, batch, pull = pullback(options, layout, inputs, engine.composed if options.fused is False else engine)
    given = None if weights is None or weights.dtype.kind in "biu" else weights

    def gradients(dy: Array) -> Gradients[Array]:
        found = pull(dy)
        dw = None if given is None else ops.cast(ops.reshape(found.weights, given.shape), given.dtype)
        return found._replace(weights=dw)

    return y, _stored(ops, advance(ops, options, inputs.state, batch), state), gradients


def _stored(ops: Ops[Array], after: Mapping[str, Array], before: Mapping[str, Array]) -> dict[str, Array]:
    """The new state in the dtypes of the old one."""
    return {name: ops.cast(value, ops.dtype(before[name])) for name, value in after.items()}


def _adjustment(
    framework: Framework, ops: Ops[Array], adjustment: tuple[Array, Array] | None, dtype: Any
) -> Adjustment[Array] | None:
    if adjustment is None:
        return None
    scale, bias = read_adjustment(adjustment)
    for name, value in (("the adjustment's factor", scale), ("the adjustment's offset", bias)):
        check_owner(framework, value, name)
    return Adjustment(ops.cast(scale, dtype), ops.cast(bias, dtype))

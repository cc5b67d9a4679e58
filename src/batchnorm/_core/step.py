"""One training step and one inference step: the page to read first.

    moments ─ replicas ─ ghosts ─ renorm ─ affine ─ apply          y, and what goes into the moving averages

Where each option acts:

    axes, ghost            before this page, in the Layout: which numbers share a statistic
    ghost.remainder        `fill`: adds examples of zero weight, so that all groups have one size
    weights                `engine.moments`: which numbers count, and how much
    synchronized           `merge_replicas`: the moments of all replicas become one
    variance               `summarize`: the estimator that is stored (y always uses the population's)
    ghost.averages         `summarize`: how the groups' statistics are combined, and how many updates they represent
    renorm                 `correct`: r and d, from the batch and the renorm averages
    epsilon, gamma, beta   `fold`: the slope and the offset of each channel
    adjustment             `fold_adjustment`, into gamma and beta; or `adjust`, on what the step returns
    decay, debias_mean     `state.advance`, after y
    activation, residual   `epilogue_of`: what follows in the pass that writes y
    fused                  which shortcuts of the engine may replace its passes

Everything between two engine calls is arithmetic on groups × channels. The net effect is

    y = act(γ·(a_s·(r·x̂ + d) + a_b) + β + z)      x̂ = (x − μ) / √(σ² + ε)
"""

# Compilers that trace Python cannot evaluate the annotations of functions defined while tracing.
from __future__ import annotations

from dataclasses import replace

from batchnorm._core import gradient
from batchnorm._core.adjustment import Adjustment, adjust, fold_adjustment
from batchnorm._core.affine import fold
from batchnorm._core.engine import A, Batch, Engine, Gradients, Inputs, Moments, Saved
from batchnorm._core.epilogue import activate, activation_of, epilogue_of
from batchnorm._core.moments import merge_replicas, or_moving, summarize
from batchnorm._core.padding import fill, is_filled, without_padding
from batchnorm._core.renorm import correct
from batchnorm.layout import Layout, with_sizes
from batchnorm.options import Options, scalar_arrays, with_scalars

__all__ = ["infer", "normalize", "train"]


def train(
    engine: Engine[A],
    options: Options,
    layout: Layout,
    inputs: Inputs[A],
    adjustment: Adjustment[A] | None = None,
) -> tuple[A, Batch[A]]:
    """Normalize by the batch's own statistics.

    Returns:
        y in the dtype of x, and what `state.advance` needs to know of the batch. The state is read, not written.
    """
    engine = _chosen(engine, options)
    if is_filled(layout):
        # Kernels are built for groups of known size.
        engine = engine if isinstance(layout.padding, int) else engine.composed
        filled, adjustment = fill(engine.ops, layout, inputs, adjustment)
        y, batch = train(engine, options, without_padding(layout), filled, adjustment)
        return engine.ops.first(y, engine.ops.shape(inputs.x)[0]), batch
    if adjustment is None:
        return _train(engine, options, layout, inputs)
    folded = fold_adjustment(engine.ops, adjustment, inputs, layout)
    if folded is not None:
        return _train(engine, options, layout, folded)
    # Intermediate results are not rounded to 16 bits: neither y nor the adjustment's gradients could undo that.
    ops, x = engine.ops, inputs.x
    bare = inputs._replace(x=ops.cast(x, ops.stat_dtype(x)), gamma=None, beta=None, residual=None)
    y, batch = _train(engine, replace(options, activation=None), layout, bare)
    u = adjust(ops, y, adjustment, inputs, layout)
    u = u if inputs.residual is None else u + ops.cast(inputs.residual, ops.dtype(u))
    return ops.cast(activate(ops, activation_of(options), u), ops.dtype(x)), batch


def _train(engine: Engine[A], options: Options, layout: Layout, inputs: Inputs[A]) -> tuple[A, Batch[A]]:
    """The step without an adjustment, and its gradient."""
    chosen = engine.specialize(layout, inputs) or engine
    scalars = scalar_arrays(options) | layout.unknown
    if scalars:
        inputs = inputs._replace(scalars=scalars)

    def forward(inputs: Inputs[A]) -> tuple[A, Batch[A], Saved[A]]:
        return normalize(chosen, with_scalars(options, inputs.scalars), layout, inputs)

    def backward(inputs: Inputs[A], saved: Saved[A], dy: A) -> Gradients[A]:
        return gradient.backward(chosen, with_scalars(options, inputs.scalars), layout, inputs, saved, dy)

    def reference(inputs: Inputs[A], dy: A) -> Gradients[A]:
        own, here = with_scalars(options, inputs.scalars), with_sizes(layout, inputs.scalars)
        _, _, saved = normalize(chosen.composed, own, here, inputs)
        return gradient.backward(chosen.composed, own, here, inputs, saved, dy)

    def forward_mode(inputs: Inputs[A], tangents: Gradients[A]) -> A:
        own, here = with_scalars(options, inputs.scalars), with_sizes(layout, inputs.scalars)
        _, _, saved = normalize(chosen.composed, own, here, inputs)
        return gradient.jvp(chosen.composed, own, here, inputs, saved, tangents)

    return chosen.differentiable(forward, backward, reference, forward_mode)(inputs)


def normalize(
    engine: Engine[A], options: Options, layout: Layout, inputs: Inputs[A]
) -> tuple[A, Batch[A], Saved[A]]:
    """The forward pass, and what the gradient will need."""
    ops = engine.ops
    x, gamma, beta, weights, state, _, _ = inputs
    epilogue = epilogue_of(options, inputs)
    alone = weights is None and not options.synchronized
    if alone and options.renorm is None:
        done = engine.fused_train(x, gamma, beta, options.epsilon, layout, epilogue)
        if done is not None:
            y, moments, scale = done
            return y, summarize(ops, options, moments, layout), _saved(moments, scale, None, None)

    moments = engine.moments(x, weights, layout)
    if options.synchronized:
        moments = merge_replicas(engine, moments)
    batch = summarize(ops, options, moments, layout)
    r, d = correct(ops, options, moments, batch, state, layout)
    if weights is not None or options.synchronized:
        moments, r, d = or_moving(ops, moments, r, d, state)
    scale, shift = fold(ops, options.epsilon, moments.variance, moments.offset, r, d, gamma, beta, layout)
    y = engine.apply(x, moments.center, scale, shift, layout, epilogue)
    return y, batch, _saved(moments, scale, r, d)


def _saved(moments: Moments[A], scale: A, r: A | None, d: A | None) -> Saved[A]:
    return Saved(moments.total, moments.center, moments.offset, moments.variance, scale, r, d)


def infer(engine: Engine[A], options: Options, layout: Layout, inputs: Inputs[A]) -> A:
    """Normalize by the moving statistics: y = act(γ·(x − M) / √(V + ε) + β + z). Weights and ghosts play no part."""
    engine = _chosen(engine, options)
    x, gamma, beta, _, state, _, _ = inputs
    epilogue = epilogue_of(options, inputs)
    mean, variance = state["moving_mean"], state["moving_variance"]
    y = engine.fused_infer(x, gamma, beta, mean, variance, options.epsilon, layout, epilogue)
    if y is not None:
        return y
    scale, shift = fold(engine.ops, options.epsilon, variance, None, None, None, gamma, beta, layout)
    return engine.apply(x, mean, scale, shift, layout, epilogue)


def _chosen(engine: Engine[A], options: Options) -> Engine[A]:
    """The engine, or its plain operations if `fused` is False."""
    return engine.composed if options.fused is False else engine

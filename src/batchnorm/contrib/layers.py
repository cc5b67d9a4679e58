"""`tf.contrib.layers.batch_norm`, complete.

Variables, names, collections, updates and numbers are the original's; docs/differences.md says what differs,
and why.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Literal

import tensorflow as tf

from batchnorm._tf1.eager import check_variables_have_a_home
from batchnorm.contrib._arguments import Arguments, Path, check_data_format, check_given, choose_path
from batchnorm.contrib._collections import collect_output, model_variable_getter
from batchnorm.contrib._direct import normalize_directly
from batchnorm.contrib._via_v1_layer import normalize_via_v1_layer
from batchnorm.contrib.framework import stand_in
from batchnorm.errors import format_error

__all__ = ["batch_norm"]


# AutoGraph would spend seconds rewriting the whole engine, and find nothing to convert.
@stand_in("batch_norm")
@tf.autograph.experimental.do_not_convert
def batch_norm(
    inputs: Any,
    decay: Any = 0.999,
    center: bool = True,
    scale: bool = False,
    epsilon: float = 0.001,
    activation_fn: Callable[[Any], Any] | None = None,
    param_initializers: Mapping[str, Any] | None = None,
    param_regularizers: Mapping[str, Any] | None = None,
    updates_collections: Any = tf.compat.v1.GraphKeys.UPDATE_OPS,
    is_training: Any = True,
    reuse: Any = None,
    variables_collections: Any = None,
    outputs_collections: Any = None,
    trainable: bool = True,
    batch_weights: Any = None,
    fused: bool | None = None,
    data_format: str = "NHWC",
    zero_debias_moving_mean: bool = False,
    scope: Any = None,
    renorm: bool = False,
    renorm_clipping: dict[str, Any] | None = None,
    renorm_decay: Any = 0.99,
    adjustment: Callable[[Any], Any] | None = None,
    *,
    renorm_form: Literal["current", "debiased"] = "current",
) -> Any:
    """Normalize a tensor (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167) and maybe activate it.

    Training: y = γ·(a_s·(r·x̂ + d) + a_b) + β with x̂ = (x − μ) / √(σ² + ε) over the batch. Inference:
    y = γ·(x − M) / √(V + ε) + β with the moving mean and variance. It serves as `normalizer_fn` of other layers, and
    `arg_scope` sets its defaults. The options can be combined freely, except that `renorm=True` with
    `renorm_form="debiased"` excludes `zero_debias_moving_mean`.

    The moving variance holds the sample variance where the original used its fused kernel: at ranks 2 and 4, and at
    rank 5 with the default `updates_collections` and no debiasing; but not with `fused=False`, `batch_weights`,
    `renorm` or an `adjustment`. Elsewhere it holds the population's.

    Args:
        inputs: floating tensor of known rank, with a known number of channels.
        decay: share of the old value that the moving averages keep; a number or a scalar tensor.
        center, scale: whether beta and gamma exist. The default has no gamma.
        epsilon: added to the variance.
        activation_fn: applied last, as an operation of its own with the name and type that programs look up. In a
            TensorFlow 1 graph the gradients of both may be one operation.
        param_initializers: any of beta, gamma, moving_mean and moving_variance.
        param_regularizers: any of beta and gamma. They take precedence over the variable scope's regularizer
            or, where the original ran the v1 layer, are added to it.
        updates_collections: name or list of names of the collections that get the two updates, which must run with
            each training step; None runs them whenever y is computed for training; with [] they never run.
        is_training: a bool, or a boolean scalar tensor or variable.
        reuse: True finds the variables of `scope` again, AUTO_REUSE makes those missing, None follows the enclosing
            scope.
        variables_collections: name or list of names of further collections for beta, gamma and the moving mean and
            variance; or a dict of such by variable.
        outputs_collections: name or list of names of collections for y, which gets the scope's name as an alias.
        trainable: whether gamma and beta are trained. Where the original ran the v1 layer (and only there), False
            also leaves the moving statistics alone.
        batch_weights: one weight for each example, which counts that often in all statistics. As in the original,
            negative weights are not refused, though they make no sense; docs/differences.md says what they do.
        fused: False keeps to TensorFlow's plain operations.
        data_format: "NHWC", channels last, or "NCHW", channels second, at any rank.
        zero_debias_moving_mean: the moving mean averages over the steps so far, whatever its initial value.
        scope: variable scope or its name; without it `BatchNorm`, numbered if that is taken.
        renorm, renorm_clipping, renorm_decay: batch renormalization; the clipping is a dict with any of rmin, rmax
            and dmax, numbers or scalar tensors.
        adjustment: function from the input's dynamic shape to a factor and an offset, applied before gamma and beta
            while training.
        renorm_form: "current", or "debiased" for checkpoints of TensorFlow 1.14 and earlier.

    Returns:
        The normalized and activated tensor, in the shape of the input.

    Raises:
        TypeError: an input that is not floating, an `is_training` that is not a boolean, or an `activation_fn` that is
            not a function.
        ValueError: a `data_format` other than the two; an unknown rank or number of channels; `batch_weights` that are
            not a vector as long as the batch; `reuse` without `scope`; an unknown key in `renorm_clipping`; debiased
            renorm with `zero_debias_moving_mean`; an eager call outside a tracker.

    Examples:
        >>> import tensorflow as tf
        >>> from batchnorm.contrib.layers import batch_norm
        >>> with tf.Graph().as_default():
        ...     y = batch_norm(tf.constant([[1.0], [3.0]]), is_training=True, updates_collections=None)
        ...     with tf.compat.v1.Session() as session:
        ...         session.run(tf.compat.v1.global_variables_initializer())
        ...         print(session.run(y).round(2).tolist())
        [[-1.0], [1.0]]
    """
    given = dict(locals())  # the arguments, as long as nothing else is assigned
    check_variables_have_a_home("batch_norm")
    check_data_format(data_format)
    _check_reuse(reuse, scope)
    same = {field.name: given[field.name] for field in fields(Arguments) if field.name in given}
    arguments = Arguments(momentum=decay, renorm_momentum=renorm_decay, **same)
    check_given(arguments, activation_fn)
    x = tf.convert_to_tensor(inputs)
    path = choose_path(arguments, x.shape.rank)
    getter = None if path is Path.FUSED else model_variable_getter
    with tf.compat.v1.variable_scope(scope, "BatchNorm", [x], reuse=reuse, custom_getter=getter) as opened:
        if path is Path.V1_LAYER:
            y = normalize_via_v1_layer(arguments, x, opened)
        else:
            y = normalize_directly(arguments, path, x)
        if activation_fn is not None:
            y = activation_fn(y)
    collect_output(outputs_collections, opened.name, y)
    return y


def _check_reuse(reuse: Any, scope: Any) -> None:
    if reuse and scope is None:
        raise ValueError(
            format_error(
                f"reuse={reuse!r} was asked for without a scope",
                "reuse cannot be used without a scope: default names are new in every call",
                "Name the scope whose variables to use",
            )
        )

"""The function `tf.compat.v1.layers.batch_normalization`: a layer made and called at once."""

from typing import Any

from batchnorm.compat.v1._layer import BatchNormalization

__all__ = ["batch_normalization"]


def batch_normalization(
    inputs: Any,
    axis: Any = -1,
    momentum: Any = 0.99,
    epsilon: float = 1e-3,
    center: bool = True,
    scale: bool = True,
    beta_initializer: Any = "zeros",
    gamma_initializer: Any = "ones",
    moving_mean_initializer: Any = "zeros",
    moving_variance_initializer: Any = "ones",
    beta_regularizer: Any = None,
    gamma_regularizer: Any = None,
    beta_constraint: Any = None,
    gamma_constraint: Any = None,
    training: Any = False,
    trainable: bool = True,
    name: Any = None,
    reuse: Any = None,
    renorm: bool = False,
    renorm_clipping: dict[str, Any] | None = None,
    renorm_momentum: Any = 0.99,
    fused: bool | None = None,
    virtual_batch_size: int | None = None,
    adjustment: Any = None,
    *,
    ghost_order: str = "interleaved",
    renorm_form: str = "current",
) -> Any:
    """Normalize a tensor by a layer in the current variable scope.

    The formula, the arguments and the errors are those of `BatchNormalization`; `training` is that of its call.

    Args:
        name: variable scope; without it `batch_normalization`, numbered if that is taken.
        reuse: True finds existing variables, AUTO_REUSE makes the missing ones, None follows the enclosing scope.

    Returns:
        The normalized tensor, in the shape of the input.

    Examples:
        >>> import tensorflow as tf
        >>> from batchnorm.compat.v1.layers import batch_normalization
        >>> with tf.Graph().as_default():
        ...     y = batch_normalization(tf.constant([[1.0], [3.0]]), training=True)
        ...     updates = tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.UPDATE_OPS)
        ...     with tf.compat.v1.Session() as session:
        ...         session.run(tf.compat.v1.global_variables_initializer())
        ...         print(session.run([y, updates])[0].round(2).tolist())
        [[-1.0], [1.0]]
    """
    layer = BatchNormalization(
        axis=axis,
        momentum=momentum,
        epsilon=epsilon,
        center=center,
        scale=scale,
        beta_initializer=beta_initializer,
        gamma_initializer=gamma_initializer,
        moving_mean_initializer=moving_mean_initializer,
        moving_variance_initializer=moving_variance_initializer,
        beta_regularizer=beta_regularizer,
        gamma_regularizer=gamma_regularizer,
        beta_constraint=beta_constraint,
        gamma_constraint=gamma_constraint,
        renorm=renorm,
        renorm_clipping=renorm_clipping,
        renorm_momentum=renorm_momentum,
        fused=fused,
        trainable=trainable,
        virtual_batch_size=virtual_batch_size,
        adjustment=adjustment,
        name=name,
        ghost_order=ghost_order,
        renorm_form=renorm_form,
        _reuse=reuse,
        _scope=name,
    )
    return layer(inputs, training=training)

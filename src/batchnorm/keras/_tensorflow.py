"""The layer on TensorFlow: the engine, and what only TensorFlow can do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from batchnorm._core import step
from batchnorm._core.engine import Batch, Inputs
from batchnorm._engines.tensorflow import engine, ops
from batchnorm._tf1 import recompute
from batchnorm.errors import format_error
from batchnorm.keras._backend import StaticBackend
from batchnorm.keras._variables import inputs_of
from batchnorm.layout import Layout
from batchnorm.options import Options

__all__ = ["backend"]

Tensor = Any


@dataclass(frozen=True)
class TensorFlowBackend(StaticBackend):
    """Sizes, and whether a call trains, may be known at run time only; tensors may be ragged; steps are recomputed."""

    def dynamic_shape(self, x: Tensor) -> Tensor:
        return tf.shape(x)

    def advance(
        self, options: Options, variables: Mapping[str, Any], batch: Batch[Tensor], dtype: Any
    ) -> bool:
        """Whether the moving statistics must stay as they are, because a step is being recomputed."""
        del options, variables, batch, dtype
        return recompute.is_recomputing()

    def recall(self, layer: Any, inputs: Inputs[Tensor]) -> Inputs[Tensor]:
        """The inputs with the state that the step must read: that of its first run if it is being recomputed."""
        del layer
        return inputs._replace(state=dict(recompute.recall(inputs.state)))

    def value(self, variable: Any) -> Tensor:
        """What a variable holds now; a cast to the dtype it has would hand on the variable, to be read later."""
        return tf.convert_to_tensor(variable.value)

    def infer_plainly(
        self, layer: Any, options: Options, layout: Layout, x: Tensor, residual: Tensor | None
    ) -> Tensor | None:
        """In a graph, inference on 16-bit numbers computed in 32 bits, as stock Keras does; None otherwise.

        TensorFlow's operation takes 16 bits itself, but TensorFlow Lite's converter knows it only in 32.
        """
        dtype = ops.stat_dtype(x)
        if dtype == x.dtype or tf.executing_eagerly():
            return None
        inputs = inputs_of(layer, ops.cast(x, dtype), None, options, residual)
        return step.infer(self.engine, options, layout, inputs)

    def spread_residual(self, residual: Tensor, x: Tensor) -> Tensor:
        """The residual, after a check of sizes that only the run knows; otherwise it might be broadcast."""
        if residual.shape.is_fully_defined() and x.shape.is_fully_defined():
            return residual
        message = format_error(
            "A residual of another shape than the input's was given",
            "It is added to every number of the result, so both have one shape",
            "Pass a residual of the shape of the input; broadcast a smaller one first",
        )
        with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(residual), tf.shape(x), message)]):
            return tf.identity(residual)

    @tf.autograph.experimental.do_not_convert
    def either(self, training: Any, train: Callable[[], Tensor], infer: Callable[[], Tensor]) -> Tensor:
        """`train()` or `infer()`; a branch in the graph if it is only known at run time."""
        if tf.is_tensor(training):
            known = tf.get_static_value(training)
            if known is None:
                return tf.cond(tf.cast(training, tf.bool), train, infer)
            training = known
        return train() if training else infer()

    def assert_divisible(self, x: Tensor, size: int) -> Tensor:
        """x, after a check that the ghost batch size divides a batch whose size is only known at run time."""
        if x.shape[0] is not None:
            return x
        batch: Tensor = tf.shape(x)[0]
        message = format_error(
            f"virtual_batch_size={size} was asked for",
            "It must divide the batch size while training, and does not divide the one below",
            f"Use batches of a multiple of {size} examples (drop_remainder=True), another virtual_batch_size, or "
            "ghost_remainder='smaller'",
        )
        with tf.control_dependencies([tf.debugging.Assert(batch % size == 0, [message, batch])]):
            return tf.identity(x)

    def is_ragged(self, x: Tensor) -> bool:
        return isinstance(x, tf.RaggedTensor)

    def flatten(self, x: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
        """The numbers of a ragged tensor as a dense one of the same rank, with all rows in sequence along axis 0.

        Also returns the function that makes such a result ragged again.
        """
        dense: Tensor = x.flat_values
        for _ in range(x.ragged_rank):
            dense = tf.expand_dims(dense, 1)

        def restore(y: Tensor) -> Any:
            return x.with_flat_values(tf.squeeze(y, list(range(1, 1 + x.ragged_rank))))

        return dense, restore

    def same_rows(self, residual: Any, x: Any) -> Any:
        """The residual, after a check that its rows are as long as those of x.

        Raises:
            ValueError: they are not. In a graph the check fails when it runs.
        """
        message = format_error(
            "A ragged residual came with inputs whose rows have other lengths",
            "It is added number by number to the normalized inputs, so both have the same rows",
            "Make it with the row lengths of the inputs",
        )
        pairs = list(zip(residual.nested_row_splits, x.nested_row_splits, strict=False))
        if residual.ragged_rank != x.ragged_rank:
            raise ValueError(message)
        if all(mine is theirs for mine, theirs in pairs):
            return residual
        if tf.executing_eagerly():
            if not all(mine.shape == theirs.shape and np.array_equal(mine, theirs) for mine, theirs in pairs):
                raise ValueError(message)
            return residual
        checks = [tf.debugging.assert_equal(mine, theirs, message) for mine, theirs in pairs]
        with tf.control_dependencies(checks):
            return residual.with_flat_values(tf.identity(residual.flat_values))

    def pad(self, x: Any) -> tuple[Tensor, Tensor, Callable[[Tensor], Any]]:
        """A ragged tensor padded with zeros, a mask of its own numbers, and the function that extracts these again."""
        inside: Tensor = x.with_flat_values(tf.ones(tf.shape(x.flat_values)[:1], tf.bool)).to_tensor()

        def restore(y: Tensor) -> Any:
            return x.with_flat_values(tf.boolean_mask(y, inside))

        return x.to_tensor(), inside, restore

    def pad_weights(self, *weights: Any) -> list[Any]:
        """A mask and weights, which may be ragged themselves, as dense tensors."""
        return [each.to_tensor() if self.is_ragged(each) else each for each in weights]


backend = TensorFlowBackend(engine)

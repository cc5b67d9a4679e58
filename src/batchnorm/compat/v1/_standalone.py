"""TensorFlow 1's base class of layers, for processes without Keras 2: scopes, variables, calls.

Subclasses may override the same methods as in the original, and these are called at the same times.
"""

import contextlib
import inspect
from collections.abc import Generator
from typing import Any

import numpy as np
import tensorflow as tf

from batchnorm._engines.tensorflow.private import add_variable, autograph, parts
from batchnorm._tf1.eager import active_tracker, check_variables_have_a_home
from batchnorm._tf1.objects import for_variables
from batchnorm._tf1.scope import snake_case, unique_object_name
from batchnorm._tf1.variables import existing_variables
from batchnorm.compat.v1._arguments import read_policy, warn_of_ignored
from batchnorm.compat.v1._inputs import check_shape
from batchnorm.compat.v1._layer_base import Surface
from batchnorm.errors import format_error

__all__ = ["Layer"]


class Layer(Surface):
    """A layer of TensorFlow 1.

    Args:
        trainable: whether its variables are trained and its updates run.
        name: variable scope and layer name.
        dtype: the layer's dtype; by default that of the first input.
        activity_regularizer: callable on the output.
        weights: initial values of the weights, in their order.
    """

    # Whether variables are of TensorFlow 2's kind if the variable scope does not say.
    _use_resource_variables = False

    def __init__(
        self,
        trainable: bool = True,
        name: Any = None,
        dtype: Any = None,
        *,
        activity_regularizer: Any = None,
        weights: Any = None,
        _scope: Any = None,
        _reuse: Any = None,
        **ignored: Any,
    ) -> None:
        warn_of_ignored(ignored)
        self.trainable = trainable
        self.stateful = False
        self.supports_masking = False
        self.built = False
        self.input_spec = None
        self.activity_regularizer = activity_regularizer
        self._trainable_weights, self._non_trainable_weights = [], []
        self._updates, self._losses, self._eager_losses, self._callable_losses = [], [], [], []
        # Inputs of all calls in graphs, which distinguish their updates and losses.
        self._seen = []
        self._initial_weights = weights
        self._set_dtype_policy(dtype)
        self._init_set_name(name)
        self._reuse = _reuse
        self._scope = None
        self._current_scope: Any = None
        if _scope:
            with tf.compat.v1.variable_scope(_scope) as captured:
                self._scope = captured

    def _set_dtype_policy(self, dtype: Any) -> None:
        self._dtype_policy = read_policy(dtype)

    def _init_set_name(self, name: Any) -> None:
        is_scope = isinstance(name, tf.compat.v1.VariableScope)
        unnamed = is_scope or not name
        self._name = unique_object_name(type(self).__name__) if unnamed else name
        # The name of the variable scope, which gets a number if it is taken.
        self._base_name: Any = name.name if is_scope else name or snake_case(type(self).__name__)

    def _set_scope(self, scope: Any = None) -> None:
        """Choose the variable scope, unless that has been done: `scope` if given, otherwise the layer's own name."""
        if self._scope is not None:
            return
        if self._reuse:
            opened = tf.compat.v1.variable_scope(self._base_name if scope is None else scope)
        else:
            opened = tf.compat.v1.variable_scope(scope, default_name=self._base_name)
        with opened as captured:
            self._scope = captured

    def _name_scope(self) -> str:
        """The op scope of the layer's ops."""
        return self._current_scope.original_name_scope

    @contextlib.contextmanager
    def _entered(self) -> Generator[None]:
        """The variable scope and its op scope. A built layer only reuses its own variables."""
        reuse = True if self.built else self._reuse
        with tf.compat.v1.variable_scope(self._scope, reuse=reuse, auxiliary_name_scope=False) as scope:
            self._current_scope = scope
            with tf.compat.v1.name_scope(self._name_scope()):
                yield

    def add_weight(
        self,
        name: str,
        shape: Any,
        dtype: Any = None,
        initializer: Any = None,
        regularizer: Any = None,
        trainable: bool | None = None,
        constraint: Any = None,
        use_resource: bool | None = None,
        synchronization: Any = tf.VariableSynchronization.AUTO,
        aggregation: Any = tf.compat.v1.VariableAggregation.NONE,
        partitioner: Any = None,
        *,
        experimental_autocast: bool = False,
    ) -> Any:
        """Make a variable in the layer's scope, or find it there, and count it among the weights.

        The arguments are those of `tf.compat.v1.get_variable`. Without an initializer the scope's own is used.

        Raises:
            ValueError: a variable that is synchronized on reading cannot be trained.
        """
        del experimental_autocast  # only Keras 2's mixed precision uses it
        on_read = synchronization == tf.VariableSynchronization.ON_READ
        if on_read and trainable:
            raise ValueError(
                format_error(
                    f"add_weight({name!r}) was asked for a trainable variable with synchronization ON_READ",
                    "Each replica then has a value of its own, which no optimizer could update",
                    "Leave one of the two out",
                )
            )
        trained = (not on_read if trainable is None else trainable) and self.trainable
        regularizer, constraint = for_variables(regularizer), for_variables(constraint)
        known = existing_variables()
        self._set_scope()
        with self._entered():
            made: Any = add_variable(
                self,
                name,
                shape=shape,
                dtype=tf.as_dtype(dtype or self.dtype or tf.float32),
                initializer=self._start(initializer),
                getter=tf.compat.v1.get_variable,
                overwrite=True,
                regularizer=for_variables(tf.compat.v1.get_variable_scope().regularizer),
                trainable=trained,
                constraint=constraint,
                use_resource=use_resource or self._use_resource_variables or None,
                synchronization=synchronization,
                aggregation=aggregation,
                partitioner=partitioner,
            )
            kept = parts(made)
            # A scope's custom getter may have decided that the variable is not to be trained, or return a tensor.
            trained = trained and all(getattr(part, "trainable", True) for part in kept)
            (self._trainable_weights if trained else self._non_trainable_weights).extend(kept)
            is_new = not {part.name for part in kept} & known
            if regularizer is not None and (is_new or _is_eager()):
                self._handle_weight_regularization(name, made, regularizer)
                tracker = active_tracker()
                if tracker is not None:
                    tracker.add_regularizer(made, regularizer)
        return made

    def add_variable(self, *args: Any, **kwargs: Any) -> Any:
        """The older name of `add_weight`."""
        return self.add_weight(*args, **kwargs)

    def _start(self, initializer: Any) -> Any:
        if self._initial_weights is not None:
            place = len(self._trainable_weights) + len(self._non_trainable_weights)
            return tf.compat.v1.constant_initializer(np.asarray(self._initial_weights[place]))
        return tf.compat.v1.get_variable_scope().initializer if initializer is None else initializer

    def _handle_weight_regularization(self, name: str, variable: Any, regularizer: Any) -> None:
        def loss(part: Any) -> Any:
            with tf.compat.v1.name_scope(name + "/Regularizer"):
                return regularizer(part)

        for part in parts(variable):
            self.add_loss(lambda part=part: loss(part))

    def _handle_activity_regularization(self, inputs: Any, outputs: Any) -> None:
        if self.activity_regularizer is None:
            return
        regularizer = for_variables(self.activity_regularizer)
        with tf.compat.v1.name_scope("ActivityRegularizer"):
            for output in tf.nest.flatten(outputs):
                loss = tf.convert_to_tensor(regularizer(output))
                self.add_loss(loss / tf.cast(tf.shape(output)[0], loss.dtype), inputs=inputs)

    def add_loss(self, losses: Any, inputs: Any = None) -> None:
        """Count losses: tensors, or functions without arguments that return one. In a graph they are collected too.

        Args:
            inputs: accepted for compatibility; the graph shows which inputs a loss depends on.
        """
        del inputs
        for loss in tf.nest.flatten(losses):
            if _is_eager():
                (self._callable_losses if callable(loss) else self._eager_losses).append(loss)
                continue
            value: Any = loss() if callable(loss) else loss
            if value is None:
                continue
            value = tf.convert_to_tensor(value)
            if callable(loss):
                self._callable_losses.append(lambda value=value: value)
            else:
                self._losses.append(value)
            _collect([value], tf.compat.v1.GraphKeys.REGULARIZATION_LOSSES)

    def add_update(self, updates: Any) -> None:
        """Count updates: ops, tensors, or functions that return one. In eager code the functions just run."""
        for update in tf.nest.flatten(updates):
            made = update() if callable(update) else update
            if not _is_eager() and made is not None:
                self._updates.append(getattr(made, "op", made))

    def build(self, input_shape: Any) -> None:
        """Make the variables."""
        del input_shape
        self.built = True

    def call(self, inputs: Any, **kwargs: Any) -> Any:
        """What the layer computes."""
        del kwargs
        return inputs

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return self._call_in_scope(autograph.control_status_ctx(), inputs, *args, **kwargs)

    # AutoGraph would rewrite everything below at each trace, and none of our code branches on a tensor.
    @tf.autograph.experimental.do_not_convert
    def _call_in_scope(self, around: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        check_variables_have_a_home(f"{type(self).__name__} {self._name!r}")
        takes = inspect.signature(self.call).parameters
        scope = kwargs.pop("scope", None)
        self._set_scope(scope)
        with self._entered():
            inputs = _as_tensors(inputs)
            if _is_eager():
                self._eager_losses.clear()
            else:
                self._seen += tf.nest.flatten(inputs)
            check_shape(self, inputs)
            self._maybe_build(inputs)
            if "scope" in takes:
                kwargs["scope"] = self._current_scope
            if "training" not in takes and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
                kwargs.pop("training", None)
            outputs = self._converted_call(around)(inputs, *args, **kwargs)
            if outputs is None:
                raise ValueError(
                    format_error(
                        f"{type(self).__name__}.call returned None",
                        "A layer's `call` method should return a tensor or a list of them",
                        "Return what the layer computes",
                    )
                )
            self._handle_activity_regularization(inputs, outputs)
        if not _is_eager():
            _collect(self.updates, tf.compat.v1.GraphKeys.UPDATE_OPS)
        return outputs

    def _converted_call(self, around: Any) -> Any:
        """`call`; a subclass's own may branch on tensors, which AutoGraph turns into conditions."""
        # A function made by `exec` may have no module.
        module: str = getattr(type(self).call, "__module__", None) or ""
        ours = module.startswith("batchnorm.") and "call" not in vars(self)
        return self.call if ours else autograph.tf_convert(self.call, around)

    def _maybe_build(self, inputs: Any) -> None:
        if self.built:
            return
        first = tf.nest.flatten(inputs)[0]
        if self.compute_dtype is None:
            self._set_dtype_policy(first.dtype.base_dtype.name)
        self.build(tf.nest.map_structure(lambda x: x.shape, inputs))
        self.built = True

    def apply(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The same as calling the layer."""
        return self(inputs, *args, **kwargs)


def _is_eager() -> bool:
    return tf.compat.v1.executing_eagerly_outside_functions()


def _as_tensors(inputs: Any) -> Any:
    """The inputs with tensors in place of arrays and numbers; lists that contain nothing else become one tensor."""
    if not any(tf.is_tensor(x) or isinstance(x, tf.Variable) for x in tf.nest.flatten(inputs)):
        return tf.convert_to_tensor(inputs)
    return tf.nest.map_structure(
        lambda x: tf.convert_to_tensor(x) if isinstance(x, (np.ndarray, float, int)) else x, inputs
    )


def _collect(elements: list[Any], name: str) -> None:
    collected = tf.compat.v1.get_collection_ref(name)
    known = {id(element) for element in collected}
    collected.extend(element for element in elements if id(element) not in known)

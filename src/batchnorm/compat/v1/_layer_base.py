"""What a TensorFlow 1 layer exposes: variables, updates, losses, names, configuration."""

from collections.abc import Callable
from copy import copy, deepcopy
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from batchnorm._engines.tensorflow.private import BOOKKEEPING, MODULE_IGNORES
from batchnorm._tf1.updates import reaches
from batchnorm.compat.v1._arguments import Policy
from batchnorm.errors import format_error, warn_user

__all__ = ["InputSpec", "Surface"]


class InputSpec(NamedTuple):
    """Rank and channel sizes of the inputs that a built layer takes."""

    ndim: int | None
    axes: dict[int, int]


class Surface(tf.Module):
    """The layer's attributes. `tf.Module.__init__` is not called: it would take an op name from the graph."""

    # Where tf.Module must not look for variables: lists of what also has its own attribute, and what is not part of
    # the layer.
    _TF_MODULE_IGNORED_PROPERTIES = frozenset(
        {
            *MODULE_IGNORES,
            *("_trainable_weights", "_non_trainable_weights", "_seen", "_updates", "_losses"),
            *("_eager_losses", "_callable_losses", "_initial_weights"),
        }
    )

    trainable: bool
    stateful: bool
    built: bool
    supports_masking: bool
    activity_regularizer: Any
    input_spec: Any
    _name: str
    _scope: Any
    _dtype_policy: Policy
    _trainable_weights: list[Any]
    _non_trainable_weights: list[Any]
    _updates: list[Any]
    _losses: list[Any]
    _eager_losses: list[Any]
    _callable_losses: list[Callable[[], Any]]
    _seen: list[Any]

    def __setattr__(self, name: str, value: Any) -> None:
        # Checkpoints find the variables by name, whatever attributes hold them.
        object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """The layer's own name, which may differ from that of its variable scope."""
        return self._name

    @property
    def name_scope(self) -> Any:
        """The op scope of the layer, once it has been called."""
        return tf.compat.v1.name_scope(self._name if self._scope is None else self._scope.original_name_scope)

    @property
    def scope_name(self) -> str:
        """The name of the variable scope; it is settled by the first call."""
        if self._scope is None:
            raise ValueError(
                format_error(
                    f"scope_name of the layer {self._name!r} was asked for",
                    "No name available for layer scope: it is determined the first time the layer instance is called",
                    "Call the layer first",
                )
            )
        return self._scope.name

    @property
    def graph(self) -> None:
        """Always None, as in the original, which stopped tracking the graph."""
        warn_user("`graph` of a layer is deprecated: layers do not track their graph.")
        if tf.executing_eagerly():
            raise RuntimeError(
                format_error(
                    "graph was asked for eagerly", "There is no graph in eager code", "Do without it"
                )
            )

    @property
    def dtype(self) -> str | None:
        """The name of the variables' dtype, or None before the first call if none was given."""
        return self._dtype_policy.variable_dtype

    variable_dtype = dtype
    _dtype = dtype

    @property
    def compute_dtype(self) -> str | None:
        """The name of the dtype of the output."""
        return self._dtype_policy.compute_dtype

    _compute_dtype = compute_dtype

    @property
    def dtype_policy(self) -> Policy:
        """Both dtypes, and the policy's name."""
        return self._dtype_policy

    @property
    def dynamic(self) -> bool:
        """Always False: the layer can be part of a graph."""
        return False

    @property
    def metrics(self) -> list[Any]:
        """Always empty: the layer measures nothing."""
        return []

    @property
    def inbound_nodes(self) -> list[Any]:
        """Always empty, as for any layer outside Keras 2's models."""
        return []

    outbound_nodes = inbound_nodes

    @property
    def trainable_weights(self) -> list[Any]:
        return list(self._trainable_weights) if self.trainable else []

    @property
    def non_trainable_weights(self) -> list[Any]:
        if self.trainable:
            return list(self._non_trainable_weights)
        return self._trainable_weights + self._non_trainable_weights

    @property
    def weights(self) -> list[Any]:
        return self.trainable_weights + self.non_trainable_weights

    @property
    def trainable_variables(self) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.trainable_weights

    @property
    def non_trainable_variables(self) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.non_trainable_weights

    @property
    def variables(self) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.weights

    def get_weights(self) -> list[Any]:
        """The values of `weights`, as NumPy arrays."""
        if tf.executing_eagerly():
            return [variable.numpy() for variable in self.weights]
        return _session("get_weights").run(self.weights)

    def set_weights(self, weights: Any) -> None:
        """Assign arrays to `weights`, in their order.

        Raises:
            ValueError: the number of arrays is not that of the weights, or a shape differs.
        """
        weights = [np.asarray(value) for value in weights]
        expected = [tuple(variable.shape) for variable in self.weights]
        given = [value.shape for value in weights]
        if given != expected:
            raise ValueError(
                format_error(
                    f"set_weights of the layer {self._name!r} was given arrays of shapes {given}",
                    f"Its weights have shapes {expected}",
                    "Pass what get_weights of such a layer returns",
                )
            )
        if tf.executing_eagerly():
            for variable, value in zip(self.weights, weights, strict=True):
                variable.assign(value)
            return
        # Run the initializers with other values, which adds no op to the graph.
        starts = [variable.initializer for variable in self.weights]
        feeds = {start.inputs[1]: value for start, value in zip(starts, weights, strict=True)}
        _session("set_weights").run(starts, feeds)

    def count_params(self) -> int:
        """How many numbers the variables hold.

        Raises:
            ValueError: the layer has no variables yet.
        """
        if not self.built:
            raise ValueError(
                format_error(
                    f"count_params of the layer {self._name!r} was asked for",
                    "The layer isn't built, so it has no variables yet",
                    "Call the layer first",
                )
            )
        return sum(int(tf.TensorShape(variable.shape).num_elements() or 0) for variable in self.weights)

    @property
    def updates(self) -> list[Any]:
        """The update ops of all calls that trained, two each; none of a layer that is not trainable."""
        return list(self._updates) if self.trainable or self.stateful else []

    def get_updates_for(self, inputs: Any) -> list[Any]:
        """The update ops that depend on `inputs` (a tensor or a list); with None, those that depend on no input."""
        if inputs is None:
            return [op for op in self.updates if not reaches(self._seen, op)]
        sources = tf.nest.flatten(inputs)
        return [op for op in self.updates if reaches(sources, op)]

    @property
    def losses(self) -> list[Any]:
        """The losses added: of outputs, and of parameters."""
        of_parameters = [loss() for loss in self._callable_losses]
        return [*self._losses, *self._eager_losses, *(loss for loss in of_parameters if loss is not None)]

    def get_losses_for(self, inputs: Any) -> list[Any]:
        """The losses of outputs that depend on `inputs`; with None, those that depend on no input."""
        if tf.compat.v1.executing_eagerly_outside_functions():
            return self.losses
        if inputs is None:
            return [loss for loss in self.losses if not reaches(self._seen, loss.op)]
        sources = tf.nest.flatten(inputs)
        return [loss for loss in self.losses if reaches(sources, loss.op)]

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask of the output: that of the input."""
        del inputs
        return mask

    def compute_output_signature(self, input_signature: Any) -> tf.TensorSpec:
        """Shape and dtype of the output for a `tf.TensorSpec` of the input."""
        shape = self.compute_output_shape(input_signature.shape)
        return tf.TensorSpec(shape, self.compute_dtype or input_signature.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the output: that of the input."""
        return tf.TensorShape(input_shape)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A separate layer with the same options; tensors, variables and the scope are shared."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        for name, value in self.__dict__.items():
            if name.startswith(BOOKKEEPING):
                continue
            if name in self._TF_MODULE_IGNORED_PROPERTIES and isinstance(value, list):
                value = list(value)
            elif name in ("_scope", "_current_scope"):
                value = copy(value)
            elif not tf.is_tensor(value) and not isinstance(value, tf.Variable):
                value = deepcopy(value, memo)
            setattr(twin, name, value)
        return twin

    def get_config(self) -> dict[str, Any]:
        """The arguments that every layer has."""
        return {"name": self._name, "trainable": self.trainable, "dtype": self._dtype_policy.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """A layer from what `get_config` returned."""
        return cls(**config)


def _session(method: str) -> Any:
    session = tf.compat.v1.get_default_session()
    if session is None:
        raise ValueError(
            format_error(
                f"{method} was asked for",
                "A graph's values live in a session, and none is active",
                "Open one",
            )
        )
    return session

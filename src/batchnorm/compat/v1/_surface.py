"""What a TensorFlow 1 layer shows of itself: variables, updates, losses, names, configuration."""

import warnings
from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import tensorflow as tf

from batchnorm._graph.objects import serialize
from batchnorm._graph.scope import LayerScope
from batchnorm._graph.updates import reaches
from batchnorm.errors import refusal

__all__ = ["InputSpec", "Record", "Surface"]

CONFIG = (
    "axis",
    "momentum",
    "epsilon",
    "center",
    "scale",
    "renorm",
    "renorm_clipping",
    "renorm_momentum",
    "virtual_batch_size",
)
OBJECTS = (
    "beta_initializer",
    "gamma_initializer",
    "moving_mean_initializer",
    "moving_variance_initializer",
    "beta_regularizer",
    "gamma_regularizer",
    "beta_constraint",
    "gamma_constraint",
)


class InputSpec(NamedTuple):
    """Rank and channel sizes of the inputs that a built layer takes."""

    ndim: int | None
    axes: dict[int, int]


@dataclass
class Record:
    """What a layer remembers between calls; kept apart from its attributes, which checkpoints walk."""

    scope: LayerScope
    trainable: list[Any] = field(default_factory=list[Any])
    others: list[Any] = field(default_factory=list[Any])
    updates: list[Any] = field(default_factory=list[Any])
    losses: list[Callable[[], Any]] = field(default_factory=list[Callable[[], Any]])
    activity: list[tuple[Any, Any]] = field(default_factory=list[tuple[Any, Any]])
    axes: tuple[int, ...] | None = None
    rank: int | None = None
    sizes: dict[int, int] = field(default_factory=dict[int, int])
    sample: bool = True
    warned: set[str] = field(default_factory=set[str])


class Surface(tf.Module):
    """The read-only side of the layer. `tf.Module.__init__` is left out: it would take an op name from the graph."""

    _record: Record
    _name: str
    _dtype: Any
    _compute_dtype: Any
    trainable: bool
    wants_kernel: bool | None
    adjustment: Any
    ghost_order: str
    renorm_form: str

    @property
    def name(self) -> str:
        """The layer's own name, which may differ from that of its variable scope."""
        return self._name

    @property
    def name_scope(self) -> Any:
        """The op scope of the layer, once it has been called."""
        scope = self._record.scope.scope
        return tf.compat.v1.name_scope(self._name if scope is None else scope.original_name_scope)

    @property
    def scope_name(self) -> str:
        """The name of the variable scope; it is settled by the first call."""
        if self._record.scope.scope is None:
            raise ValueError(
                refusal(
                    f"scope_name of the layer {self._name!r} was asked for",
                    "No name available for layer scope: it is determined the first time the layer instance is called",
                    "Call the layer first",
                )
            )
        return self._record.scope.scope.name

    @property
    def _scope(self) -> Any:
        """The variable scope itself, under the name by which programs have always reached for it."""
        return self._record.scope.scope

    @property
    def input_spec(self) -> InputSpec | None:
        """What inputs a built layer takes; None before the first call."""
        return InputSpec(self._record.rank, self._record.sizes) if self.built else None

    @property
    def graph(self) -> None:
        """Always None, as in the original, which stopped tracking the graph."""
        warnings.warn("`graph` of a layer is deprecated: layers do not track their graph.", stacklevel=2)
        if tf.executing_eagerly():
            raise RuntimeError(
                refusal("graph was asked for eagerly", "There is no graph in eager code", "Do without it")
            )

    @property
    def dtype(self) -> str | None:
        """The name of the dtype, or None before the first call where none was given."""
        return None if self._compute_dtype is None else self._compute_dtype.name

    @property
    def built(self) -> bool:
        """Whether the variables exist."""
        return self._record.axes is not None

    @property
    def trainable_variables(self) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return list(self._record.trainable) if self.trainable else []

    @property
    def non_trainable_variables(self) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return list(self._record.others) if self.trainable else self._record.trainable + self._record.others

    @property
    def variables(self) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._record.trainable + self._record.others

    trainable_weights = trainable_variables
    non_trainable_weights = non_trainable_variables
    weights = variables

    def get_weights(self) -> list[Any]:
        """The values of `weights`, as NumPy arrays."""
        return _values(self.weights)

    def count_params(self) -> int:
        """How many numbers the variables hold.

        Raises:
            ValueError: the layer has no variables yet.
        """
        if not self.built:
            raise ValueError(
                refusal(
                    f"count_params of the layer {self._name!r} was asked for",
                    "The layer isn't built, so it has no variables yet",
                    "Call the layer first",
                )
            )
        return sum(int(tf.TensorShape(variable.shape).num_elements() or 0) for variable in self.variables)

    @property
    def updates(self) -> list[Any]:
        """The update ops of all calls that trained, two each; none of a layer that is not trainable."""
        return [op for op, _ in self._record.updates] if self.trainable else []

    def get_updates_for(self, inputs: Any) -> list[Any]:
        """The update ops that depend on `inputs` (a tensor or a list); with None, those that depend on no input."""
        if inputs is None:
            sources = [source for _, source in self._record.updates]
            return [op for op in self.updates if not reaches(sources, op)]
        sources = tf.nest.flatten(inputs)
        return [op for op in self.updates if reaches(sources, op)]

    @property
    def losses(self) -> list[Any]:
        """The regularization losses: one for each regularized parameter, and one for each regularized output."""
        return [loss() for loss in self._record.losses] + [loss for loss, _ in self._record.activity]

    def get_losses_for(self, inputs: Any) -> list[Any]:
        """The losses of outputs that depend on `inputs`; with None, those of the parameters, which depend on none."""
        if inputs is None:
            return [loss() for loss in self._record.losses]
        sources = tf.nest.flatten(inputs)
        return [loss for loss, _ in self._record.activity if reaches(sources, loss.op)]

    def compute_output_shape(self, input_shape: Any) -> tf.TensorShape:
        """The shape of the output: that of the input."""
        return tf.TensorShape(input_shape)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A layer of its own with the same options; tensors, variables and the scope are shared."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        for name, value in self.__dict__.items():
            if name == "_record":
                twin._record = replace(
                    value, scope=copy(value.scope), updates=list(value.updates), losses=list(value.losses)
                )
            elif not name.startswith("_self_"):
                shared = tf.is_tensor(value) or isinstance(value, tf.Variable)
                setattr(twin, name, value if shared else deepcopy(value, memo))
        return twin

    def get_config(self) -> dict[str, Any]:
        """The arguments, so that `from_config` makes such a layer again. The axis is the user's own."""
        config: dict[str, Any] = {"name": self._name, "trainable": self.trainable, "dtype": self.dtype}
        config |= {key: getattr(self, key) for key in CONFIG}
        config |= {key: serialize(getattr(self, key)) for key in OBJECTS}
        config |= {
            "fused": self.wants_kernel,
            "ghost_order": self.ghost_order,
            "renorm_form": self.renorm_form,
        }
        if self.adjustment is not None:
            warnings.warn("The adjustment is a function and is left out of the layer's config.", stacklevel=2)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """A layer from what `get_config` returned."""
        return cls(**config)


def _values(variables: list[Any]) -> list[Any]:
    if tf.executing_eagerly():
        return [variable.numpy() for variable in variables]
    session = tf.compat.v1.get_default_session()
    if session is None:
        raise ValueError(
            refusal(
                "get_weights was asked for",
                "A graph's values live in a session, and none is active",
                "Open one",
            )
        )
    return session.run(variables)

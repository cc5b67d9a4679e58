"""Our own derivatives for TensorFlow: first order by the core's formulas, higher orders by differentiating those.

Whatever TensorFlow has to differentiate again consists of plain operations that it can see, not recorded on a tape of
our own: inside forward mode such a tape records nothing. And whatever a derivative reads must be an input of what it
differentiates: a derivative built inside a condition, a loop or a function can reach into the adjacent graph, but no
further.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from batchnorm._core.engine import Batch, Gradients, Inputs, Saved, State
from batchnorm._engines.tensorflow.private import (
    control_flow_context,
    could_possibly_record,
    pack_tangents,
    record_operation,
    should_record_backprop,
    stop_recording,
)

__all__ = ["differentiable", "near"]

Tensor = Any
Step = Callable[[Inputs[Tensor]], tuple[Tensor, Batch[Tensor]]]


def differentiable(
    forward: Callable[[Inputs[Tensor]], tuple[Tensor, Batch[Tensor], Saved[Tensor]]],
    backward: Callable[[Inputs[Tensor], Saved[Tensor], Tensor], Gradients[Tensor]],
    reference: Callable[[Inputs[Tensor], Tensor], Gradients[Tensor]],
    forward_mode: Callable[[Inputs[Tensor], Gradients[Tensor]], Tensor],
) -> Step:
    """`forward` with the gradient `backward` and tangents by `forward_mode`; `reference` gives higher orders."""

    def step(inputs: Inputs[Tensor]) -> tuple[Tensor, Batch[Tensor]]:
        is_eager, read = tf.executing_eagerly(), set[str]()
        if not is_eager:
            inputs = _order(inputs)
            inputs = inputs._replace(state=_Noted(inputs.state, read), weights=_in_graph(inputs.weights))
        fields = [name for name in Gradients._fields if _has_gradient(getattr(inputs, name))]
        # Reading a variable is recorded as usual; when a derivative is taken, it may hold another value.
        arrays = [_in_graph(_as_tensor(getattr(inputs, name))) for name in fields]
        scalars = {name: _in_graph(_as_tensor(value)) for name, value in (inputs.scalars or {}).items()}
        inputs = _with(inputs, fields, arrays)._replace(scalars=scalars)
        with stop_recording():
            y, batch, saved = forward(inputs)
            if not is_eager:
                batch, saved = _constant(batch), _apart(saved)

        def pull(dy: Tensor) -> list[Tensor]:
            dy = _as_tensor(dy)
            if _are_pushed([dy, *arrays]) or (is_eager and _are_watched([dy, *arrays])):
                return _chosen(reference(inputs, dy), fields)
            if is_eager:
                return _chosen(backward(inputs, saved, dy), fields)
            sources = [near(value) for value in (dy, *arrays)]
            local = _with(inputs, fields, sources[1:])._replace(
                weights=near(inputs.weights),
                state={slot: near(inputs.state[slot]) for slot in sorted(read)},
                scalars={name: near(value) for name, value in scalars.items()},
            )
            with stop_recording():
                found = _chosen(backward(local, saved, sources[0]), fields)
            return _derived(found, sources, lambda *upstream: pull_again(local, sources, upstream))

        def pull_again(
            local: Inputs[Tensor], sources: list[Tensor], upstream: Sequence[Tensor]
        ) -> list[Tensor | None]:
            dy, *copies = own = [tf.identity(source) for source in sources]
            found = _chosen(reference(_with(local, fields, copies), dy), fields)
            return tf.gradients(found, own, grad_ys=list(upstream))

        def push(*tangents: Tensor | None) -> list[Tensor]:
            given: dict[str, Any] = dict(zip(fields, tangents, strict=True))
            return [forward_mode(inputs, Gradients(*(given.get(name) for name in Gradients._fields)))]

        (y,) = _derived([y], arrays, pull, push)
        return y, batch

    return step


def _derived(
    results: list[Tensor],
    arrays: Sequence[Tensor],
    pull: Callable[..., Sequence[Tensor | None]],
    push: Callable[..., Sequence[Tensor]] | None = None,
) -> list[Tensor]:
    """The results computed from the arrays, with their gradient and forward-mode tangents attached.

    Eager mode avoids `tf.custom_gradient`, whose bookkeeping takes longer than the arithmetic on small arrays.
    """
    if not tf.executing_eagerly():
        with stop_recording():
            results = tf.custom_gradient(lambda *_: (results, pull))(*arrays)
    record_operation("BatchNormalization", results, list(arrays), pull, push)
    return results


def _has_gradient(value: Tensor | None) -> bool:
    return value is not None and value.dtype.is_floating


def _with(inputs: Inputs[Tensor], fields: Sequence[str], arrays: Sequence[Tensor]) -> Inputs[Tensor]:
    return inputs._replace(**dict(zip(fields, arrays, strict=True)))


def _chosen(gradients: Gradients[Tensor], fields: Sequence[str]) -> list[Tensor]:
    return [getattr(gradients, name) for name in fields]


def _as_tensor(value: Tensor) -> Tensor:
    return value if isinstance(value, tf.Tensor) else tf.convert_to_tensor(value)


def _are_pushed(arrays: list[Tensor]) -> bool:
    """Whether an accumulator of forward mode holds a tangent of one of them."""
    return could_possibly_record() and bool(pack_tangents(arrays).tangents)


def _are_watched(arrays: list[Tensor]) -> bool:
    """Whether a tape watches one of them."""
    return could_possibly_record() and should_record_backprop(arrays)


class _Noted(dict[str, Any]):
    """A state of tensors in the graph being built; it notes which slots are read."""

    def __init__(self, state: State[Tensor], read: set[str]) -> None:
        super().__init__(state)
        self._read = read

    def __getitem__(self, slot: str) -> Tensor:
        if slot not in self._read:
            self._read.add(slot)
            self[slot] = _in_graph(super().__getitem__(slot))
        return super().__getitem__(slot)


def _in_graph(value: Tensor) -> Tensor:
    """The same, as a tensor of the graph that is being built, if one is.

    Each graph would capture an eager tensor anew. And inside a branch of a loop's body, TensorFlow finds no tensor of
    another graph again when it differentiates the loop. In a branch of a TensorFlow 1 condition, the value is the one
    that the branch has switched: past the switch, a derivative would have no value when the other branch runs.
    """
    if value is None or tf.executing_eagerly():
        return value
    switched = control_flow_context(tf.compat.v1.get_default_graph()) is not None
    return tf.identity(value) if switched else near(value)


def near(value: Tensor) -> Tensor:
    """The value as a tensor of the graph that is being built."""
    here = value is None or getattr(value, "graph", None) is tf.compat.v1.get_default_graph()
    return value if here else tf.identity(value)


def _apart(saved: Saved[Tensor]) -> Saved[Tensor]:
    """The same for the gradient, if what it reads becomes a result of the function that is being built.

    TensorFlow differentiates every result of such a function, even through our ops that have no gradient.
    """
    graph: Any = tf.compat.v1.get_default_graph()
    if not graph.building_function:
        return saved
    return Saved(*(tf.stop_gradient(value) if isinstance(value, tf.Tensor) else value for value in saved))


def _constant(batch: Batch[Tensor]) -> Batch[Tensor]:
    """The same: no gradient flows through the moving averages, and none should be looked for through their inputs."""
    return Batch(*(None if value is None else tf.stop_gradient(value) for value in batch))


def _order(inputs: Inputs[Tensor]) -> Inputs[Tensor]:
    """The inputs, with x only after gamma and beta.

    `tf.custom_gradient` joins all arguments and results in one operation. The graph optimizer takes that for
    a path from the read of a variable to its update, drops the order between the two, and then takes the
    joint apart: where the gradient of y does not depend on y, the update could come before the read.
    """
    with tf.control_dependencies([value for value in (inputs.gamma, inputs.beta) if value is not None]):
        return inputs._replace(x=tf.identity(inputs.x, name="ordered"))

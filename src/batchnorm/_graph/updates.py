"""The state rules as assignments: ops for a graph to collect, or carried out on the spot."""

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from batchnorm._core.state import Rule, decrement, replacement, rules
from batchnorm._engines.protocol import Batch
from batchnorm._engines.tensorflow import ops
from batchnorm._graph.variables import flat
from batchnorm.options import Options

__all__ = ["FINAL", "apply_updates", "reaches", "update_ops"]

FINAL = ("moving_mean", "moving_variance")


class _Now(Mapping[str, Any]):
    """The state as it is where an op is being made: each access reads the variable anew."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables = variables

    def __getitem__(self, slot: str) -> Any:
        return flat(self._variables[slot].read_value())

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


def apply_updates(options: Options, variables: Mapping[str, Any], batch: Batch[Any]) -> None:
    """Carry out the rules now, or in the order of a function being traced."""
    for rule in rules(options):
        _assign(options, rule, variables, batch, name=None)


def update_ops(
    options: Options,
    variables: Mapping[str, Any],
    batch: Batch[Any],
    after: list[Any],
    wrappers: tuple[str, str] | None = None,
) -> list[Any]:
    """One op for the moving mean and one for the moving variance; either also updates what it rests on.

    Args:
        after: tensors that must have been read before anything is updated.
        wrappers: names under which the two are known where training is decided at run time.
    """
    side: list[Any] = list(after)
    final: list[Any] = []
    for rule in rules(options):
        with tf.control_dependencies(side):
            if rule.slot not in FINAL:
                side.append(_assign(options, rule, variables, batch, name="AssignMovingAvg"))
            elif wrappers is None:
                name = "AssignNewValue" if rule.decay is None and rule.slot == FINAL[1] else "AssignMovingAvg"
                final.append(_assign(options, rule, variables, batch, name=name).op)
            else:
                with tf.compat.v1.name_scope(wrappers[len(final)]):
                    done = _assign(options, rule, variables, batch, name="AssignMovingAvg")
                    end = "Identity" if tf.compat.v1.control_flow_v2_enabled() else "Merge"
                    final.append(tf.identity(done, name=end).op)
    return final


def reaches(sources: list[Any], target: Any) -> bool:
    """Whether an op depends on any of the tensors."""
    wanted = {id(source.op) for source in sources}
    seen: set[int] = set()
    waiting = [target]
    while waiting:
        op = waiting.pop()
        if id(op) in wanted:
            return True
        if id(op) not in seen:
            seen.add(id(op))
            waiting += [tensor.op for tensor in op.inputs]
            waiting += list(op.control_inputs)
    return False


def _assign(options: Options, rule: Rule, variables: Mapping[str, Any], batch: Batch[Any], name: str | None) -> Any:
    variable, state = variables[rule.slot], _Now(variables)
    with tf.compat.v1.name_scope(name) as scope:
        current = flat(variable.read_value())
        if rule.decay is None:
            value = replacement(ops, options, rule, current, state, batch)  # pyright: ignore[reportArgumentType]
            return variable.assign(_shaped(value, variable), name=scope or None)
        change = decrement(ops, options, rule, current, state, batch)  # pyright: ignore[reportArgumentType]
        return variable.assign_sub(_shaped(change, variable), name=scope or None)


def _shaped(value: Any, variable: Any) -> Any:
    return tf.reshape(tf.cast(value, variable.dtype.base_dtype), variable.shape)

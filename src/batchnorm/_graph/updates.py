"""The state rules as assignments: ops for a graph to collect, or carried out on the spot."""

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from batchnorm._core.state import Rule, decrement, replacement, rules
from batchnorm._engines.protocol import Batch
from batchnorm._engines.tensorflow import ops
from batchnorm._graph.scalars import in_dtype
from batchnorm._graph.variables import flat, is_ref
from batchnorm.options import Options

__all__ = ["FINAL", "SHADOWS", "apply_updates", "reaches", "update_ops", "updated_values"]

FINAL = ("moving_mean", "moving_variance")
# What the zero-debiased mean rests on, and nothing else does.
SHADOWS = ("biased", "local_step")


class _Now(Mapping[str, Any]):
    """The state as it is where an op is being made: each access reads the variable anew."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables = variables

    def __getitem__(self, slot: str) -> Any:
        return _current(self._variables[slot])

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


def apply_updates(options: Options, variables: Mapping[str, Any], batch: Batch[Any]) -> None:
    """Carry out the rules now, or in the order of a function being traced."""
    options = in_dtype(options, batch.mean.dtype)
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
    return [value.op for value in updated_values(options, variables, batch, after, wrappers)]


def updated_values(
    options: Options,
    variables: Mapping[str, Any],
    batch: Batch[Any],
    after: list[Any],
    wrappers: tuple[str, str] | None = None,
) -> list[Any]:
    """The same as what the assignments return: the new moving mean and the new moving variance."""
    options = in_dtype(options, batch.mean.dtype)
    side: list[tuple[str, Any]] = [("", value) for value in after]
    final: list[Any] = []
    for rule in rules(options):
        needed = [op for slot, op in side if slot not in SHADOWS or rule.slot in (*SHADOWS, FINAL[0])]
        with tf.control_dependencies(needed):
            if rule.slot not in FINAL:
                name = "AssignShadow" if rule.slot in SHADOWS else "AssignMovingAvg"
                side.append((rule.slot, _assign(options, rule, variables, batch, name=name)))
            elif wrappers is None:
                name = "AssignNewValue" if rule.decay is None and rule.slot == FINAL[1] else "AssignMovingAvg"
                final.append(_assign(options, rule, variables, batch, name=name))
            else:
                with tf.compat.v1.name_scope(wrappers[len(final)]):
                    done = _assign(options, rule, variables, batch, name="AssignMovingAvg")
                    end = "Identity" if tf.compat.v1.control_flow_v2_enabled() else "Merge"
                    final.append(tf.identity(done, name=end))
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


def _assign(
    options: Options, rule: Rule, variables: Mapping[str, Any], batch: Batch[Any], name: str | None
) -> Any:
    variable, state = variables[rule.slot], _Now(variables)
    with tf.compat.v1.name_scope(name) as scope:
        current = _current(variable)
        if rule.decay is None:
            value = replacement(ops, options, rule, current, state, batch)  # pyright: ignore[reportArgumentType]
            return variable.assign(_shaped(value, variable), name=scope or None)
        change = decrement(ops, options, rule, current, state, batch)  # pyright: ignore[reportArgumentType]
        # TensorFlow 2's variables subtract in an op of its own name inside the scope.
        own = scope if scope and is_ref(variable) else None
        return variable.assign_sub(_shaped(change, variable), name=own)


def _current(variable: Any) -> Any:
    """The value now, wide enough to average in."""
    value = flat(variable.read_value())
    return ops.cast(value, ops.stat_dtype(value))


def _shaped(value: Any, variable: Any) -> Any:
    return tf.reshape(tf.cast(value, variable.dtype.base_dtype), variable.shape)

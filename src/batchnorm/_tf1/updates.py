"""The state rules as assignments: ops for a graph to collect, or carried out on the spot."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from batchnorm._core.engine import Batch
from batchnorm._core.state import Rule, decrement, replacement, rules
from batchnorm._engines.tensorflow import ops
from batchnorm._engines.tensorflow.private import control_flow_context, is_ref, memory
from batchnorm._tf1.scalars import in_dtype
from batchnorm._tf1.variables import flat
from batchnorm.options import Options

__all__ = ["FINAL", "SHADOWS", "Assign", "apply_updates", "reaches", "update_ops", "updated_values"]

FINAL = ("moving_mean", "moving_variance")
# What the zero-debiased mean depends on, and nothing else does.
SHADOWS = ("biased", "local_step")

# (variable, value, decay) → what TensorFlow returns for the assignment; without a decay the value is assigned as is.
Assign = Callable[[Any, Any, Any], Any]


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


def apply_updates(
    options: Options, variables: Mapping[str, Any], batch: Batch[Any], by: Assign | None = None
) -> None:
    """Apply the rules now, or in program order in a function being traced.

    Args:
        by: assigns in place of this module; only the rules of `variables` are carried out.
    """
    options = in_dtype(options, batch.mean.dtype)
    share = _share(options, batch)
    for rule in rules(options):
        if rule.slot in variables:
            _assign(options, rule, variables, batch, share, None, by)


def update_ops(
    options: Options,
    variables: Mapping[str, Any],
    batch: Batch[Any],
    after: list[Any],
    wrappers: tuple[str, str] | None = None,
    by: Assign | None = None,
) -> list[Any]:
    """One op for the moving mean and one for the moving variance; each also updates what it depends on.

    Args:
        after: tensors that must have been read before anything is updated.
        wrappers: names of the two ops if training is decided at run time.
        by: assigns in place of this module; only the rules of `variables` are carried out.
    """
    made = updated_values(options, variables, batch, after, wrappers, by)
    return [getattr(value, "op", value) for value in made]


def updated_values(
    options: Options,
    variables: Mapping[str, Any],
    batch: Batch[Any],
    after: list[Any],
    wrappers: tuple[str, str] | None = None,
    by: Assign | None = None,
) -> list[Any]:
    """The same as what the assignments return: the new moving mean and the new moving variance."""
    options = in_dtype(options, batch.mean.dtype)
    share = _share(options, batch)
    side: list[tuple[str, Any]] = [("", value) for value in after]
    final: list[Any] = []
    for rule in rules(options):
        if rule.slot not in variables:
            continue
        needed = [op for slot, op in side if slot not in SHADOWS or rule.slot in (*SHADOWS, FINAL[0])]
        with tf.control_dependencies(needed):
            if rule.slot not in FINAL:
                name = "AssignShadow" if rule.slot in SHADOWS else "AssignMovingAvg"
                side.append((rule.slot, _assign(options, rule, variables, batch, share, name, by)))
            elif wrappers is None:
                name = "AssignNewValue" if rule.decay is None and rule.slot == FINAL[1] else "AssignMovingAvg"
                final.append(_assign(options, rule, variables, batch, share, name, by))
            else:
                with tf.compat.v1.name_scope(wrappers[len(final)]):
                    done = _assign(options, rule, variables, batch, share, "AssignMovingAvg", None)
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


def _share(options: Options, batch: Batch[Any]) -> Any:
    """1 − decay, or 0 if the batch turns out to be empty; None if each rule decides for itself."""
    return None if batch.total is None else tf.minimum(batch.total, 1.0 - options.decay)


def _assign(
    options: Options,
    rule: Rule,
    variables: Mapping[str, Any],
    batch: Batch[Any],
    share: Any,
    name: str | None,
    by: Assign | None,
) -> Any:
    variable, state = variables[rule.slot], _Now(variables)
    if by is not None:
        value = replacement(ops, options, rule, _current(variable), state, batch)
        return by(variable, _shaped(value, variable), rule.decay)
    with tf.compat.v1.name_scope(name) as scope:
        # Of two calls of a layer, one after the other by their data, the second reads what the first has stored.
        with tf.control_dependencies([batch.mean] if _orders_reads(variable) else []):
            current = _current(variable)
        # The original subtracts, even if nothing of the old value is kept.
        if rule.decay is None:
            value = replacement(ops, options, rule, current, state, batch)
            return variable.assign(_shaped(value, variable), name=scope or None)
        change = decrement(ops, options, rule, current, state, batch, share)
        # TensorFlow 2's variables subtract in an op of its own name inside the scope.
        own = scope if scope and is_ref(variable) else None
        return variable.assign_sub(_shaped(change, variable), name=own)


def _orders_reads(variable: Any) -> bool:
    """Whether a read of the variable happens at any time unless it is told when: in a TensorFlow 1 graph."""
    return not tf.executing_eagerly() and not is_ref(variable)


def _current(variable: Any) -> Any:
    """The value now, wide enough to average in."""
    if is_ref(variable) and variable.shape.rank == 1 and _is_bare(variable):
        return memory(variable)  # read by whichever op takes it
    value = flat(variable.read_value())  # `value` may be a cache's
    return ops.cast(value, ops.stat_dtype(value))


def _is_bare(variable: Any) -> bool:
    """Whether the variable's own memory can be used: outside conditions, and if its dtype is wide enough."""
    graph: Any = tf.compat.v1.get_default_graph()
    inside = graph.building_function or control_flow_context(graph) is not None
    dtype = variable.dtype.base_dtype
    return not inside and dtype in (tf.float32, tf.float64)


def _shaped(value: Any, variable: Any) -> Any:
    return ops.reshape(tf.cast(value, variable.dtype.base_dtype), variable.shape.as_list())

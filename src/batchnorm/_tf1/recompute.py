"""`tf.recompute_grad` for functions that contain batch normalization.

It runs a function a second time for the gradient. By then the moving statistics have moved, and they must not move
again; renorm's corrections must be those of the first run. TensorFlow does not say which run is which, so the function
is wrapped here.
"""

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import tensorflow as tf

from batchnorm._engines.tensorflow.private import CondBranchFuncGraph
from batchnorm.errors import format_error

__all__ = ["is_recomputing", "recall", "recompute_grad"]

State = Mapping[str, Any]


@dataclass(eq=False)
class _Run:
    """What each step read in a first run, in order; a later run reads it again."""

    seen: list[State] = field(default_factory=list[State])
    replays: bool = False
    steps: int = 0


class _Runs(threading.local):
    """The runs around the current call, outermost first. The gradient may run in a thread of its own."""

    def __init__(self) -> None:
        self.stack: list[_Run] = []


_runs = _Runs()


def recompute_grad(f: Callable[..., Any]) -> Callable[..., Any]:
    """`tf.recompute_grad`: runs `f` again for its gradient instead of keeping what the gradient needs.

    If `f` normalizes by batches, the second run leaves the moving statistics alone and reads the values that the first
    run read. `f` must do the same each time it runs.

    Args:
        f: a function of tensors.

    Returns:
        A function of the same arguments and results.

    Raises:
        RuntimeError: the second run takes more training steps than the first, or a step is taken in a branch of a
            condition.

    Examples:
        >>> import tensorflow as tf
        >>> from batchnorm.compat.v1 import recompute_grad
        >>> from batchnorm.keras.layers import BatchNormalization
        >>> layer, x = BatchNormalization(momentum=0.5), tf.constant([[1.0], [3.0]])
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(x)
        ...     y = recompute_grad(lambda x: layer(x, training=True))(x)
        >>> _ = tape.gradient(y, x)
        >>> float(layer.moving_mean[0])
        1.0
    """

    @wraps(f)
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        seen: list[State] = []
        run_before = False

        @wraps(f)
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal run_before
            with _entered(_Run(seen, replays=run_before)):
                result = f(*args, **kwargs)
            run_before = True
            return result

        return tf.recompute_grad(run)(*args, **kwargs)

    return recomputed


@contextmanager
def _entered(run: _Run) -> Generator[None]:
    _runs.stack.append(run)
    try:
        yield
    finally:
        _runs.stack.pop()


def is_recomputing() -> bool:
    """Whether the moving statistics must stay as they are."""
    return any(run.replays for run in _runs.stack)


def recall(state: State) -> State:
    """The state that a training step must read: in a second run, what the first run read."""
    for run in reversed(_runs.stack):
        if run.replays:
            if run.steps >= len(run.seen):
                raise RuntimeError(
                    format_error(
                        "A recomputed function takes more training steps than in its first run",
                        "Each step must read what it read then",
                        "Give recompute_grad functions that do the same each time they run",
                    )
                )
            state = run.seen[run.steps]
            run.steps += 1
            break
    recording = [run for run in _runs.stack if not run.replays]
    if recording and isinstance(tf.compat.v1.get_default_graph(), CondBranchFuncGraph):
        raise RuntimeError(
            format_error(
                "A function given to recompute_grad trains on one side of a condition",
                "What is read there cannot be read again by the second run, which is a condition of its own",
                "Decide on training outside of the function, and call it with True or False",
            )
        )
    for run in recording:
        run.seen.append(dict(state))
    return state

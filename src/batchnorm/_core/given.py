"""An engine that takes the moments as given, for example from a subclass of a layer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from batchnorm._core.composed import Composed
from batchnorm._core.engine import A, Batch, Engine, Inputs, Moments
from batchnorm.layout import Layout

__all__ = ["given"]


@dataclass(frozen=True)
class _Given(Composed[A]):
    known: Moments[A]

    def moments(self, x: A, weights: A | None, layout: Layout) -> Moments[A]:
        return self.known


def given(engine: Engine[A], known: Moments[A]) -> Engine[A]:
    """The engine's plain operations around the moments `known`. The framework differentiates all of it."""
    ops = engine.ops

    def as_it_is(forward: Callable[..., Any], *_: Any) -> Callable[[Inputs[A]], tuple[A, Batch[A]]]:
        def step(inputs: Inputs[A]) -> tuple[A, Batch[A]]:
            y, batch, _ = forward(inputs)
            # The moving averages have no gradient.
            return y, Batch(*(None if value is None else ops.stop_gradient(value) for value in batch))  # pyright: ignore[reportArgumentType]

        return step

    return _Given(ops, as_it_is, engine.sum_over_replicas, known)

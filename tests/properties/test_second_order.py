"""TensorFlow's second derivatives against slopes of the oracle's gradients. In float64, on small shapes."""

from collections.abc import Mapping

import numpy as np
import pytest
import tensorflow as tf

import oracle
from batchnorm._core.state import initial_state
from batchnorm.options import Clip, Ghost, Options, Renorm
from properties.cases import Array, Batch, Case, batches_of, initial_of, spec_of
from properties.tensorflow_runner import arrays_of, forward, ops, signature, tensors_of
from tolerances import assert_close

pytestmark = pytest.mark.needs("tensorflow")

# r and d are constants of the gradient. Bounds that hold them make them constants of the oracle as well.
HELD = Clip(rmin=1.2, rmax=1.2, dmax=0.01)
CASES = {
    "plain": Case(Options((-1,)), (5, 3)),
    "composed": Case(Options((-1,), fused=False), (5, 3)),
    "no affine": Case(Options((1,), with_gamma=False, with_beta=False), (3, 2, 3)),
    "two axes": Case(Options((1, 3)), (3, 2, 2, 2)),
    "batch kept": Case(Options((0,)), (3, 4)),
    "example weights": Case(Options((-1,)), (5, 3), weights=(5, 1)),
    "element weights": Case(Options((1,)), (3, 2, 2), weights=(3, 2, 2)),
    "zero weights": Case(Options((-1,)), (6, 2), weights=(6, 1), weightless="some"),
    "synchronized": Case(Options((-1,), synchronized=True), (5, 3), weights=(5, 1)),
    "interleaved": Case(Options((-1,), ghost=Ghost(3)), (6, 2), weights=(6, 1)),
    "contiguous": Case(Options((1,), ghost=Ghost(2, "contiguous")), (4, 2, 2)),
    "channel adjustment": Case(Options((1,)), (4, 2, 2), adjustment=((1, 2, 1), (2, 1))),
    "example adjustment": Case(Options((-1,)), (5, 3), adjustment=((5, 1), (5, 3))),
    "renorm": Case(Options((-1,), renorm=Renorm(HELD)), (5, 3), offset=5.0),
    "renorm and ghosts": Case(Options((-1,), renorm=Renorm(HELD), ghost=Ghost(3)), (6, 2), offset=5.0),
    "silu": Case(Options((-1,), activation="silu"), (5, 3), residual=True),
    "relu and weights": Case(Options((1,), activation="relu"), (3, 2, 2), weights=(3, 2, 2)),
    "gelu and renorm": Case(Options((-1,), renorm=Renorm(HELD), activation="gelu"), (5, 3), offset=5.0),
}


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_are_slopes_of_the_first(name: str, mode: str) -> None:
    case = CASES[name]
    batch, directions = batches_of(case)[0], directions_of(case)
    state = initial_state(ops, case.options, *map(tf.constant, initial_of(case)))

    def second(arrays: dict) -> dict:
        """The gradient of sum(direction * gradient), with respect to all that is given and dy."""
        with tf.GradientTape() as outer:
            outer.watch(arrays)
            sources = {name: value for name, value in arrays.items() if name != "dy"}
            with tf.GradientTape() as inner:
                inner.watch(sources)
                y, _ = forward(case.options, sources, state)
            first = inner.gradient(y, sources, arrays["dy"])
            total = tf.add_n([tf.reduce_sum(directions[name] * value) for name, value in first.items()])
        return outer.gradient(total, arrays, unconnected_gradients="zero")

    if mode == "graph":
        specs = signature(case.options, batch, "unknown")
        second = tf.function(second, autograph=False, input_signature=[specs])
    found = second(tensors_of(batch))
    for what, slopes in slopes_of_the_oracle(case, batch, directions).items():
        assert_close(found[what].numpy(), slopes, "float64", f"{name}: {what}", within=1e-6)


def directions_of(case: Case) -> dict[str, Array]:
    random = np.random.RandomState(case.seed + 2)
    return {name: random.randn(*value.shape) for name, value in batches_of(case)[0].given.items()}


def slopes_of_the_oracle(
    case: Case, batch: Batch, directions: Mapping[str, Array], step: float = 1e-5
) -> dict:
    spec = spec_of(case.options)
    state = oracle.init_state(spec, case.shape, *initial_of(case))
    point = {name: value.copy() for name, value in arrays_of(batch).items()}

    def total() -> float:
        pair = None
        if "dscale_adjustment" in point:
            pair = point["dscale_adjustment"], point["dbias_adjustment"]
        values = (point.get(name) for name in ("dx", "dgamma", "dbeta", "dy", "dweights"))
        first = oracle.gradients(spec, state, *values, pair, residual=point.get("dresidual"))
        return sum(float(np.sum(directions[name] * value)) for name, value in first.items())

    found: dict[str, Array] = {}
    for name, value in point.items():
        found[name] = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            center = value[index]
            value[index] = center + step
            above = total()
            value[index] = center - step
            below = total()
            value[index] = center
            found[name][index] = (above - below) / (2 * step)
    return found

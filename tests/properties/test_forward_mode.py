"""TensorFlow's forward mode, alone and with reverse mode around or inside it, against the oracle in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import oracle
from batchnorm._core.state import initial_state
from properties.cases import Array, Case, batches_of, initial_of, spec_of
from properties.tensorflow_runner import forward, ops
from properties.test_second_order import CASES
from tolerances import assert_close

pytestmark = pytest.mark.needs("tensorflow")

# Where the differentiation takes place, and the function that is differentiated.
MODES = ("graph", "calls", "xla", "calls of xla")
# Cases that a graph may treat differently from the plain one.
TANGENTS = [(name, "eager") for name in CASES] + [
    (name, mode) for mode in MODES for name in ("plain", "zero weights", "renorm and ghosts")
]
PRODUCTS = [
    *((name, "eager") for name in ("plain", "composed", "element weights", "example adjustment")),
    *((name, mode) for mode in ("eager", "graph") for name in ("zero weights", "renorm and ghosts")),
    *(("plain", mode) for mode in MODES),
]
# If a function is traced before it is differentiated, TensorFlow gets the first wrong, even with only its own
# operations, and takes minutes for the second.
LEFT_OUT_IN_CALLS = ("reverse over forward", "forward over forward")


@pytest.mark.parametrize(("name", "mode"), TANGENTS)
def test_tangents(name: str, mode: str) -> None:
    case = CASES[name]
    point, directions = point_of(case)
    y = function_of(case, mode)

    def tangent(point: dict, directions: dict) -> Any:
        with tf.autodiff.ForwardAccumulator(values(point), values(directions)) as accumulator:
            return accumulator.jvp(y(point))

    found = within(mode, tangent)(tensors(point), tensors(directions))
    expected = np.zeros(case.shape)
    for index in np.ndindex(case.shape):
        unit = np.zeros(case.shape)
        unit[index] = 1.0
        rows = gradients_by_oracle(case, point, unit)
        expected[index] = sum(np.sum(rows[what] * directions[what]) for what in point)
    assert_close(found.numpy(), expected, "float64", f"{name}, {mode}", within=1e-9)


@pytest.mark.parametrize(("name", "mode"), PRODUCTS)
def test_products_with_the_hessian(name: str, mode: str) -> None:
    """Of Σ dy·sin(y), in each of the four orders of the two modes."""
    case = CASES[name]
    point, directions = point_of(case)
    dy, y = tf.constant(batches_of(case)[0].dy), function_of(case, mode)

    def loss(point: dict) -> Any:
        return tf.reduce_sum(dy * tf.sin(y(point)))

    def forward_over_reverse(point: dict, directions: dict) -> Any:
        with tf.autodiff.ForwardAccumulator(values(point), values(directions)) as accumulator:
            first = gradient(point)
        return [accumulator.jvp(value) for value in first]

    def reverse_over_forward(point: dict, directions: dict) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(point)
            slope = along(point, directions)
        return tape.gradient(slope, values(point))

    def reverse_over_reverse(point: dict, directions: dict) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(point)
            first = gradient(point)
        return tape.gradient(first, values(point), values(directions))

    def forward_over_forward(point: dict, directions: dict) -> Any:
        with tf.autodiff.ForwardAccumulator(values(point), values(directions)) as accumulator:
            slope = along(point, directions)
        return [accumulator.jvp(slope)]

    def gradient(point: dict) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(point)
            value = loss(point)
        return tape.gradient(value, values(point))

    def along(point: dict, directions: dict) -> Any:
        with tf.autodiff.ForwardAccumulator(values(point), values(directions)) as accumulator:
            value = loss(point)
        return accumulator.jvp(value)

    slopes = slopes_of_the_oracle(case, point, directions)
    curvature = [sum(np.sum(slopes[what] * directions[what]) for what in point)]
    for product in (forward_over_reverse, reverse_over_forward, reverse_over_reverse, forward_over_forward):
        way = product.__name__.replace("_", " ")
        if mode.startswith("calls") and way in LEFT_OUT_IN_CALLS:
            continue
        found = within(mode, product)(tensors(point), tensors(directions))
        expected = curvature if product is forward_over_forward else values(slopes)
        for value, want in zip(found, expected, strict=True):
            assert_close(value.numpy(), want, "float64", f"{name}, {mode}, {way}", within=1e-6)


def within(mode: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The differentiation, run as the mode requires."""
    if mode in ("graph", "xla"):
        return tf.function(function, autograph=False, jit_compile=mode == "xla")
    return function


def function_of(case: Case, mode: str) -> Callable[[dict], Any]:
    """y from the given values, called as the mode requires."""
    state = initial_state(ops, case.options, *map(tf.constant, initial_of(case)))

    def y(point: dict) -> Any:
        return forward(case.options, point, state)[0]

    if mode.startswith("calls"):
        return tf.function(y, autograph=False, jit_compile=mode.endswith("xla"))
    return y


def point_of(case: Case) -> tuple[dict[str, Array], dict[str, Array]]:
    random = np.random.RandomState(case.seed + 3)
    point = batches_of(case)[0].given
    return point, {name: random.randn(*value.shape) for name, value in point.items()}


def tensors(arrays: dict[str, Array]) -> dict[str, Any]:
    return {name: tf.constant(value) for name, value in arrays.items()}


def values(point: dict) -> list[Any]:
    return list(point.values())


def gradients_by_oracle(case: Case, point: dict[str, Array], dy: Array) -> dict[str, Array]:
    spec = spec_of(case.options)
    state = oracle.init_state(spec, case.shape, *initial_of(case))
    parts = [point.get(name) for name in ("dx", "dgamma", "dbeta")]
    extras = point.get("dweights"), adjustment_of(point)
    return oracle.gradients(spec, state, *parts, dy, *extras, residual=point.get("dresidual"))


def adjustment_of(point: dict[str, Array]) -> Any:
    return (point["dscale_adjustment"], point["dbias_adjustment"]) if "dscale_adjustment" in point else None


def slopes_of_the_oracle(
    case: Case, point: dict[str, Array], directions: dict[str, Array], step: float = 1e-5
) -> dict[str, Array]:
    """How the oracle's gradients of Σ dy·sin(y) change along the directions."""
    dy, spec = batches_of(case)[0].dy, spec_of(case.options)
    state = oracle.init_state(spec, case.shape, *initial_of(case))

    def gradients(distance: float) -> dict[str, Array]:
        moved = {name: value + distance * directions[name] for name, value in point.items()}
        parts = [moved.get(name) for name in ("dx", "dgamma", "dbeta", "dweights")]
        y = oracle.train_step(spec, state, *parts, adjustment_of(moved))[0]
        return gradients_by_oracle(case, moved, dy * np.cos(y))

    ahead, behind = gradients(step), gradients(-step)
    return {name: (ahead[name] - behind[name]) / (2 * step) for name in point}

"""TensorFlow's ops on the CPU kernels: where they go, where they do not, and that either way the numbers are right."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import batchnorm
from batchnorm._core.engine import Inputs
from batchnorm._core.step import infer
from batchnorm._engines.tensorflow import dispatch, engine
from batchnorm.layout import plan_layout
from batchnorm.options import Ghost, Options, Renorm
from tolerances import assert_close
from unit.tensorflow_steps import (
    OPTIONS,
    PLAIN,
    SHAPE,
    arrays,
    check,
    forward,
    kinds,
    needs_ops,
    step,
)

pytestmark = pytest.mark.needs("tensorflow")


@needs_ops
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", OPTIONS)
def test_eager_steps(name, dtype):
    given = arrays(OPTIONS[name], dtype)
    check(step(OPTIONS[name], *given), OPTIONS[name], given)


@needs_ops
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", OPTIONS)
def test_graph_steps(name, known):
    options = OPTIONS[name]
    given = arrays(options)
    blank = tf.TensorSpec(SHAPE if known else (None, *SHAPE[1:]))
    signature = [blank, *(tf.TensorSpec(value.shape) for value in given[1:3]), blank]
    function = tf.function(lambda *a: step(options, *a), input_signature=signature, autograph=False)
    check(function(*given), options, given)
    passes = {"BatchnormKernelsMoments", "BatchnormKernelsApply"}
    forward = {"BatchnormKernelsTrain"} if options.renorm is None else passes
    assert kinds(function) == {*forward, "BatchnormKernelsGradients"}


@needs_ops
@pytest.mark.parametrize("options", [PLAIN, Options(axes=(1,), renorm=Renorm())], ids=["plain", "renorm"])
def test_graphs_of_tensorflow_1(options):
    given = arrays(options)
    with tf.Graph().as_default() as graph:
        blank = [None, *SHAPE[1:]]
        shapes = (blank, given[1].shape, given[2].shape, blank)
        fed = [tf.compat.v1.placeholder(tf.float32, shape) for shape in shapes]
        y, batch = forward(options, *fed[:3])
        results = [y, batch.mean, batch.stored_variance, *tf.gradients(y, fed[:3], grad_ys=fed[3])]
        assert any(op.type.startswith("Batchnorm") for op in graph.get_operations())
        with tf.compat.v1.Session() as session:
            values = session.run(results, dict(zip(fed, (value.numpy() for value in given), strict=True)))
    check(map(tf.constant, values), options, given)


# What XLA compiles. A function that was traced before is not traced again for it.


def directly(options: Options, given: Any) -> Any:
    function = tf.function(lambda *a: step(options, *a), jit_compile=True, autograph=False)
    assert not kinds(function, *given)
    return function(*given)


def as_a_function_traced_before(options: Options, given: Any) -> Any:
    inner = tf.function(lambda *a: step(options, *a), autograph=False)
    inner(*given)
    return tf.function(lambda *a: inner(*a), jit_compile=True, autograph=False)(*given)


def as_a_function_of_unknown_batches(options: Options, given: Any) -> Any:
    blank = tf.TensorSpec((None, *SHAPE[1:]))
    signature = [blank, *(tf.TensorSpec(value.shape) for value in given[1:3]), blank]
    inner = tf.function(lambda *a: step(options, *a), input_signature=signature, autograph=False)
    inner(*given)
    return tf.function(lambda *a: inner(*a), jit_compile=True, autograph=False)(*given)


def with_the_gradient_outside(options: Options, given: Any) -> Any:
    inner = tf.function(lambda *a: forward(options, *a), autograph=False)
    inner(*given[:3])
    compiled = tf.function(lambda *a: inner(*a), jit_compile=True, autograph=False)
    with tf.GradientTape() as tape:
        tape.watch(given[:3])
        y, batch = compiled(*given[:3])
    return y, batch.mean, batch.stored_variance, *tape.gradient(y, given[:3], output_gradients=given[3])


@needs_ops
@pytest.mark.parametrize(
    "way",
    [directly, as_a_function_traced_before, as_a_function_of_unknown_batches, with_the_gradient_outside],
)
@pytest.mark.parametrize("name", ["plain", "ghosts", "ghosts with renorm"])
def test_xla(name, way):
    given = arrays(OPTIONS[name])
    check(way(OPTIONS[name], given), OPTIONS[name], given)


# Where no op goes.


@needs_ops
@pytest.mark.parametrize("where", ["accelerator", "parameter server", "unfused"])
def test_elsewhere_there_is_no_op(where, monkeypatch):
    given, options = arrays(PLAIN), PLAIN
    if where == "accelerator":
        monkeypatch.setattr(dispatch, "is_cpu", lambda: False)
    elif where == "parameter server":
        own = type(tf.distribute.get_strategy())
        monkeypatch.setattr(tf.distribute, "ParameterServerStrategy", own)
    else:
        options = Options(axes=(3,), fused=False)
    function = tf.function(lambda *a: step(options, *a), autograph=False)
    assert not kinds(function, *given)
    check(function(*given), options, given)


@needs_ops
def test_inference_holds_no_op():
    x, gamma, beta, _ = arrays(PLAIN)
    state = {"moving_mean": beta, "moving_variance": gamma}
    layout = plan_layout(SHAPE, (3,))
    function = tf.function(lambda x: infer(engine, PLAIN, layout, Inputs(x, gamma, beta, None, state)))
    assert not kinds(function, x)


# What TensorFlow does to gradients.


@needs_ops
@pytest.mark.parametrize("name", ["plain", "ghosts", "renorm"])
def test_transformations(name):
    """Forward mode, Jacobians over loops and over vectorized functions: as with plain operations."""
    options = OPTIONS[name]
    x, gamma, beta, dy = arrays(options, "float64")
    results: list[list[Any]] = []
    for fused in (None, False):
        chosen = Options(axes=options.axes, ghost=options.ghost, renorm=options.renorm, fused=fused)

        def y(x: Any, gamma: Any, chosen: Options = chosen) -> Any:
            return forward(chosen, x, gamma, beta)[0]

        with tf.autodiff.ForwardAccumulator([x, gamma], [dy, beta]) as accumulator:
            product = accumulator.jvp(y(x, gamma))
        w = tf.sin(x)
        with tf.GradientTape() as tape:
            tape.watch([x, gamma])
            along = tf.reduce_sum(w * y(x, gamma))
        slopes = zip(tape.gradient(along, [x, gamma]), (dy, beta), strict=True)
        slope = sum(tf.reduce_sum(gradient * tangent) for gradient, tangent in slopes)
        assert_close(tf.reduce_sum(w * product), slope, "float64", name, within=1e-9)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(gamma)
            few = tf.reduce_sum(tf.sin(y(x, gamma)), axis=(0, 1, 2))
        jacobians = [tape.jacobian(few, gamma, experimental_use_pfor=pfor) for pfor in (True, False)]
        mapped = tf.vectorized_map(lambda g, y=y: y(x, g), tf.stack([gamma, 2.0 * gamma]))
        results.append([product, *jacobians, mapped])
    for value, want in zip(*results, strict=True):
        assert_close(value, want, "float64", name, within=1e-9)


@needs_ops
def test_variables_as_inputs():
    given = arrays(PLAIN)
    x, gamma, beta = (tf.Variable(value) for value in given[:3])
    with tf.GradientTape() as tape:
        y, batch = forward(PLAIN, x, gamma, beta)
    gradients = tape.gradient(y, [x, gamma, beta], output_gradients=given[3])
    check([y, batch.mean, batch.stored_variance, *gradients], PLAIN, given)


@needs_ops
def test_no_gradient_through_the_batch_statistics():
    x, gamma, beta, _ = arrays(PLAIN)
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, batch = forward(PLAIN, x, gamma, beta)
    assert tape.gradient(batch.mean, x) is None


@needs_ops
def test_a_batch_that_ghosts_do_not_divide_is_refused_with_both_numbers():
    options = Options(ghost=Ghost(4))
    params, state = batchnorm.init(options, [4, 3], like=tf.zeros([]))
    step = tf.function(
        lambda x: batchnorm.batch_norm(x, params, state, options, training=True)[0],
        input_signature=[tf.TensorSpec([None, 3])],
    )
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"batches of 4 .* which is 10\. .* multiple of 4"
    ):
        step(np.zeros([10, 3], "float32"))

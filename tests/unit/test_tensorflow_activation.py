"""Steps with an activation and a residual in TensorFlow: on the ops, with the numbers of plain operations."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from batchnorm import _kernels
from batchnorm._core.engine import Inputs
from batchnorm._core.step import train
from batchnorm._engines.tensorflow import engine, ops
from batchnorm._engines.tensorflow.attributes import NUMBERS, activation_by, from_bits, to_bits
from batchnorm._kernels import tensorflow as kernels
from batchnorm.activation import ACTIVATIONS, Activation
from batchnorm.layout import plan_layout
from batchnorm.options import Ghost, Options, Renorm
from tolerances import assert_close
from unit.tensorflow_steps import SHAPE, SLOTS, kinds, needs_ops, types
from unit.written_graphs import is_standard, saved_graphs, written

pytestmark = [pytest.mark.needs("tensorflow"), needs_ops]

DTYPES = ("float32", "float64", "float16", "bfloat16")
RELU = Options(axes=(3,), activation="relu")
LEAKY = Options(axes=(3,), activation=Activation("leaky_relu", 0.3))
SILU = Options(axes=(3,), activation="silu")
CASES = {
    "relu": RELU,
    "no activation": Options(axes=(3,)),
    "channels first": replace(LEAKY, axes=(1,)),
    "renorm": replace(SILU, renorm=Renorm()),
    "ghosts": replace(RELU, ghost=Ghost(4)),
    "contiguous ghosts with renorm": replace(SILU, ghost=Ghost(2, order="contiguous"), renorm=Renorm()),
    "two axes": replace(RELU, axes=(1, 3)),
}
WEIGHTS = np.array([0.0, 1.0, 2.0, 0.5] * 2, "float32").reshape(8, 1, 1, 1)


def inputs(options: Options, dtype: str = "float32", residual: bool = True, weights: Any = None) -> Any:
    """x, gamma, beta, the residual, the weights and dy; those that are absent are None."""
    random = np.random.default_rng(0)
    channels = plan_layout(SHAPE, options.axes, options.ghost).channels
    stats = "float64" if dtype == "float64" else "float32"
    x, z, dy = (tf.cast(random.normal(0.5, 2.0, SHAPE), dtype) for _ in range(3))
    gamma, beta = (tf.constant(random.uniform(0.5, 2.0, channels), stats) for _ in range(2))
    return x, gamma, beta, z if residual else None, None if weights is None else tf.cast(weights, stats), dy


def step(options: Options, x: Any, gamma: Any, beta: Any, z: Any, weights: Any, dy: Any) -> list[Any]:
    """y and the gradients."""
    sources = [value for value in (x, gamma, beta, z, weights) if value is not None]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        layout = plan_layout(ops.shape(x), options.axes, options.ghost)
        state = {slot: tf.zeros_like(beta) + (0.0 if slot.endswith("mean") else 1.5) for slot in SLOTS}
        y, _ = train(engine, options, layout, Inputs(x, gamma, beta, weights, state, residual=z))
    return [y, *tape.gradient(y, sources, output_gradients=dy)]


def traced(options: Options, given: Any, known: bool = True, **how: Any) -> Any:
    """The step as a function of the arrays that are there."""
    present = [value for value in given if value is not None]

    def run(*arrays: Any) -> Any:
        rest = iter(arrays)
        return step(options, *(None if value is None else next(rest) for value in given))

    def specified(value: Any) -> Any:
        return tf.TensorSpec(
            value.shape if known or len(value.shape) < 2 else (None, *value.shape[1:]), value.dtype
        )

    return tf.function(run, input_signature=[*map(specified, present)], autograph=False, **how), present


def check(got: Any, options: Options, given: Any) -> None:
    """Against the plain operations on the same numbers in twice the precision."""
    wide = [None if value is None else tf.cast(value, tf.float64) for value in given]
    for number, (value, want) in enumerate(zip(got, step(replace(options, fused=False), *wide), strict=True)):
        largest = max(1.0, float(np.max(np.abs(want))))
        assert_close(tf.cast(value, tf.float64), want, value.dtype, str(number), scale=largest, summands=72)


def test_numbers_of_activations():
    module = _kernels.load()
    assert dict(module.ACTIVATIONS) == NUMBERS
    assert activation_by(0, 0) is None
    for activation in (Activation("tanh"), Activation("leaky_relu", 0.1)):
        assert activation_by(NUMBERS[activation.name], to_bits(activation.slope or 0.0)) == activation
    assert from_bits(to_bits(0.1)) == 0.1


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_eager_steps_by_activation(name, residual, native_ops):
    options = Options(axes=(3,), activation=Activation(name, 0.3 if name == "leaky_relu" else None))
    given = inputs(options, residual=residual)
    check(step(options, *given), options, given)
    assert native_ops.used == ["train", "gradients"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_eager_steps_by_option(name, dtype, native_ops):
    for residual, weights in ((True, None), (False, WEIGHTS), (True, WEIGHTS)):
        given = inputs(CASES[name], dtype, residual, weights)
        native_ops.used.clear()
        check(step(CASES[name], *given), CASES[name], given)
        if weights is not None:
            assert native_ops.used == ["moments", "apply", "grad_sums", "grad_input"]
        else:
            forward = ["train"] if CASES[name].renorm is None else ["moments", "apply"]
            assert native_ops.used == [*forward, "gradients"]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("name", "residual"), [("relu", False), ("ghosts", True), ("renorm", True)])
def test_graph_steps(name, residual, known):
    options = CASES[name]
    given = inputs(options, residual=residual)
    function, present = traced(options, given, known)
    check(function(*present), options, given)
    assert kinds(function) >= {"BatchnormKernelsGradients"}
    assert all(value.shape == SHAPE for value in function(*present)[:2])


@pytest.mark.parametrize("residual", [False, True])
def test_sums_and_the_gradient_of_x_apart(residual, native_ops):
    """As over replicas, where the sums of all of them come between the two."""
    options = replace(SILU, synchronized=True)
    given = inputs(options, residual=residual)
    check(step(options, *given), options, given)
    assert native_ops.used == ["moments", "apply", "grad_sums", "grad_input"]
    function, present = traced(options, given, known=False)
    check(function(*present), options, given)


@pytest.mark.parametrize("weighted", [False, True])
def test_xla(weighted):
    given = inputs(SILU, weights=WEIGHTS if weighted else None)
    inner, present = traced(SILU, given, known=False)
    assert kinds(inner)
    compiled = tf.function(lambda *arrays: inner(*arrays), jit_compile=True, autograph=False)
    check(compiled(*present), SILU, given)


def test_a_graph_of_tensorflow_1():
    given = [value.numpy() for value in inputs(RELU) if value is not None]
    with tf.Graph().as_default() as graph:
        fed = [tf.compat.v1.placeholder(tf.float32, [None, *value.shape[1:]]) for value in given]
        fed[1].set_shape(given[1].shape)
        fed[2].set_shape(given[2].shape)
        x, gamma, beta, z, dy = fed
        state = {slot: tf.zeros_like(beta) for slot in SLOTS}
        layout = plan_layout(ops.shape(x), (3,))
        y, _ = train(engine, RELU, layout, Inputs(x, gamma, beta, None, state, residual=z))
        results = [y, *tf.gradients(y, fed[:4], grad_ys=dy)]
        assert {"BatchnormKernelsTrain", "BatchnormKernelsGradients"} <= types(graph)
        with tf.compat.v1.Session() as session:
            values = session.run(results, dict(zip(fed, given, strict=True)))
    check(map(tf.constant, values), RELU, inputs(RELU))


def test_forward_mode_and_second_derivatives():
    x, gamma, beta, z, _, dy = inputs(SILU, "float64")
    results: list[list[Any]] = []
    for options in (SILU, replace(SILU, fused=False)):

        def total(x: Any, z: Any, options: Options = options) -> Any:
            state = {slot: tf.zeros_like(beta) for slot in SLOTS}
            given = Inputs(x, gamma, beta, None, state, residual=z)
            return tf.reduce_sum(dy * train(engine, options, plan_layout(SHAPE, (3,)), given)[0])

        with tf.autodiff.ForwardAccumulator([x, z], [dy, x]) as accumulator:
            tangent = accumulator.jvp(total(x, z))
        with tf.GradientTape() as outer:
            outer.watch([x, z])
            with tf.GradientTape() as inner:
                inner.watch([x, z])
                value = total(x, z)
            first = inner.gradient(value, [x, z])
            penalty = sum(tf.reduce_sum(part**3) for part in first)
        results.append([tangent, *first, *outer.gradient(penalty, [x, z])])
    for value, want in zip(*results, strict=True):
        assert_close(value, want, "float64", "derivatives", within=1e-9)


def test_what_is_written_is_standard_and_does_the_same(tmp_path):
    module, want = tf.Module(), {}
    synchronized = replace(SILU, synchronized=True)  # which has the sums and the gradient of x apart
    cases = [
        ("relu", RELU, False, None),
        ("residual", CASES["no activation"], True, None),
        ("leaky", CASES["channels first"], True, None),
        ("renorm", CASES["renorm"], True, None),
        ("weights", RELU, True, WEIGHTS),
        ("apart", synchronized, False, None),
    ]
    for name, options, residual, weights in cases:
        given = inputs(options, residual=residual, weights=weights)
        function, present = traced(options, given, known=False)
        assert kinds(function)
        want[name] = present, function(*present)
        setattr(module, name, function)
    tf.saved_model.save(module, str(tmp_path))
    (graph,) = saved_graphs(tmp_path)
    assert is_standard(graph)
    assert "Relu" in written(graph)  # which converters know, unlike a comparison and a choice
    loaded = tf.saved_model.load(str(tmp_path))
    for name, (present, results) in want.items():
        for value, result in zip(getattr(loaded, name)(*present), results, strict=True):
            scale = max(1.0, float(np.max(np.abs(result))))
            assert_close(tf.cast(value, tf.float64), result, "float32", name, scale=scale, summands=72)


# What the ops refuse, and accept.

ONE = np.ones([1, 5], "float32")
X = np.zeros(SHAPE, "float32")
RUNS = {"bounds": [0, 3, 3, 3, 4, 4]}


def call(name: str, *given: Any, **attributes: Any) -> Any:
    return getattr(kernels.load(), f"batchnorm_kernels_{name}")(*given, **attributes, **RUNS)


@pytest.mark.parametrize(
    ("name", "given", "attributes", "message"),
    [
        ("apply", (X, ONE, ONE, ONE, []), {"activation": 11}, "no activation of this number"),
        ("apply", (X, ONE, ONE, ONE, []), {"activation": -1}, "no activation of this number"),
        ("apply", (X, ONE, ONE, ONE, [X, X]), {}, "one tensor each"),
        ("apply", (X, ONE, ONE, ONE, [X[:4]]), {"activation": 1}, "another number of elements"),
        ("gradients", (X, X, ONE, ONE, ONE, ONE, [], []), {"activation": 1, "epsilon_bits": 0}, "takes a shift"),
        ("gradients", (X, X, ONE, ONE, ONE, ONE, [ONE], []), {"epsilon_bits": 0}, "takes a shift"),
        ("grad_sums", (X, X, ONE, [], [], [X]), {}, "residual's gradient is dy"),
        ("grad_sums", (X, X, ONE, [], [], []), {"keeps": 1}, "residual's gradient is dy"),
        (
            "gradients",
            (X, X, ONE, ONE, ONE, ONE, [ONE], [X]),
            {"activation": 1, "epsilon_bits": 0},
            "needs what was kept",
        ),
        (
            "grad_input",
            (X, X, ONE, ONE, ONE, ONE, [X[:, :, :, 0]], [ONE]),
            {"activation": 1},
            "needs what was kept",
        ),
    ],
)  # fmt: skip
def test_refused(name, given, attributes, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(name, *given, **attributes)


def test_a_node_of_an_earlier_version():
    """Saved before there were activations, it has neither their attributes nor their inputs."""
    graph_def = tf.compat.v1.GraphDef()
    for name in ("x", "gamma", "beta"):
        node = graph_def.node.add(name=name, op="Placeholder")
        node.attr["dtype"].type = tf.float32.as_datatype_enum
    node = graph_def.node.add(name="step", op="BatchnormKernelsTrain", input=["x", "gamma", "beta"])
    for name in ("T", "U"):
        node.attr[name].type = tf.float32.as_datatype_enum
    for name in ("gamma_types", "beta_types"):
        node.attr[name].list.type.append(tf.float32.as_datatype_enum)
    node.attr["bounds"].list.i.extend(RUNS["bounds"])
    node.attr["epsilon_bits"].i = to_bits(1e-3)
    x, gamma, beta, *_, dy = inputs(RELU)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(graph_def, name="")
        y = session.run("step:0", {"x:0": x.numpy(), "gamma:0": gamma.numpy(), "beta:0": beta.numpy()})
    options = Options(axes=(3,))
    want = step(options, x, gamma, beta, None, None, dy)[0]
    np.testing.assert_allclose(y, want, rtol=1e-6, atol=1e-6)

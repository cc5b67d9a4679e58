"""TensorFlow's ops on the CPU kernels: where they go, where they do not, and that either way the numbers are right."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from batchnorm._core.step import infer, train
from batchnorm._engines import numpy as reference
from batchnorm._engines.protocol import Inputs
from batchnorm._engines.tensorflow import engine, native, ops
from batchnorm._kernels import tensorflow as kernels
from batchnorm.layout import plan_layout
from batchnorm.options import Ghost, Options, Renorm
from tolerances import assert_close

needs_ops = pytest.mark.skipif(kernels.load() is None, reason=f"the ops are {kernels.why_missing()}")
SHAPE = (8, 3, 3, 5)
PLAIN = Options(axes=(3,))
OPTIONS = {
    "plain": PLAIN,
    "channels first": Options(axes=(1,)),
    "sample variance": Options(axes=(3,), variance="sample"),
    "renorm": Options(axes=(3,), renorm=Renorm()),
    "ghosts": Options(axes=(3,), ghost=Ghost(4)),
    "contiguous ghosts": Options(axes=(3,), ghost=Ghost(2, order="contiguous")),
    "ghosts with renorm": Options(axes=(1,), ghost=Ghost(4), renorm=Renorm()),
    "two axes": Options(axes=(1, 3)),
}
SLOTS = ("moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev")


def arrays(options: Options, dtype: str = "float32") -> tuple[Any, ...]:
    """x, gamma, beta and dy."""
    random = np.random.default_rng(0)
    channels = plan_layout(SHAPE, options.axes, options.ghost).channels
    stats = "float64" if dtype == "float64" else "float32"
    x, dy = (tf.cast(random.normal(1.0, 2.0, SHAPE), dtype) for _ in range(2))
    return x, *(tf.constant(random.uniform(0.5, 2.0, channels), stats) for _ in range(2)), dy


def forward(options: Options, x: Any, gamma: Any, beta: Any, weights: Any = None) -> Any:
    layout = plan_layout(ops.shape(x), options.axes, options.ghost)
    state = {slot: tf.zeros_like(beta) + (0.0 if slot.endswith("mean") else 1.5) for slot in SLOTS}
    return train(engine, options, layout, Inputs(x, gamma, beta, weights, state))


def step(options: Options, x: Any, gamma: Any, beta: Any, dy: Any) -> tuple[Any, ...]:
    """y, the batch's statistics, and the gradients."""
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        y, batch = forward(options, x, gamma, beta)
    return y, batch.mean, batch.estimate, *tape.gradient(y, [x, gamma, beta], output_gradients=dy)


def expected(options: Options, x: Any, gamma: Any, beta: Any, dy: Any) -> tuple[Any, ...]:
    layout = plan_layout(SHAPE, options.axes, options.ghost)
    x, gamma, beta, dy = (tf.cast(value, tf.float64).numpy() for value in (x, gamma, beta, dy))
    state = {slot: np.zeros_like(beta) + (0.0 if slot.endswith("mean") else 1.5) for slot in SLOTS}
    y, batch, pull = reference.pullback(options, layout, Inputs(x, gamma, beta, None, state))
    return y, batch.mean, batch.estimate, *pull(dy)[:3]


def check(got: Any, options: Options, given: tuple[Any, ...]) -> None:
    names = ("y", "mean", "variance", "dx", "dγ", "dβ")
    for name, value, want in zip(names, got, expected(options, *given), strict=True):
        largest = max(1.0, float(np.max(np.abs(want))))
        assert_close(tf.cast(value, tf.float64), want, value.dtype, name, scale=largest, summands=72)


def kinds(function: Any, *given: Any) -> set[str]:
    """The types of all operations of a function and of those it calls, that are ours."""
    graph = function.get_concrete_function(*given).graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    return {node.op for node in nodes if node.op.startswith("Batchnorm")}


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
        results = [y, batch.mean, batch.estimate, *tf.gradients(y, fed[:3], grad_ys=fed[3])]
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
    return y, batch.mean, batch.estimate, *tape.gradient(y, given[:3], output_gradients=given[3])


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
def test_a_graph_that_decides_on_training_holds_no_op():
    given = arrays(PLAIN)
    layout = plan_layout(SHAPE, (3,))
    state = {"moving_mean": given[2], "moving_variance": given[1]}

    def either(training: Any, *a: Any) -> Any:
        def inference() -> Any:
            return infer(engine, PLAIN, layout, Inputs(*a, None, state))

        return tf.cond(training, lambda: forward(PLAIN, *a)[0], inference)

    function = tf.function(either, autograph=False)
    assert not kinds(function, tf.constant(True), *given[:3])
    want = expected(PLAIN, *given)[0]
    assert_close(tf.cast(function(tf.constant(True), *given[:3]), tf.float64), want, "float32", "y")
    with tf.Graph().as_default() as graph:
        fed = [tf.compat.v1.placeholder(value.dtype, value.shape) for value in given[:3]]
        state = {"moving_mean": fed[2], "moving_variance": fed[1]}
        either(tf.compat.v1.placeholder(tf.bool, []), *fed)
        text = str(graph.as_graph_def())
    assert "FusedBatchNormV3" in text
    assert "BatchnormKernels" not in text


@needs_ops
@pytest.mark.parametrize("where", ["accelerator", "parameter server", "unfused"])
def test_elsewhere_there_is_no_op(where, monkeypatch):
    given, options = arrays(PLAIN), PLAIN
    if where == "accelerator":
        monkeypatch.setattr(native, "is_cpu", lambda: False)
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
    check([y, batch.mean, batch.estimate, *gradients], PLAIN, given)


@needs_ops
def test_no_gradient_through_the_batch_statistics():
    x, gamma, beta, _ = arrays(PLAIN)
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, batch = forward(PLAIN, x, gamma, beta)
    assert tape.gradient(batch.mean, x) is None


# The library.


@needs_ops
def test_several_threads_at_once():
    random = np.random.default_rng(1)
    inputs = [tf.constant(random.normal(size=(64, 32, 32, 8)).astype(np.float32)) for _ in range(6)]
    ones = tf.ones([8])

    def run(x: Any) -> Any:
        return forward(PLAIN, x, ones, ones)[0].numpy()

    alone = [run(x) for x in inputs]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(run, inputs * 4))
    for value, want in zip(together, alone * 4, strict=True):
        np.testing.assert_array_equal(value, want)


@needs_ops
def test_ghosts_that_do_not_divide_the_batch():
    x, gamma, beta, _ = arrays(PLAIN)
    options = Options(axes=(3,), ghost=Ghost(3))
    function = tf.function(
        lambda x: forward(options, x, gamma, beta)[0], input_signature=[tf.TensorSpec((None, 3, 3, 5))]
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        function(x)


@needs_ops
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": tf.zeros([1, 4])}, "another number of elements"),
        ({"bounds": [0, 0, 0, 3, 4, 5]}, "rank"),
        ({"bounds": [0, 3, 0, 0, 4, 4]}, "out of order"),
        ({"bounds": [0, 4]}, "6 numbers"),
        ({"ghost_order": 1, "bounds": [0, 0, 1, 4, 5, 5]}, "at least 1"),
    ],
)
def test_an_op_refuses_what_does_not_fit(change, message):
    one = tf.ones([1, 5])
    given = {"mean": one, "scale": one, "shift": one, "bounds": [0, 3, 3, 3, 4, 4]} | change
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        kernels.load().batchnorm_kernels_apply(tf.zeros(SHAPE), **given)


@pytest.fixture
def fresh(monkeypatch):
    """Nothing imported yet; what is imported in between is forgotten."""
    kernels._import.cache_clear()
    yield monkeypatch
    kernels._import.cache_clear()


def test_why_missing(fresh, tmp_path):
    fresh.setattr(kernels, "LIBRARY", tmp_path / "missing.so")
    assert kernels.load() is None
    assert kernels.why_missing().startswith("not built: ")


def test_why_broken(fresh, tmp_path):
    (tmp_path / "broken.so").write_bytes(b"no library")
    fresh.setattr(kernels, "LIBRARY", tmp_path / "broken.so")
    assert kernels.load() is None
    assert kernels.why_missing().startswith("built, but not loaded: ")
    given = arrays(PLAIN)
    check(step(PLAIN, *given), PLAIN, given)


@needs_ops
def test_threads_are_those_of_tensorflow(monkeypatch):
    told: list[int] = []

    class Library:
        def batchnorm_tensorflow_set_threads(self, number: Any) -> None:
            told.append(number.value)

    monkeypatch.setattr(kernels, "_import", lambda: (None, Library(), None))
    monkeypatch.setattr(kernels, "_settled", None)
    monkeypatch.setattr(kernels, "_told", None)
    monkeypatch.setattr(kernels._kernels, "threads", lambda: 7)
    for number, computing in ((0, False), (3, False), (3, False), (2, True), (5, True)):
        monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda n=number: n)
        kernels.tell_threads(computing)
    assert told == [7, 3, 2]


READER = """
import sys
import tensorflow as tf
try:
    tf.saved_model.load(sys.argv[1])
except (RuntimeError, ValueError, KeyError, tf.errors.OpError) as error:
    assert "BatchnormKernels" in str(error), error
else:
    raise AssertionError("loaded without the ops")
import batchnorm.compat.v1.layers
print(float(tf.reduce_sum(tf.saved_model.load(sys.argv[1]).train(tf.ones([4, 3])))))
"""


@needs_ops
def test_saved_training_functions_need_the_package(tmp_path):
    module = tf.Module()

    def step(x: Any) -> Any:
        return forward(Options(axes=(1,)), x, tf.ones([3]), tf.ones([3]))[0]

    module.train = tf.function(step, input_signature=[tf.TensorSpec([None, 3])])
    module.train(tf.ones([2, 3]))
    tf.saved_model.save(module, str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == 12.0

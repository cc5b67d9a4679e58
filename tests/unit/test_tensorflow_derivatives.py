"""Derivatives of steps inside conditions, loops and functions, each of which is a graph of its own."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import batchnorm
from batchnorm.compat.v1 import layers
from batchnorm.compat.v1.keras.utils import track_tf1_style_variables
from batchnorm.contrib.layers import batch_norm as contrib_batch_norm
from batchnorm.options import Clip, Ghost, Options, Renorm
from tolerances import assert_close

pytestmark = pytest.mark.needs("tensorflow")

v1 = tf.compat.v1
X = np.random.RandomState(0).randn(6, 3).astype(np.float32)
STEPS = 3


@pytest.fixture(params=["control flow v2", "control flow v1"])
def control_flow(request):
    enabled = v1.control_flow_v2_enabled()
    (v1.enable_control_flow_v2 if request.param.endswith("2") else v1.disable_control_flow_v2)()
    yield request.param
    (v1.enable_control_flow_v2 if enabled else v1.disable_control_flow_v2)()


def expected(options: Options, weights: Any = None) -> tuple[Any, Any]:
    """The gradient of Σ sin(y), and that of its square, in plain eager code."""
    x = tf.constant(X)
    params, state = batchnorm.init(options, X.shape, like=x)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y, _ = batchnorm.batch_norm(x, params, state, options, training=True, weights=weights)
            value = tf.sin(y)
        first = inner.gradient(value, x)
        square = first**2
    return first, outer.gradient(square, x)


# The options of the pure function, and how the v1 layer is asked for the same.
RENORM = Renorm(Clip(rmax=1.5, rmin=0.5, dmax=0.3))
BOUNDS = {"rmax": 1.5, "rmin": 0.5, "dmax": 0.3}
ASKED = {
    "plain": (Options(), {}),
    "composed": (Options(fused=False), {"fused": False}),
    "ghosts": (Options(ghost=Ghost(3)), {"virtual_batch_size": 3}),
    "renorm": (Options(renorm=RENORM), {"renorm": True, "renorm_clipping": BOUNDS}),
    "bounds that are tensors": (Options(renorm=RENORM), {"renorm": True, "renorm_clipping": BOUNDS}),
}


@pytest.mark.parametrize("name", ASKED)
def test_v1_with_training_known_at_run_time_only(name, control_flow):
    options, asked = ASKED[name]
    with tf.Graph().as_default():
        if name == "bounds that are tensors":
            tensors = {key: v1.placeholder_with_default(value, []) for key, value in BOUNDS.items()}
            asked = asked | {"renorm_clipping": tensors}
        x = v1.placeholder(tf.float32, [None, 3])
        training = v1.placeholder_with_default(True, [])
        y = layers.batch_normalization(x, training=training, **asked)
        found = in_session(y, x)
    check(found, expected(options))


def test_contrib_with_training_known_at_run_time_only(control_flow):
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None, 3])
        training = v1.placeholder_with_default(True, [])
        y = contrib_batch_norm(x, scale=True, is_training=training, renorm=True, renorm_clipping=BOUNDS)
        found = in_session(y, x)
    check(found, expected(Options(renorm=RENORM)))


def test_v1_with_a_mask_and_training_known_at_run_time_only(control_flow):
    kept = np.array([1, 1, 0, 1, 0, 1], np.float32)
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None, 3])
        training = v1.placeholder_with_default(True, [])
        y = layers.BatchNormalization()(x, training=training, mask=tf.constant(kept))
        found = in_session(y, x)
    check(found, expected(Options(), tf.constant(kept)))


def in_session(y: Any, x: Any) -> list[Any]:
    first = tf.gradients(tf.sin(y), x)[0]
    second = tf.gradients(first**2, x)[0]
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        return session.run([first, second], {x: X})


def check(found: Any, want: Any, what: str = "a derivative", within: float = 2e-5) -> None:
    for value, right in zip(found, want, strict=True):
        assert_close(value, right, "float32", what, within=within)


def test_the_pure_function_whose_arrays_are_all_made_in_the_branch(control_flow):
    options = Options(renorm=RENORM)

    def step(x: Any) -> Any:
        bounds = Clip(*(tf.math.abs(tf.constant(value)) for value in (0.5, 1.5, 0.3)))
        made = Options(epsilon=tf.abs(tf.constant(1e-3)), renorm=Renorm(bounds))
        params, state = batchnorm.init(options, X.shape, like=x)
        params, state = ({name: tf.abs(value) for name, value in v.items()} for v in (params, state))
        return batchnorm.batch_norm(x, params, state, made, training=True)[0]

    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([], tf.bool)], autograph=False)
    def derivatives(x: Any, training: Any) -> Any:
        return twice(lambda x: tf.cond(training, lambda: step(x), lambda: tf.identity(x)), x)

    check(derivatives(X, True), expected(options))


def twice(function: Any, x: Any) -> tuple[Any, Any]:
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            value = tf.sin(function(x))
        first = inner.gradient(value, x)
        square = first**2
    return first, outer.gradient(square, x)


def loop(kind: str, step: Any, x: Any) -> Any:
    """The steps one after another, each on the last one's sine."""
    if kind == "while":
        return tf.while_loop(
            lambda i, _: i < STEPS, lambda i, z: (i + 1, tf.sin(step(z))), [0, x], maximum_iterations=STEPS
        )[1]
    if kind == "scan":
        return tf.scan(lambda z, _: tf.sin(step(z)), tf.range(STEPS), initializer=x)[-1]
    if kind == "autograph":
        for _ in tf.range(STEPS):
            x = tf.sin(step(x))
        return x
    for _ in range(STEPS):
        x = tf.sin(step(x))
    return x


@pytest.mark.parametrize("unknown", [False, True], ids=["training", "training unknown"])
@pytest.mark.parametrize("kind", ["while", "scan", "autograph"])
def test_loops(kind, unknown):
    options = Options(renorm=RENORM)
    params, state = batchnorm.init(options, X.shape, like=tf.constant(X))

    def step(x: Any) -> Any:
        return batchnorm.batch_norm(x, params, state, options, training=True)[0]

    @tf.function
    def derivatives(x: Any, training: Any) -> Any:
        inside = (lambda x: tf.cond(training, lambda: step(x), lambda: x)) if unknown else step
        return twice(lambda x: loop(kind, inside, x), x)

    want = twice(lambda x: loop("plainly", step, x), tf.constant(X))
    check(derivatives(tf.constant(X), tf.constant(True)), want, kind, within=1e-3)


LOOPED = {
    "plain": {},
    "composed": {"fused": False},
    "renorm": {"renorm": True},
    "ghosts": {"virtual_batch_size": 3},
}


@pytest.mark.parametrize("asked", LOOPED)
def test_a_v1_layer_in_a_loop_with_training_known_at_run_time_only(asked, control_flow):
    """Each step's gradient is that of a step outside of any loop."""

    def derivative(repeat: Any) -> Any:
        with tf.Graph().as_default():
            x = v1.placeholder(tf.float32, [None, 3])
            training = v1.placeholder_with_default(True, [])
            with v1.variable_scope("scope", reuse=v1.AUTO_REUSE):

                def step(x: Any) -> Any:
                    y = layers.batch_normalization(x, training=training, name="layer", **LOOPED[asked])
                    return tf.reduce_sum(tf.sin(y))

                step(x)
                gradient = tf.gradients(repeat(step, x), x)[0]
            with v1.Session() as session:
                session.run(v1.global_variables_initializer())
                return session.run(gradient, {x: X})

    def looped(step: Any, x: Any) -> Any:
        return tf.while_loop(
            lambda i, _: i < STEPS,
            lambda i, total: (i + 1, total + step(x * tf.cast(i + 1, tf.float32))),
            [0, 0.0],
        )[1]

    def unrolled(step: Any, x: Any) -> Any:
        return tf.add_n([step(x * float(i + 1)) for i in range(STEPS)])

    check([derivative(looped)], [derivative(unrolled)], asked, within=1e-4)


@pytest.mark.parametrize("jit_compile", [None, True])
def test_a_function_under_two_tapes(jit_compile):
    """Each result of such a function is differentiated, including those kept for its gradient."""
    options = Options(renorm=RENORM)
    for chosen in (Options(), options):
        params, state = batchnorm.init(chosen, X.shape, like=tf.constant(X))

        @tf.function(autograph=False, jit_compile=jit_compile)
        def step(x: Any, chosen: Any = chosen, params: Any = params, state: Any = state) -> Any:
            return batchnorm.batch_norm(x, params, state, chosen, training=True)[0]

        check(twice(step, tf.constant(X)), expected(chosen))


@pytest.mark.parametrize("jit_compile", [None, True])
def test_keras_with_training_known_at_run_time_only(jit_compile):
    pytest.importorskip("keras")
    from batchnorm.keras.layers import BatchNormalization

    layer = BatchNormalization(renorm=True, renorm_clipping=BOUNDS)
    layer.build(X.shape)

    # XLA makes up arrays for the branch that is not taken, which requires known sizes.
    spec = tf.TensorSpec([6 if jit_compile else None, 3])

    @tf.function(jit_compile=jit_compile, input_signature=[spec, tf.TensorSpec([], tf.bool)], autograph=False)
    def derivatives(x: Any, training: Any) -> Any:
        return twice(lambda x: layer(x, training=training), x)

    check(derivatives(X, True), expected(Options(renorm=RENORM)))


def test_a_bound_that_changes_before_the_gradient():
    """r and d are those of the step, even if the bounds change later."""
    bound = tf.Variable(1.5)
    clip = {"rmin": 0.5, "dmax": 0.3}
    options = Options(renorm=Renorm(Clip(rmax=bound, **clip)))
    x = tf.constant(X)
    params, state = batchnorm.init(options, X.shape, like=x)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y, _ = batchnorm.batch_norm(x, params, state, options, training=True)
            value = tf.sin(y)
        bound.assign(0.7)
        first = inner.gradient(value, x)
        square = first**2
    check([first, outer.gradient(square, x)], expected(Options(renorm=Renorm(Clip(rmax=1.5, **clip)))))


def test_the_gradient_of_rows_that_were_gathered():
    """Such a gradient consists of rows and their indices."""
    options = Options()
    x = tf.constant(X)
    params, state = batchnorm.init(options, X.shape, like=x)
    rows = tf.constant([0, 2, 2])

    def gradient(picked: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, _ = batchnorm.batch_norm(x, params, state, options, training=True)
            value = tf.sin(picked(y))
        return tape.gradient(value, x)

    want = gradient(lambda y: tf.matmul(tf.one_hot(rows, 6), y))
    found = [gradient(lambda y: tf.gather(y, rows))]
    found.append(tf.function(lambda: gradient(lambda y: tf.gather(y, rows)), autograph=False)())
    for value in found:
        assert_close(value, want, "float32", "dx")


# Tangents. properties/test_forward_mode.py tests them against the oracle.


class V1(tf.Module):
    @track_tf1_style_variables
    def __call__(self, x: Any) -> Any:
        return layers.batch_normalization(x, training=True, name="bn")


class Contrib(tf.Module):
    @track_tf1_style_variables
    def __call__(self, x: Any) -> Any:
        return contrib_batch_norm(x, scale=True, scope="bn")


def keras_layer() -> Any:
    pytest.importorskip("keras")
    from batchnorm.keras.layers import BatchNormalization

    layer = BatchNormalization()
    return lambda x: layer(x, training=True), lambda: [layer.gamma.value, layer.beta.value]


def tracked(module: Any) -> Any:
    return module, lambda: list(module.trainable_variables)


FACES = {"v1": lambda: tracked(V1()), "contrib": lambda: tracked(Contrib()), "keras": keras_layer}


@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("face", FACES)
def test_tangents_of_a_layer(face, mode):
    """Σ w·ẏ is the gradient of Σ w·y along the tangents, of x and of the layer's variables."""
    layer, variables = FACES[face]()
    x = tf.constant(X)
    layer(x)
    primals = [x, *variables()]
    tangents = [tf.cos(tf.reshape(tf.range(tf.size(p), dtype=tf.float32), p.shape)) for p in primals]
    w = tf.sin(x)

    def pushed() -> Any:
        with tf.autodiff.ForwardAccumulator(primals, tangents) as accumulator:
            y = layer(x)
        return tf.reduce_sum(w * accumulator.jvp(y))

    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(w * layer(x))
    gradients = tape.gradient(value, primals)
    want = sum(
        tf.reduce_sum(gradient * tangent) for gradient, tangent in zip(gradients, tangents, strict=True)
    )
    found = tf.function(pushed, autograph=False)() if mode == "function" else pushed()
    assert_close(found, want, "float32", face)


def jvp(options: Options, x: Any, tangent: Any, weights: Any = None) -> Any:
    params, state = batchnorm.init(options, x.shape, like=x)
    with tf.autodiff.ForwardAccumulator(x, tangent) as accumulator:
        y, _ = batchnorm.batch_norm(x, params, state, options, training=True, weights=weights)
    return accumulator.jvp(y)


def test_the_tangent_of_three_numbers():
    x = tf.constant([[1.0], [2.0], [4.0]])
    y = jvp(Options(), x, tf.constant([[1.0], [0.0], [0.0]]))
    assert_close(y, [[0.22920], [-0.34346], [0.11426]], "float32", "the tangent", within=1e-5)


@pytest.mark.parametrize("weights", [None, "example"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tangents_of_16_bits(dtype, weights):
    options = Options(renorm=RENORM)
    x, tangent = (tf.cast(tf.constant(value), dtype) for value in (X, np.cos(X)))
    given = None if weights is None else tf.constant(np.arange(6) + 1.0, tf.float32)
    found = jvp(options, x, tangent, given)
    assert found.dtype == x.dtype
    wide = [tf.cast(value, tf.float64) for value in (x, tangent)]
    want = jvp(options, *wide, None if given is None else tf.cast(given, tf.float64))
    assert_close(tf.cast(found, tf.float64), want, dtype, "ẏ")


def test_tangents_in_a_vectorized_map():
    options, x = Options(ghost=Ghost(3)), tf.constant(X)
    tangents = tf.stack([tf.cos(x), tf.sin(x)])
    want = tf.stack([jvp(options, x, tangent) for tangent in tangents])
    assert_close(tf.vectorized_map(lambda tangent: jvp(options, x, tangent), tangents), want, "float32", "ẏ")
    mapped = tf.vectorized_map(lambda x: jvp(options, x, tangents[0]), tf.stack([x, 2.0 * x]))
    want = tf.stack([jvp(options, x, tangents[0]), jvp(options, 2.0 * x, tangents[0])])
    assert_close(mapped, want, "float32", "ẏ")


def test_what_has_no_tangent():
    """The moving statistics are constants, and so is y if nothing that it depends on has a tangent."""
    options, x = Options(), tf.constant(X)
    params, state = batchnorm.init(options, x.shape, like=x)
    other = tf.constant(2.0)
    with tf.autodiff.ForwardAccumulator([x, other], [x, other]) as accumulator:
        _, after = batchnorm.batch_norm(x, params, state, options, training=True)
        still, _ = batchnorm.batch_norm(tf.constant(X), params, state, options, training=True)
    assert accumulator.jvp(after["moving_mean"]) is None
    assert accumulator.jvp(still) is None

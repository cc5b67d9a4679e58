"""The Keras layer's constructor: Keras' own signature first, and refusals in three parts."""

import inspect

import keras
import numpy as np
import pytest

from batchnorm.keras.layers import BatchNormalization

pytestmark = pytest.mark.needs("keras", "tensorflow", "tf_keras")


def test_signature_starts_with_keras_own():
    stock = list(inspect.signature(keras.layers.BatchNormalization.__init__).parameters.values())[:-1]
    ours = list(inspect.signature(BatchNormalization.__init__).parameters.values())
    assert [(p.name, p.default, p.kind) for p in ours[: len(stock)]] == [
        (p.name, p.default, p.kind) for p in stock
    ]
    added = ours[len(stock) : -1]
    assert [p.name for p in added] == [
        "fused",
        "virtual_batch_size",
        "ghost_order",
        "adjustment",
        "zero_debias_moving_mean",
        "variance",
        "ghost_remainder",
        "ghost_averages",
        "activation",
    ]
    assert {p.kind for p in added} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("given", "kept"), [(2, 2), (np.int64(1), 1), (2.0, 2), (True, 1), ([3, 1], (3, 1)), ((-1,), (-1,))]
)
def test_axis_is_kept_as_written(given, kept):
    layer = BatchNormalization(axis=given)
    assert layer.axis == kept
    layer.build((2, 3, 4, 5))
    assert layer.axis == kept


KERNEL = (
    "The fused kernel runs only when axis is 1 or 3 (of rank 5: 1 or 4), without options like these, and in at most "
    "32 bits."
)
FASTEST = "Leave `fused` at None, which takes the fastest way there is."
REFUSED = {
    "axis 1.7": (
        {"axis": 1.7},
        TypeError,
        "axis=1.7 was asked for. An axis is named by an int, and 1.7 is a float. "
        "Pass an int such as -1, or a list of ints such as [1, 3].",
    ),
    "axis '1'": ({"axis": [0, "1"]}, TypeError, "axis=[0, '1'] was asked for. An axis is named by an int, "),
    "axis None": ({"axis": None}, TypeError, "axis=None was asked for. "),
    "no axis": ({"axis": []}, ValueError, "axis=() was asked for. "),
    "momentum 1.5": (
        {"momentum": 1.5},
        ValueError,
        "momentum=1.5 was asked for. It is the share of the old value that a moving average keeps, so it lies "
        "between 0 and 1. Pass a number such as 0.99.",
    ),
    "momentum None": ({"momentum": None}, TypeError, "momentum=None was asked for. "),
    "renorm_momentum": ({"renorm_momentum": -0.1}, ValueError, "renorm_momentum=-0.1 was asked for. "),
    "epsilon": ({"epsilon": -1.0}, ValueError, "epsilon=-1.0 was asked for. "),
    "variance": ({"variance": "biased"}, ValueError, "variance='biased' was asked for. "),
    "ghost size 0": ({"virtual_batch_size": 0}, ValueError, "A ghost batch size of 0 was asked for. "),
    "ghost size 2.0": ({"virtual_batch_size": 2.0}, TypeError, "A ghost batch size of 2.0 was asked for. "),
    "ghost order": ({"ghost_order": "random"}, ValueError, "ghost_order='random' was asked for. "),
    "adjustment": ({"adjustment": "noise"}, TypeError, "adjustment='noise' was asked for. "),
    "clip key": (
        {"renorm": True, "renorm_clipping": {"rmx": 2}},
        ValueError,
        "renorm_clipping={'rmx': 2} was given. Received invalid keys ['rmx']. Use any of rmin, rmax, dmax.",
    ),
    "clip order": (
        {"renorm": True, "renorm_clipping": {"rmax": 0.5, "rmin": 1}},
        ValueError,
        "renorm_clipping with rmin=1 and rmax=0.5 was given. No r lies between them, so rmax should be at least "
        "rmin. Exchange the two or drop one.",
    ),
    "clip sign": (
        {"renorm": True, "renorm_clipping": {"dmax": -1}},
        ValueError,
        "renorm_clipping with dmax=-1",
    ),
    "renorm and sample": (
        {"renorm": True, "variance": "sample"},
        ValueError,
        "Renorm and sample variance were asked for together. ",
    ),
    "fused axis": (
        {"fused": True, "axis": 2},
        ValueError,
        f"fused=True was asked for together with axis=2. {KERNEL} {FASTEST}",
    ),
    "fused axes": (
        {"fused": True, "axis": [1, 3]},
        ValueError,
        "fused=True was asked for together with axis=(1, 3)",
    ),
    "fused renorm": (
        {"fused": True, "renorm": True},
        ValueError,
        "fused=True was asked for together with renorm.",
    ),
    "fused ghosts": (
        {"fused": True, "virtual_batch_size": 2},
        ValueError,
        "fused=True was asked for together with virtual_batch_size.",
    ),
    "fused adjustment": (
        {"fused": True, "adjustment": len},
        ValueError,
        "fused=True was asked for together with an adjustment.",
    ),
    "fused float64": (
        {"fused": True, "dtype": "float64"},
        ValueError,
        "fused=True was asked for together with computing in float64.",
    ),
    "fused synchronized": (
        {"fused": True, "synchronized": True, "renorm": True},
        ValueError,
        "fused=True was asked for together with renorm and synchronized=True.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_construction(name):
    arguments, kind, message = REFUSED[name]
    with pytest.raises(kind) as caught:
        BatchNormalization(**arguments)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(message)
    assert str(caught.value).count(". ") >= 2, "a refusal has three parts"


REFUSED_AT_BUILD = {
    "out of range": (
        {"axis": 3},
        (2, 4, 5),
        (ValueError, IndexError),
        "Invalid axis: 3 of axes [3] was asked for on an input of rank 3. ",
    ),
    "twice": (
        {"axis": [1, -2]},
        (2, 4, 5),
        (ValueError, IndexError),
        "Duplicate axis: axes [1, -2] were asked ",
    ),
    "scalar": (
        {},
        (),
        (ValueError, IndexError),
        "Invalid axis: -1 of axes [-1] was asked for on an input of rank 0.",
    ),
    "unknown size": (
        {"axis": 1},
        (None, None, 5),
        (ValueError,),
        "Axis 1 of an input of shape (None, None, 5) was asked for. Its size is unknown, and each of its "
        "indices has variables of its own. Give the input a known size there.",
    ),
    "ghosts on axis 0": (
        {"axis": 0, "virtual_batch_size": 2},
        (4, 5),
        (ValueError,),
        "Ghost batches of 2 were asked for with axis 0 among the channel axes. ",
    ),
    "fused rank": (
        {"fused": True},
        (4, 5),
        (ValueError,),
        "fused=True was asked for with axis 1 of an input of rank 2. The fused kernel takes 4D or 5D "
        f"input tensors and normalizes a channel axis. {FASTEST}",
    ),
    "fused axis 0": (
        {"fused": True, "axis": -4},
        (2, 3, 4, 5),
        (ValueError,),
        "fused=True was asked for with axis 0",
    ),
}


@pytest.mark.parametrize("name", REFUSED_AT_BUILD)
def test_refused_at_build(name):
    arguments, shape, kinds, message = REFUSED_AT_BUILD[name]
    layer = BatchNormalization(**arguments)
    with pytest.raises(kinds[0]) as caught:
        layer.build(shape)
    assert all(isinstance(caught.value, kind) for kind in kinds)
    assert str(caught.value).startswith(message)
    assert not layer.weights


def test_fused_is_granted_where_keras_2_had_the_kernel():
    for shape, axis in [((2, 3, 4, 5), -1), ((2, 5, 3, 4), 1), ((2, 3, 4, 2, 5), 4), ((2, 5, 3, 4, 2), -4)]:
        layer = BatchNormalization(fused=True, axis=axis)
        layer.build(shape)
        assert layer.gamma.shape == (5,)


def test_output_shape_is_refused_for_an_axis_out_of_range():
    assert BatchNormalization(axis=1).compute_output_shape((None, 3, None)) == (None, 3, None)
    with pytest.raises(ValueError, match="Invalid axis: 2"):
        BatchNormalization(axis=2).compute_output_shape((None, 3))


def test_second_input_must_have_the_same_rank_and_channels():
    layer = BatchNormalization(axis=[1, 2])
    layer(np.zeros((2, 3, 4), "float32"))
    with pytest.raises(ValueError, match="expected ndim=3"):
        layer(np.zeros((2, 3, 4, 1), "float32"))
    with pytest.raises(ValueError, match="expected axis 2"):
        layer(np.zeros((2, 3, 5), "float32"))


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    with pytest.raises(RuntimeError) as caught:
        BatchNormalization()
    assert str(caught.value) == (
        "batchnorm.keras was asked to run on Keras' 'numpy' backend. Its engines are those for tensorflow, jax, torch. "
        "Set the environment variable KERAS_BACKEND to one of them before Keras is imported."
    )


def test_a_batch_that_ghosts_do_not_divide_is_refused():
    import tensorflow as tf

    layer = BatchNormalization(virtual_batch_size=4)
    x = tf.ones((6, 3))
    with pytest.raises(ValueError, match="Ghost batches of 4 were asked for with a batch of 6 examples"):
        layer(x, training=True)

    @tf.function(input_signature=[tf.TensorSpec((None, 3))])
    def step(x):
        return layer(x, training=True)

    with pytest.raises(tf.errors.InvalidArgumentError, match=r"virtual_batch_size=4 was asked for.*\[6\]"):
        step(x)
    assert layer(x, training=False).shape == (6, 3)


@pytest.mark.parametrize("order", ["interleaved", "contiguous"])
def test_smaller_ghosts_are_one_in_eager_code_and_in_graphs_of_any_batch(order):
    import tensorflow as tf

    def made():
        return BatchNormalization(
            virtual_batch_size=4,
            ghost_order=order,
            ghost_remainder="smaller",
            ghost_averages="group",
            momentum=0.8,
        )

    eager, traced = made(), made()
    x = np.random.RandomState(0).randn(10, 3).astype("float32")
    for layer in (eager, traced):
        layer.build(x.shape)

    @tf.function(input_signature=[tf.TensorSpec((None, 3))])
    def step(x):
        return traced(x, training=True)

    for size in (10, 9, 8, 3, 5):
        np.testing.assert_allclose(eager(x[:size], training=True), step(x[:size]), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(eager.moving_variance, traced.moving_variance, rtol=1e-5)
        np.testing.assert_allclose(eager.moving_mean, traced.moving_mean, rtol=1e-5, atol=1e-6)
    kept = traced.moving_mean.numpy()
    assert step(x[:0]).shape == (0, 3)
    np.testing.assert_array_equal(traced.moving_mean, kept)


def test_an_epoch_with_a_remainder_trains():
    model = keras.Sequential(
        [keras.Input((3,)), BatchNormalization(virtual_batch_size=4, ghost_remainder="smaller")]
    )
    model.compile("sgd", "mse", jit_compile=False)
    x = np.random.RandomState(0).randn(26, 3).astype("float32")
    model.fit(x, x, batch_size=8, verbose=0)
    assert np.isfinite(model.layers[0].moving_variance.numpy()).all()
    again = BatchNormalization.from_config(model.layers[0].get_config())
    assert (again.ghost_remainder, again.ghost_averages) == ("smaller", "step")


@pytest.mark.parametrize("name", ["scale", "renorm", "synchronized", "fused", "zero_debias_moving_mean"])
def test_switches_are_booleans(name):
    with pytest.raises(TypeError, match=f"{name}='no' was given"):
        BatchNormalization(**{name: "no"})

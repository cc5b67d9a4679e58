"""What the v1 layer does beyond its original, and what no golden case asks of it."""

import copy

import numpy as np
import pytest
import tensorflow as tf

from batchnorm.compat.v1.layers import BatchNormalization, batch_normalization

pytestmark = pytest.mark.needs("tensorflow", "tf_keras")

v1 = tf.compat.v1
UPDATES = v1.GraphKeys.UPDATE_OPS


@pytest.fixture
def session():
    with tf.Graph().as_default(), v1.Session() as session:
        yield session


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 2 + 1


def state_of(session, layer):
    return {
        v.name.split("/")[-1]: value
        for v, value in zip(layer.weights, session.run(layer.weights), strict=True)
    }


def start(session):
    session.run(v1.global_variables_initializer())


def test_two_renorm_calls_of_one_run_see_the_state_before_either_updates(session):
    x = tf.constant(normal(8, 3))
    layer = BatchNormalization(renorm=True, renorm_momentum=0.5)
    first = layer(x, training=True)
    second = layer(x, training=True)
    start(session)
    for _ in range(20):
        one, two, _ = session.run([first, second, v1.get_collection(UPDATES)])
        np.testing.assert_array_equal(one, two)


def test_two_reused_renorm_calls_see_the_same_state(session):
    x = tf.constant(normal(8, 3))
    calls = [
        batch_normalization(x, renorm=True, training=True, name="bn", reuse=v1.AUTO_REUSE) for _ in range(2)
    ]
    start(session)
    for _ in range(20):
        one, two, _ = session.run([*calls, v1.get_collection(UPDATES)])
        np.testing.assert_array_equal(one, two)


def test_a_renorm_call_ordered_after_an_update_sees_it(session):
    x = tf.constant(normal(8, 3))
    layer = BatchNormalization(renorm=True, renorm_momentum=0.5)
    first = layer(x, training=True)
    with tf.control_dependencies(v1.get_collection(UPDATES)):
        second = layer(x, training=True)
    start(session)
    one, two = session.run([first, second])
    assert np.abs(one - two).max() > 0.1


def test_two_training_calls_both_count(session):
    x = tf.constant(normal(8, 3))
    layer = BatchNormalization(momentum=0.5)
    layer(x, training=True)
    layer(x, training=True)
    start(session)
    session.run(layer.updates)
    mean = normal(8, 3).mean(0)
    moved = session.run(layer.moving_mean)
    # Side by side each update takes half of the distance it sees: between one half twice in turn and both at once.
    assert np.all(np.abs(moved) >= 0.749 * np.abs(mean))


def test_gradients_are_right_though_an_optimizer_writes_gamma(session):
    x = normal(64, 5)
    inputs = tf.Variable(x, use_resource=False)
    layer = BatchNormalization(fused=False)
    loss = tf.reduce_sum(tf.sin(layer(inputs, training=True)) * tf.constant(normal(64, 5, seed=1)))
    dx, dgamma = tf.gradients(loss, [inputs, layer.gamma])
    write = v1.assign(layer.gamma, dgamma * 100.0)
    for _ in range(20):
        start(session)
        expected = session.run(dx)
        np.testing.assert_allclose(session.run([dx, write])[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"renorm": True}, {"virtual_batch_size": 4}, {"fused": False}])
def test_second_derivatives_equal_numeric_ones(session, options):
    x = normal(8, 3).astype(np.float64)
    w = np.random.default_rng(1).standard_normal((8, 3))
    inputs = v1.placeholder(tf.float64, [None, 3])
    y = BatchNormalization(renorm_clipping={"rmax": 1.0, "rmin": 1.0, "dmax": 0.0}, **options)(
        inputs, training=True
    )
    (dx,) = tf.gradients(tf.reduce_sum(tf.sin(y) * w), [inputs])
    energy = tf.reduce_sum(dx**2)
    (ddx,) = tf.gradients(energy, [inputs])
    start(session)
    direction = np.random.default_rng(2).standard_normal((8, 3))
    ahead, behind = (session.run(energy, {inputs: x + h * direction}) for h in (1e-5, -1e-5))
    along = np.sum(session.run(ddx, {inputs: x}) * direction)
    np.testing.assert_allclose(along, (ahead - behind) / 2e-5, rtol=1e-5)


def test_ghost_layer_reloads_from_its_config_after_use(session):
    layer = BatchNormalization(
        axis=[1, 3], virtual_batch_size=2, momentum=0.9, name="ghosts", ghost_order="contiguous"
    )
    layer(tf.constant(normal(4, 3, 2, 5)), training=True)
    config = layer.get_config()
    assert config["axis"] == [1, 3]
    twin = BatchNormalization.from_config(config | {"name": "twin"})
    twin(tf.constant(normal(4, 3, 2, 5)), training=True)
    assert [v.shape for v in twin.weights] == [v.shape for v in layer.weights]
    assert twin.get_config() == config | {"name": "twin"}


def test_ghosts_are_kept_when_training_is_fed_and_inference_takes_any_batch(session):
    x, training = v1.placeholder(tf.float32, [None, 3]), v1.placeholder(tf.bool, [])
    fed = BatchNormalization(virtual_batch_size=2)(x, training=training)
    known = BatchNormalization(virtual_batch_size=2)(x, training=True)
    start(session)
    one, two = session.run([fed, known], {x: normal(6, 3), training: True})
    np.testing.assert_allclose(one, two, rtol=1e-6)
    assert session.run(fed, {x: normal(5, 3), training: False}).shape == (5, 3)


def test_batch_that_ghosts_do_not_divide(session):
    with pytest.raises(
        ValueError, match=r"Ghost batches of 4 were asked for with a batch of 6 .*6 = 1·4 \+ 2"
    ):
        BatchNormalization(virtual_batch_size=4)(tf.constant(normal(6, 3)), training=True)
    x = v1.placeholder(tf.float32, [None, 3])
    y = BatchNormalization(virtual_batch_size=4)(x, training=True)
    start(session)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must divide the batch size"):
        session.run(y, {x: normal(6, 3)})


@pytest.mark.parametrize("options", [{}, {"renorm": True}, {"virtual_batch_size": 2}, {"fused": False}])
@pytest.mark.parametrize("shape", [(3,), (2, 2, 3)])
def test_empty_batch_leaves_the_state(session, options, shape):
    x = v1.placeholder(tf.float32, [None, *shape])
    layer = BatchNormalization(moving_variance_initializer=v1.constant_initializer(0.25), **options)
    y = layer(x, training=True)
    start(session)
    before = state_of(session, layer)
    out, _ = session.run([y, layer.updates], {x: np.zeros((0, *shape), np.float32)})
    assert out.shape == (0, *shape)
    for name, value in state_of(session, layer).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_mask_of_zeros_normalizes_by_the_moving_statistics(session):
    x = tf.constant(normal(4, 2, 3))
    layer = BatchNormalization()
    trained = layer(x, training=True, mask=tf.zeros([4, 2], tf.bool))
    inferred = layer(x, training=False)
    start(session)
    one, two, _ = session.run([trained, inferred, layer.updates])
    np.testing.assert_allclose(one, two, rtol=1e-6)
    np.testing.assert_array_equal(session.run(layer.moving_variance), np.ones(3))


def test_adjustment_with_ghosts_sees_the_whole_batch(session):
    seen = []

    def adjustment(shape):
        seen.append(tf.get_static_value(shape))
        return 2.0, 0.5

    y = BatchNormalization(adjustment=adjustment, virtual_batch_size=2)(
        tf.constant(normal(4, 3)), training=True
    )
    plain = BatchNormalization(virtual_batch_size=2)(tf.constant(normal(4, 3)), training=True)
    start(session)
    one, two = session.run([y, plain])
    np.testing.assert_allclose(one, 2.0 * two + 0.5, rtol=1e-5)
    assert [list(shape) for shape in seen] == [[4, 3]]


def test_wider_input_is_cast_with_one_warning(session):
    layer = BatchNormalization(name="narrow", dtype=tf.float32)
    with pytest.warns(UserWarning, match="dtype float64.*'narrow'.*computes in float32.*dtype='float64'"):
        y = layer(tf.constant(normal(4, 3).astype(np.float64)))
    assert y.dtype == tf.float32


def test_eager_call_outside_a_tracker():
    with pytest.raises(
        ValueError, match=r"called eagerly\..*nothing would keep or share.*track_tf1_style_variables"
    ):
        batch_normalization(tf.constant(normal(4, 3)))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"momentun": 0.9}, TypeError, "given momentun. It has no such argument"),
        ({"axis": 1.5}, TypeError, "axis=1.5 was asked for"),
        ({"axis": []}, ValueError, "at least one axis, named by an int"),
        ({"renorm": True, "renorm_clipping": {"rmx": 1}}, ValueError, "invalid keys"),
        ({"virtual_batch_size": 0}, ValueError, "Pass a positive int"),
        ({"momentum": None}, TypeError, "Pass a number such as 0.99"),
        ({"epsilon": -1.0}, ValueError, "small positive number"),
        ({"ghost_order": "striped", "virtual_batch_size": 2}, ValueError, "'interleaved', 'contiguous'"),
        ({"renorm": True, "renorm_form": "old"}, ValueError, "'current', 'debiased'"),
        ({"gamma_initializer": 3}, ValueError, "neither a name, nor a config, nor a callable"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(options, error, text):
    with pytest.raises(error, match=text):
        BatchNormalization(**options)


def test_unused_layer_can_be_copied():
    layer = BatchNormalization(momentum=0.5, name="original")
    twin = copy.deepcopy(layer)
    with tf.Graph().as_default():
        layer(tf.constant(normal(4, 3)))
        assert layer.built
        assert not twin.built
        assert twin.momentum == 0.5


def test_inference_graph_holds_the_fused_operation_and_no_function(session):
    y = batch_normalization(v1.placeholder(tf.float32, [8, 32, 32, 64]))
    assert y.op.type == "FusedBatchNormV3"
    kinds = {op.type for op in v1.get_default_graph().get_operations()}
    assert not kinds & {"PartitionedCall", "StatefulPartitionedCall", "IdentityN"}, kinds


def test_checkpoint_moves_between_fused_and_unfused_layers(session, tmp_path):
    x = tf.constant(normal(8, 4, 4, 3))
    y = batch_normalization(x, training=True, name="bn")
    start(session)
    session.run(v1.get_collection(UPDATES))
    del y
    path = v1.train.Saver().save(session, str(tmp_path / "model"))
    with tf.Graph().as_default(), v1.Session() as other:
        layer = BatchNormalization(name="bn", fused=False)
        y = layer(x_again := tf.constant(normal(8, 4, 4, 3)))
        v1.train.Saver().restore(other, path)
        mean, variance = other.run([layer.moving_mean, layer.moving_variance])
        np.testing.assert_allclose(mean, 0.01 * normal(8, 4, 4, 3).mean((0, 1, 2)), rtol=1e-4)
        expected = (normal(8, 4, 4, 3) - mean) / np.sqrt(variance + 1e-3)
        np.testing.assert_allclose(other.run(y), expected, rtol=1e-5, atol=1e-5)
        del x_again


def test_activity_regularizer_is_a_loss_of_its_input(session):
    x = tf.constant(normal(4, 3))
    layer = BatchNormalization(activity_regularizer=lambda y: tf.reduce_sum(y**2))
    layer(x, training=True)
    assert len(layer.get_losses_for(x)) == 1
    assert layer.get_losses_for(None) == []


def test_two_calls_ordered_by_their_data_move_the_averages_in_turn():
    """With resource variables nothing else would order a read of an average after the assignment before it."""
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype("float32") * 2 + 1
    want = 1.75 * x.mean((0, 1, 2))  # ½·(½·μ) + ½·3μ
    for _ in range(6):
        with (
            tf.Graph().as_default(),
            tf.compat.v1.variable_scope("", reuse=tf.compat.v1.AUTO_REUSE, use_resource=True),
        ):
            fed = tf.compat.v1.placeholder(tf.float32, [None, 4, 4, 3])
            y = batch_normalization(fed, training=True, name="bn", momentum=0.5)
            with tf.control_dependencies(tf.compat.v1.get_collection("update_ops")):
                later = fed * 3.0
            batch_normalization(later, training=True, name="bn", momentum=0.5)
            (mean,) = (v for v in tf.compat.v1.global_variables() if v.op.name.endswith("moving_mean"))
            with tf.compat.v1.Session() as session:
                session.run(tf.compat.v1.global_variables_initializer())
                session.run([y, tf.compat.v1.get_collection("update_ops")], {fed: x})
                np.testing.assert_allclose(session.run(mean), want, rtol=1e-5)


def test_a_custom_getter_may_return_a_tensor():
    def doubled(getter, name, *args, **kwargs):
        made = getter(name, *args, **kwargs)
        return 2.0 * made if name.endswith("gamma") else made

    with tf.Graph().as_default(), tf.compat.v1.variable_scope("m", custom_getter=doubled):
        y = batch_normalization(tf.constant([[1.0], [3.0]]), training=True, epsilon=0.0)
        assert len(tf.compat.v1.trainable_variables()) == 2
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            np.testing.assert_allclose(session.run(y), [[-2.0], [2.0]], rtol=1e-6)


@pytest.mark.parametrize("fed", [True, False])
def test_averages_of_a_batch_of_unknown_size(fed):
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 1])
        training = tf.compat.v1.placeholder(tf.bool, []) if fed else True
        y = batch_normalization(x, training=training, momentum=0.9)
        mean, variance = (v for v in tf.compat.v1.global_variables() if "moving" in v.op.name)
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            given = {x: [[1.0], [3.0]]} | ({training: True} if fed else {})
            session.run([y, tf.compat.v1.get_collection("update_ops")], given)
            np.testing.assert_allclose(session.run([mean, variance]), [[0.2], [1.0]], rtol=1e-6)
            session.run([y, tf.compat.v1.get_collection("update_ops")], given | {x: [[7.0], [11.0]]})
            np.testing.assert_allclose(session.run([mean, variance]), [[1.08], [1.3]], rtol=1e-6)

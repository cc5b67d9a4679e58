"""What a tracked object refuses, and that eager code and tf.function refuse the same."""

import pytest
import tensorflow as tf

from batchnorm.compat.v1.keras.utils import get_or_create_layer, track_tf1_style_variables
from faces.tracked import X, both_ways, module, names, norm

pytestmark = pytest.mark.needs("tensorflow", "keras", "tf_keras")

v1 = tf.compat.v1


def refused(method, message, wrap=lambda f: f):
    with pytest.raises(ValueError, match=message):
        wrap(module(method))(X)


@both_ways
@pytest.mark.parametrize("nested", [False, True], ids=["own scope", "inherited"])
def test_reuse_needs_an_existing_variable(wrap, nested):
    def method(self, x):
        with v1.variable_scope("a", reuse=True):
            if not nested:
                return v1.get_variable("v", [3])
            with v1.variable_scope("b"), v1.variable_scope(v1.get_variable_scope()):
                return v1.get_variable("v", [3])

    refused(method, r"Variable 'a/(b/)?v' was asked for with reuse=True\. It does not exist", wrap)


@both_ways
def test_reuse_of_a_normalization_needs_its_variables(wrap):
    refused(
        lambda self, x: norm(x, name="q", reuse=True),
        "Variable 'q/gamma' was asked for with reuse=True",
        wrap,
    )


@both_ways
def test_reuse_ends_with_its_scope(wrap):
    def method(self, x):
        with v1.variable_scope("a"):
            first = v1.get_variable("v", [3])
        with v1.variable_scope("a", reuse=True):
            again = v1.get_variable("v", [3])
        with v1.variable_scope("a") as scope:
            new = v1.get_variable("w", [3])
            scope.reuse_variables()
            assert first is again is v1.get_variable("v", [3])
        return new + v1.get_variable("z", [3])

    net = module(method)
    wrap(net)(X)
    assert names(net) == ["a/v", "a/w", "z"]


def get_twice(**second):
    def method(self, x):
        v1.get_variable("v", [3])
        return v1.get_variable("v", **({"shape": [3]} | second))

    return method


@both_ways
def test_another_shape_or_dtype_is_refused(wrap):
    refused(get_twice(shape=[4]), r"shape \(4,\)\. It exists already and has shape \(3,\)\. Ask for", wrap)
    refused(get_twice(dtype=tf.float64), r"dtype float64\. It exists already and has dtype float32", wrap)


@both_ways
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": [4], "partitioner": v1.fixed_size_partitioner(2)}, r"with a partitioner .*in one piece\."),
        ({"shape": [1], "initializer": 1.0}, r"A constant has a shape of its own\. Leave the shape out\."),
        ({"initializer": v1.zeros_initializer()}, r"needs a shape without unknown sizes\. Pass the shape\."),
        ({}, r"needs a shape without unknown sizes"),
        ({"shape": [None, 2]}, r"needs a shape without unknown sizes"),
        ({"shape": [2], "dtype": tf.complex64}, r"no default for dtype complex64\. Pass an initializer\."),
        ({"shape": [2], "custom_getter": 3}, r"custom_getter which is not callable: 3\. .*Pass a function"),
    ],
)
def test_what_cannot_be_made_is_refused(wrap, arguments, message):
    refused(lambda self, x: v1.get_variable("v", **arguments), message, wrap)


def test_a_traced_tensor_cannot_be_the_initial_value():
    refused(
        lambda self, x: v1.get_variable("v", initializer=x),
        r"outside of the function being traced, where this tensor has no value\. Pass a number",
        tf.function,
    )


def test_only_objects_that_keep_variables_can_be_decorated():
    with pytest.raises(ValueError, match=r"called with 3 first\. .*does not extend tf.Module"):
        track_tf1_style_variables(lambda x: x)(3)


def test_outside_of_decorated_methods_there_is_no_home():
    with pytest.raises(ValueError, match="Decorate the calling method"):
        get_or_create_layer("m", object)
    with pytest.raises(ValueError, match="Decorate the calling method"):
        tf.function(lambda: get_or_create_layer("m", object))()
    with tf.Graph().as_default():
        assert get_or_create_layer("m", list) is not get_or_create_layer("m", list)

"""Activations as options: how they are asked for, refused, and computed where an array has special values."""

import numpy as np
import pytest

from batchnorm import Activation, Options, batch_norm, init
from batchnorm._core.epilogue import activate, pull
from batchnorm._engines.numpy import ops
from batchnorm.activation import ACTIVATIONS
from oracle_activations import activation as by_oracle
from tolerances import assert_close

NAMES = [name for name in ACTIVATIONS if name != "identity"]


def record(name: str) -> Activation:
    return Activation(name, 0.2 if name == "leaky_relu" else None)


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_the_formulas(name: str) -> None:
    u = np.concatenate([np.linspace(-8, 8, 333), [-30.0, 30.0, -3.0, 3.0, 0.0, 1.0, -1.0, 6.0]])
    g = np.random.default_rng(1).normal(size=u.shape)
    value, slope = by_oracle(name, 0.2, u)
    assert_close(activate(ops, record(name), u), value, "float64", f"{name}: value")
    assert_close(pull(ops, record(name), u, g), slope * g, "float64", f"{name}: gradient")


@pytest.mark.parametrize("name", NAMES)
def test_far_from_zero_nothing_overflows_into_nan(name: str) -> None:
    u = np.array([1e4, 1e30, -1e4, -1e30], np.float32)
    with np.errstate(over="ignore"):
        value = activate(ops, record(name), u)
        slope = pull(ops, record(name), u, np.ones_like(u))
    assert value.dtype == slope.dtype == np.float32
    assert not np.isnan(value).any()
    rising = name not in ("relu6", "hard_tanh", "sigmoid", "tanh")
    falling = 0.2 if name == "leaky_relu" else 0.0
    assert_close(slope, [float(rising)] * 2 + [falling] * 2, "float32", name)


@pytest.mark.parametrize("name", NAMES)
def test_nan_passes(name: str) -> None:
    assert np.isnan(activate(ops, record(name), np.array([np.nan]))).all()


def test_a_gradient_that_is_infinite_does_not_pass_a_closed_relu() -> None:
    found = pull(ops, record("relu"), np.array([-1.0, 0.0, 1.0]), np.array([np.inf, np.nan, 2.0]))
    assert found.tolist() == [0.0, 0.0, 2.0]


def test_names_records_and_the_identity() -> None:
    assert Options(activation="relu").activation == Activation("relu")
    assert Options(activation=Activation("relu")) == Options(activation="relu")
    assert Options(activation="identity").activation is None
    assert Activation("leaky_relu").slope == 0.01
    assert Activation("leaky_relu", 1).slope == 1.0


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Options(activation="rleu"), ValueError, r"Options\(activation='rleu'\).*'relu', 'relu6'"),
        (lambda: Activation("swish"), ValueError, "There is no such activation"),
        (lambda: Options(activation=np.tanh), TypeError, "given by its name"),
        (lambda: Activation("relu", 0.1), ValueError, "Only leaky_relu has a slope"),
        (lambda: Activation("leaky_relu", "0.1"), TypeError, "must be a number"),
        (lambda: Activation("leaky_relu", True), TypeError, "must be a number"),
    ],
)
def test_mistakes(make, error, says) -> None:
    with pytest.raises(error, match=says):
        make()


def test_a_residual_has_the_shape_and_framework_of_the_input() -> None:
    x, options = np.ones((4, 3)), Options(activation="relu")
    given = x, *init(options, x.shape, like=x), options
    with pytest.raises(ValueError, match=r"residual of shape \(3,\) came with an input of shape \(4, 3\)"):
        batch_norm(*given, training=True, residual=np.ones(3))
    with pytest.raises(TypeError, match=r"residual of type builtins\.list"):
        batch_norm(*given, training=True, residual=[[1.0]])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_wide_residual_is_rounded_to_the_input_first(dtype: str) -> None:
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(dtype)
    z = np.random.default_rng(1).normal(size=(8, 3))
    options = Options(activation="silu")
    given = x, *init(options, x.shape, like=x), options
    y, _ = batch_norm(*given, training=True, residual=z)
    same, _ = batch_norm(*given, training=True, residual=z.astype(dtype))
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, same)

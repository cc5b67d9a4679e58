"""JAX's steps with an activation and a residual: one call of a kernel each way, and the numbers of plain operations."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import batchnorm
from batchnorm import Activation, Ghost, Options, Renorm
from batchnorm._engines.jax import dispatch
from batchnorm._kernels.jax import why_missing
from tolerances import assert_close

pytestmark = [
    pytest.mark.needs("jax"),
    pytest.mark.skipif(why_missing() is not None, reason=str(why_missing())),
]

SHAPE = (6, 4, 3, 5)
CASES = {
    "relu": (Options(activation="relu"), False),
    "relu and a residual": (Options(activation="relu"), True),
    "leaky_relu, channels first": (Options((1,), activation=Activation("leaky_relu", 0.2)), True),
    "silu, no affine": (Options(with_gamma=False, with_beta=False, activation="silu"), True),
    "gelu, ghosts": (Options((1,), ghost=Ghost(2), activation="gelu"), False),
    "a residual alone": (Options(), True),
    "relu6, renorm": (Options(renorm=Renorm(), activation="relu6"), True),
}
# What each step calls: plain ones one kernel each way, renorm a kernel for each pass but that which pulls dy through
# the activation.
FUSED = {"batchnorm_jax_train", "batchnorm_jax_gradients"}
PASSES = {f"batchnorm_jax_{name}" for name in ("moments", "apply", "gradients")}


@pytest.fixture(autouse=True)
def at_every_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dispatch, "LARGE_INPUT", 0)
    with jax.enable_x64(True):
        yield


def given(options: Options, dtype: str = "float64") -> tuple[Any, ...]:
    random = np.random.RandomState(0)
    x, z, dy = (jnp.asarray(random.randn(*SHAPE), dtype) for _ in range(3))
    params, _ = batchnorm.init(options, SHAPE, like=x)
    params = {name: value + jnp.asarray(random.rand(*value.shape)) for name, value in params.items()}
    return x, params, z, dy


def step(options: Options, residual: bool, x: Any, params: Any, z: Any, dy: Any) -> Any:
    _, state = batchnorm.init(options, SHAPE, like=x)

    def forward(x: Any, params: Any, z: Any) -> Any:
        added = z if residual else None
        return batchnorm.batch_norm(x, params, state, options, training=True, residual=added)

    y, pull, after = jax.vjp(forward, x, params, z, has_aux=True)
    return y, after, pull(dy)


@pytest.mark.parametrize("name", CASES)
def test_kernels_give_the_numbers_of_plain_operations(name: str) -> None:
    options, residual = CASES[name]
    arrays = given(options)
    compiled = jax.jit(lambda *arrays: step(options, residual, *arrays))
    text = compiled.lower(*arrays).as_text()
    called = {word.strip('"@') for word in text.replace("(", " ").split() if "batchnorm_jax_" in word}
    assert called == (FUSED if options.renorm is None else PASSES)
    plain = jax.jit(lambda *arrays: step(replace(options, fused=False), residual, *arrays))
    for got, want in zip(jax.tree.leaves(compiled(*arrays)), jax.tree.leaves(plain(*arrays)), strict=True):
        assert_close(got, want, "float64", name)


@pytest.mark.parametrize("name", ["relu and a residual", "silu, no affine", "gelu, ghosts"])
def test_derivatives_of_the_gradient_and_maps(name: str) -> None:
    options, residual = CASES[name]
    x, params, z, dy = given(options)

    def curvature(options: Options) -> Any:
        def slope(x: Any, z: Any) -> Any:
            _, _, (dx, _, dz) = step(options, residual, x, params, z, dy)
            return jnp.sum(jnp.sin(dx)) + jnp.sum(jnp.sin(dz))

        return jax.jit(jax.grad(slope, (0, 1)))(x, z)

    for got, want in zip(curvature(options), curvature(replace(options, fused=False)), strict=True):
        assert_close(got, want, "float64", f"{name}: a second derivative", within=1e-9)

    def mapped(options: Options) -> Any:
        return jax.vmap(lambda x: step(options, residual, x, params, z, dy)[2])(jnp.stack([x, 2.0 * x + z]))

    pairs = zip(*map(jax.tree.leaves, (mapped(options), mapped(replace(options, fused=False)))), strict=True)
    for got, want in pairs:
        assert_close(got, want, "float64", f"{name}: mapped", within=1e-9)


def test_forward_mode() -> None:
    options = CASES["silu, no affine"][0]
    x, params, z, dy = given(options)
    _, state = batchnorm.init(options, SHAPE, like=x)

    def call(fused: bool | None) -> Any:
        own = replace(options, fused=fused)

        def y(x: Any, z: Any) -> Any:
            return batchnorm.batch_norm(x, params, state, own, training=True, residual=z)[0]

        return jax.jvp(y, (x, z), (dy, dy[::-1]))[1]

    assert_close(call(None), call(False), "float64", "tangent")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_are_rounded_once(dtype: str) -> None:
    options = Options(activation="silu")
    x, params, z, _ = given(options, "float32")
    x, z = x.astype(dtype), z.astype(dtype)
    params = {name: value.astype("float32") for name, value in params.items()}
    _, state = batchnorm.init(options, SHAPE, like=x)

    def y(x: Any, z: Any) -> Any:
        return batchnorm.batch_norm(x, params, state, options, training=True, residual=z)[0]

    exact = np.asarray(y(x.astype("float32"), z.astype("float32")), np.float64)
    bound = float(jnp.finfo(dtype).eps) / 2 * np.abs(exact) * 1.01 + 1e-6
    assert (np.abs(np.asarray(y(x, z), np.float64) - exact) <= bound).all()

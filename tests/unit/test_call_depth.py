"""How many files of the package lie between a call on a large input and the kernel: the fewer, the easier to read."""

import importlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import batchnorm
from batchnorm import _kernels

PACKAGE = str(Path(batchnorm.__file__).parent)
needs_kernels = pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}")


class Watch:
    """The kernels, noting for each call which files of the package are on the stack."""

    def __init__(self, module: Any, found: list[list[str]]) -> None:
        self.module, self.found = module, found

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.module, name)
        if not callable(value):
            return value

        def call(*given: Any, **named: Any) -> Any:
            frames = traceback.extract_stack()
            own = [frame.filename for frame in frames if frame.filename.startswith(PACKAGE)]
            self.found.append(list(dict.fromkeys(own)))
            return value(*given, **named)

        return call


def watch(monkeypatch: Any, place: str) -> list[list[str]]:
    """The stacks of the calls from now on to the kernels that the module at `place` loads."""
    module, found = importlib.import_module(place), []
    kernels = module.load()
    if kernels is None:
        pytest.skip("its binding was not built")
    monkeypatch.setattr(module, "load", lambda: Watch(kernels, found))
    return found


def check(found: list[list[str]], most: int) -> None:
    assert found, "the kernels were not used"
    assert max(map(len, found)) <= most, max(found, key=len)


@needs_kernels
@pytest.mark.parametrize("options", [{}, {"renorm": True}, {"virtual_batch_size": 4}], ids=str)
def test_torch(monkeypatch: Any, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    from batchnorm.torch import BatchNorm2d

    layer, x = BatchNorm2d(8, **options), torch.ones((32, 8, 56, 56), requires_grad=True)
    found = watch(monkeypatch, "batchnorm._engines.torch.cpu_kernels")
    layer(x).sum().backward()
    check(found, 5)


@needs_kernels
@pytest.mark.parametrize("options", [{}, {"renorm": True}, {"virtual_batch_size": 4}], ids=str)
def test_keras_on_tensorflow(monkeypatch: Any, options: dict[str, Any]) -> None:
    keras, tf = pytest.importorskip("keras"), pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras runs on another framework here")
    from batchnorm.keras.layers import BatchNormalization

    layer, x = BatchNormalization(**options), tf.ones([32, 56, 56, 8])
    layer.build(x.shape)
    found = watch(monkeypatch, "batchnorm._engines.tensorflow.dispatch")
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    tape.gradient(y, x)
    check(found, 8)


@needs_kernels
@pytest.mark.parametrize("options", [{}, {"renorm": True}, {"updates_collections": None}], ids=str)
@pytest.mark.parametrize("fed", [False, True], ids=["trains", "is_training is fed"])
def test_contrib(monkeypatch: Any, options: dict[str, Any], fed: bool) -> None:
    tf = pytest.importorskip("tensorflow")
    from batchnorm.contrib.layers import batch_norm

    found = watch(monkeypatch, "batchnorm._engines.tensorflow.dispatch")
    with tf.Graph().as_default():
        is_training = tf.compat.v1.placeholder(tf.bool, []) if fed else True
        batch_norm(tf.ones([32, 56, 56, 8]), is_training=is_training, **options)
    check(found, 12)


@needs_kernels
def test_jax(monkeypatch: Any) -> None:
    pytest.importorskip("jax")
    primitives = importlib.import_module("batchnorm._engines.jax.primitives")
    found: list[list[str]] = []

    def call(step: Callable[[], Any]) -> None:
        monkeypatch.setattr(primitives, "train_p", Watch(primitives.train_p, found))
        step()

    import jax.numpy as jnp

    x, options = jnp.ones((32, 56, 56, 8)), batchnorm.Options()
    call(lambda: batchnorm.batch_norm(x, *batchnorm.init(options, x.shape, like=x), options, training=True))
    check(found, 6)

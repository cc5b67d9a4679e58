"""The library of TensorFlow's ops: its threads, what it refuses, and what happens without it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from batchnorm._kernels import tensorflow as kernels
from batchnorm.options import Ghost, Options
from unit.tensorflow_steps import PLAIN, SHAPE, arrays, check, forward, needs_ops, step

pytestmark = pytest.mark.needs("tensorflow")


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
    given = {"mean": one, "scale": one, "shift": one, "residual": [], "bounds": [0, 3, 3, 3, 4, 4]} | change
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

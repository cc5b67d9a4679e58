"""What `explain` says where TensorFlow builds graphs, beside what they hold."""

from typing import Any

import pytest
import tensorflow as tf

import batchnorm
from batchnorm import Explanation, Ghost, Options, Renorm
from batchnorm._engines.tensorflow import dispatch
from batchnorm._kernels import tensorflow as kernels
from unit.explained import array, explained
from unit.tensorflow_steps import kinds, needs_ops

SHAPE = (8, 3, 3, 5)
LAST = Options((3,))
pytestmark = [
    pytest.mark.needs("tensorflow"),
    needs_ops,
]


def traced(options: Options, spec: Any, weights: Any = None, **named: Any) -> tuple[Explanation, set[str]]:
    """What is said while a training step is traced, and the ops of ours that the function then holds."""
    said: list[Explanation] = []
    params, state = batchnorm.init(options, SHAPE, like=tf.zeros([]))

    def function(x: Any) -> Any:
        said.append(explained(x, options, weights))
        return batchnorm.batch_norm(x, params, state, options, training=True, weights=weights)[0]

    held = kinds(tf.function(function, autograph=False, **named), spec)
    return said[0], held


SPECS = {"known": tf.TensorSpec(SHAPE), "unknown": tf.TensorSpec((None, None, 3, 5))}
ASKED = {
    "plain": (LAST, "native"),
    "renorm": (Options((3,), renorm=Renorm()), "native"),
    "ghosts": (Options((3,), ghost=Ghost(4)), "native"),
    "plain operations": (Options((3,), fused=False), "composed"),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("name", ASKED)
def test_in_functions(name: str, spec: Any) -> None:
    options, path = ASKED[name]
    said, held = traced(options, spec)
    assert said.path == path
    assert bool(held) == (path == "native")


def test_weights_of_unknown_shapes_are_no_kernels_unless_they_are_by_example() -> None:
    said, held = traced(LAST, SPECS["unknown"], tf.ones([8]))
    assert said.path == "native"
    assert {"BatchnormKernelsMoments"} <= held
    said, held = traced(LAST, SPECS["known"], tf.ones([8, 3, 3, 5]))
    assert said.path == "mixed"
    assert held == {"BatchnormKernelsApply"}


@pytest.mark.parametrize("options", [LAST, Options((3,), renorm=Renorm())], ids=["plain", "renorm"])
def test_what_xla_compiles_holds_no_kernel(options: Options) -> None:
    said, held = traced(options, SPECS["known"], jit_compile=True)
    assert said.path == "composed"
    assert said.why == "what is being built is compiled by XLA, or is a loop of TensorFlow 1"
    assert not held
    with pytest.raises(
        ValueError, match=r"^fused=True was asked for.*compiled by XLA.* Leave `fused` at None"
    ):
        traced(Options((3,), fused=True), SPECS["known"], jit_compile=True)


def test_in_a_condition() -> None:
    said: list[Explanation] = []

    def step(x: Any) -> Any:
        said.append(explained(x, LAST))
        params, state = batchnorm.init(LAST, SHAPE, like=x)
        return batchnorm.batch_norm(x, params, state, LAST, training=True)[0]

    function = tf.function(lambda t, x: tf.cond(t, lambda: step(x), lambda: x), autograph=False)
    assert kinds(function, tf.TensorSpec((), tf.bool), SPECS["known"])
    assert said[0].path == "native"


def test_beside_an_accelerator(monkeypatch) -> None:
    monkeypatch.setattr(dispatch, "is_cpu", lambda: False)
    said = explained(array("tensorflow", SHAPE), LAST)
    assert (said.path, said.instructions, said.threads) == ("composed", None, None)
    assert said.why is not None
    assert said.why.startswith("this process may compute on an accelerator")


def test_variables_and_threads() -> None:
    said = explained(tf.Variable(array("tensorflow", SHAPE)), LAST)
    assert (said.path, said.threads) == ("native", kernels.threads())

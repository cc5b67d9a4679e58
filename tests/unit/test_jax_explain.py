"""What `explain` says of JAX's arrays, beside the custom calls that the compiled program holds."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import batchnorm
from batchnorm import Explanation, Ghost, Options, Renorm
from batchnorm._kernels.jax import why_missing
from unit.explained import explained

pytestmark = [
    pytest.mark.needs("jax"),
    pytest.mark.skipif(why_missing() is not None, reason=f"the custom calls are {why_missing()}"),
]

IMAGES, APART = (32, 8, 8, 16), (2, 30, 2, 30, 2, 10)
LAST = Options((3,))
SMALL = "XLA fuses operations on fewer than 1,024 numbers"
# The path, what is asked, and the shapes of the input and the weights.
CASES: dict[str, tuple[str, Options, tuple[int, ...], tuple[int, ...] | None]] = {
    "plain": ("native", LAST, IMAGES, None),
    "channels first": ("native", Options((1,)), IMAGES, None),
    "ghosts": ("native", Options((3,), ghost=Ghost(4)), IMAGES, None),
    "renorm": ("native", Options((3,), renorm=Renorm()), IMAGES, None),
    "weights": ("native", LAST, IMAGES, (32,)),
    "weights by channel": ("mixed", LAST, IMAGES, (1, 1, 1, 16)),
    "axes apart": ("composed", Options((1, 3, 5)), APART, None),
    "plain operations": ("composed", Options((3,), fused=False), IMAGES, None),
    "small": ("composed", LAST, (8, 3, 3, 5), None),
    "small, weights by channel": ("composed", LAST, (8, 3, 3, 5), (1, 1, 1, 5)),
    "small, insisting": ("native", Options((3,), fused=True), (8, 3, 3, 5), None),
    "small, insisting on renorm": ("native", Options((3,), fused=True, renorm=Renorm()), (8, 3, 3, 5), (8,)),
    "empty": ("composed", LAST, (0, 3, 3, 5), None),
    "insisting, empty": ("refused", Options((3,), fused=True), (0, 3, 3, 5), None),
    "insisting, by channel": ("refused", Options((3,), fused=True), IMAGES, (1, 1, 1, 16)),
}


def compiled(options: Options, x: Any, weights: Any = None, *, training: bool = True) -> set[str]:
    """The kernels in the compiled program of a step, and of its gradient in training."""
    params, state = batchnorm.init(options, x.shape, like=x)

    def loss(x: Any) -> Any:
        y, after = batchnorm.batch_norm(x, params, state, options, training=training, weights=weights)
        return jnp.sum(jnp.sin(y)), after

    function = jax.value_and_grad(loss, has_aux=True) if training else loss
    return set(re.findall(r'batchnorm_jax_(\w+)"', jax.jit(function).lower(x).compile().as_text()))


def path_of(held: set[str]) -> str:
    if held & {"train", "moments"}:
        return "native"
    return "mixed" if held else "composed"


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_is_what_the_program_holds(name: str) -> None:
    path, options, shape, weighted = CASES[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    weights = None if weighted is None else jnp.ones(weighted)
    said = explained(x, options, weights)
    assert said.path == path
    assert (said.why is None) == (path == "native")
    if path == "refused":
        with pytest.raises(
            ValueError, match=f"^fused=True was asked for.* because {said.why}.* Leave `fused`"
        ):
            compiled(options, x, weights)
        return
    assert path_of(compiled(options, x, weights)) == path
    assert (said.instructions is not None) == (path != "composed")
    assert said.threads is None, "XLA tells the kernels alone"
    inside: list[Explanation] = []
    jax.jit(lambda x: inside.append(explained(x, options, weights)))(x)
    assert inside == [said]


def test_small_inputs_say_so() -> None:
    why = explained(jnp.ones((8, 3)), Options()).why
    assert why is not None
    assert why.startswith(SMALL)


def test_inference_holds_plain_operations() -> None:
    x = jnp.ones(IMAGES)
    assert explained(x, LAST, training=False).path == "composed"
    assert compiled(LAST, x, training=False) == set()
    # fused=True is about training.
    assert compiled(Options((3,), fused=True), x, training=False) == set()


def test_over_a_mapped_axis_all_operations_are_plain() -> None:
    options, x = Options((1,), synchronized=True), jnp.ones((64, 1024))
    said = explained(x, options)
    assert said.path == "composed"
    assert said.why == "statistics over a mapped axis are computed in plain operations"
    params, state = batchnorm.init(options, x.shape, like=x)

    def step(x: Any, options: Options = options) -> Any:
        return batchnorm.batch_norm(x, params, state, options, training=True, axis_name="members")[0]

    mapped = jax.jit(jax.vmap(step, axis_name="members"))
    assert "batchnorm_jax_" not in mapped.lower(x[None]).compile().as_text()
    with pytest.raises(ValueError, match=f"because {said.why}"):
        jax.vmap(lambda x: step(x, Options((1,), synchronized=True, fused=True)), axis_name="members")(
            x[None]
        )

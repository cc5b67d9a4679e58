"""A critic without a target network, as in CrossQ (Bhatt et al. 2024, https://arxiv.org/abs/1902.05605), in Flax NNX.

A cart on a line is pushed by a fixed policy, and the critic learns the discounted reward to come. What it sees now,
(s, a), and what it sees next, (s', a'), go through it in one joint batch, so that both are normalized by the same
statistics; renorm lets these grow into the moving ones, with bounds that open over the first third of the steps.

    python examples/crossq_jax.py [steps]

prints the error of Q against rollouts of the policy, as a share of the deviation of the true values.
"""

import sys
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from batchnorm.flax import BatchNorm

DISCOUNT, BATCH, WIDTH = 0.9, 256, 64
HORIZON = 80  # 0.9⁸⁰ = 0.0002 of a reward is all that comes after


def policy(state: jax.Array) -> jax.Array:
    return jnp.tanh(-state @ jnp.array([[1.0], [1.5]]))


def move(state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The next position and velocity, and the reward, which is higher near the middle and for small pushes."""
    position, velocity = state[:, :1], state[:, 1:]
    velocity = 0.95 * velocity + 0.3 * action
    after = jnp.concatenate([position + 0.3 * velocity, velocity], axis=1)
    return after, -jnp.sum(after[:, :1] ** 2 + 0.1 * action**2, axis=1)


def true_values(state: jax.Array, action: jax.Array) -> jax.Array:
    """The discounted rewards of this action and of the policy's after it."""

    def one(carry: tuple, _: None) -> tuple:
        state, action, discount = carry
        state, reward = move(state, action)
        return (state, policy(state), DISCOUNT * discount), discount * reward

    _, rewards = jax.lax.scan(one, (state, action, 1.0), None, HORIZON)
    return jnp.sum(rewards, axis=0)


def bounds(warm_up: int, step: jax.Array) -> dict[str, jax.Array]:
    """From plain batch normalization (r = 1, d = 0) to r in [1/3, 3] and d in [-5, 5]."""
    open_ = jnp.clip(step / warm_up, 0.0, 1.0)
    return {"rmax": 1.0 + 2.0 * open_, "rmin": 1.0 / (1.0 + 2.0 * open_), "dmax": 5.0 * open_}


class Critic(nnx.Module):
    """Q(s, a)."""

    def __init__(self, schedule: Callable[[jax.Array], dict], rngs: nnx.Rngs) -> None:
        def norm(features: int) -> BatchNorm:
            renorm = {"renorm": True, "renorm_clipping": schedule, "renorm_momentum": 0.98}
            return BatchNorm(features, momentum=0.98, **renorm, rngs=rngs)

        self.inputs = norm(3)
        self.first = nnx.Linear(3, WIDTH, use_bias=False, rngs=rngs)
        self.first_norm = norm(WIDTH)
        self.second = nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs)
        self.second_norm = norm(WIDTH)
        self.last = nnx.Linear(WIDTH, 1, rngs=rngs)

    def __call__(self, state: jax.Array, action: jax.Array) -> jax.Array:
        x = self.inputs(jnp.concatenate([state, action], axis=1))
        x = nnx.relu(self.first_norm(self.first(x)))
        x = nnx.relu(self.second_norm(self.second(x)))
        return self.last(x)[:, 0]


def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """States and actions of a random behavior."""
    first, second = jax.random.split(key)
    return 1.5 * jax.random.normal(first, (BATCH, 2)), jax.random.uniform(second, (BATCH, 1), minval=-1.0)


@nnx.jit
def train(critic: Critic, optimizer: nnx.Optimizer, key: jax.Array) -> jax.Array:
    state, action = draw(key)
    after, reward = move(state, action)

    def loss(critic: Critic) -> jax.Array:
        both = critic(jnp.concatenate([state, after]), jnp.concatenate([action, policy(after)]))
        now, later = jnp.split(both, 2)
        return jnp.mean((now - jax.lax.stop_gradient(reward + DISCOUNT * later)) ** 2)

    value, gradients = nnx.value_and_grad(loss)(critic)
    optimizer.update(critic, gradients)
    return value


def error(critic: Critic) -> float:
    """Root of the mean squared error over unseen pairs, as a share of the deviation of the true values."""
    state, action = draw(jax.random.key(123))
    expected = true_values(state, action)
    critic.eval()
    found = critic(state, action)
    critic.train()
    return float(jnp.sqrt(jnp.mean((found - expected) ** 2)) / jnp.std(expected))


def main(steps: int) -> float:
    critic = Critic(partial(bounds, max(steps // 3, 1)), nnx.Rngs(0))
    optimizer = nnx.Optimizer(critic, optax.adam(3e-3), wrt=nnx.Param)
    print(f"step 0: error {error(critic):.2f}")
    for number in range(1, steps + 1):
        train(critic, optimizer, jax.random.key(number))
        if number % max(steps // 5, 1) == 0:
            print(f"step {number}: error {error(critic):.2f}")
    return error(critic)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 600)

"""Q-learning without a target network, in miniature, as CrossQ does it (https://arxiv.org/abs/1902.05605).

A critic Q(s, a) with batch renormalization learns r + γ·Q(s', a') by regression. The pairs (s, a) and (s', a') go
through it as one batch, so that the statistics are those of both, and no target network is needed. Renorm's bounds
keep r = 1 and d = 0 for the warm-up, which is plain batch normalization, and then open to r in [1/3, 3] and |d| ≤ 5.

The task has a known answer: s' = 0.9·s + 0.3·a + noise, the policy is a' = −s'/2 and the reward is −s² − a²/10. Run
with: python examples/crossq_torch.py
"""

import argparse

import torch
from torch import nn

from batchnorm.torch import BatchNorm1d, clipping_schedule

DISCOUNT = 0.8
DRIFT, PUSH, GAIN, NOISE = 0.9, 0.3, -0.5, 0.2


def critic(warmup: int) -> nn.Module:
    def norm(size: int) -> nn.Module:
        bounds = clipping_schedule(warmup, rmax=3.0, rmax_step=warmup, dmax=5.0, dmax_step=warmup)
        return BatchNorm1d(size, momentum=0.05, renorm=True, renorm_clipping=bounds)

    return nn.Sequential(
        norm(2),
        nn.Linear(2, 64),
        nn.ReLU(),
        norm(64),
        nn.Linear(64, 64),
        nn.ReLU(),
        norm(64),
        nn.Linear(64, 1),
    )


def reward(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    return -(state**2) - action**2 / 10


def move(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    return DRIFT * state + PUSH * action + NOISE * torch.randn_like(state)


def true_value(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Under the policy V(s) = −(p·s² + q), with p and q from V(s) = reward + DISCOUNT·E V(s')."""
    step = DRIFT + PUSH * GAIN
    p = (1 + GAIN**2 / 10) / (1 - DISCOUNT * step**2)
    q = DISCOUNT * p * NOISE**2 / (1 - DISCOUNT)
    mean = DRIFT * state + PUSH * action
    return reward(state, action) - DISCOUNT * (p * (mean**2 + NOISE**2) + q)


def train(steps: int, batch: int = 128) -> tuple[nn.Module, float]:
    """The critic, and the root of its mean squared error relative to the deviation of the true values."""
    q = critic(warmup=steps // 4)
    optimizer = torch.optim.Adam(q.parameters(), lr=3e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        state, action = 2 * torch.rand(2, batch, 1) - 1
        after = move(state, action)
        now, then = torch.cat([state, action], 1), torch.cat([after, GAIN * after], 1)
        # One batch, one set of statistics.
        value, target = q(torch.cat([now, then])).chunk(2)
        loss = (value - (reward(state, action) + DISCOUNT * target.detach())).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    q.eval()
    with torch.no_grad():
        state, action = 2 * torch.rand(2, 2000, 1) - 1
        truth = true_value(state, action)
        error = (q(torch.cat([state, action], 1)) - truth).pow(2).mean().sqrt() / truth.std()
    return q, float(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    torch.manual_seed(0)
    # Tensors this small are not worth sharing among threads.
    torch.set_num_threads(1)
    _, error = train(parser.parse_args().steps)
    print(f"relative error {error:.3f} of Q against its true value")


if __name__ == "__main__":
    main()

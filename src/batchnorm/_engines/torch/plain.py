"""Plain batch normalization along axis 1: one call, which writes the running statistics as well."""

import torch

from batchnorm.errors import refusal

__all__ = ["batch_norm", "check_epsilon", "refuse_single"]

Tensor = torch.Tensor


def batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    training: bool,
    momentum: float,
    epsilon: float,
) -> Tensor:
    """What `torch.nn.functional.batch_norm` computes, refused where it refuses, for inputs that are not empty.

    Without running statistics those of the batch are used and nothing is written. `momentum` is the share of the
    new; the running variance is the sample's.
    """
    if training:
        if x.numel() == x.size(1):
            refuse_single(x)
        check_epsilon(epsilon)
    return torch.batch_norm(
        x,
        gamma,
        beta,
        running_mean,
        running_variance,
        training,
        momentum,
        epsilon,
        torch.backends.cudnn.enabled,
    )


def check_epsilon(epsilon: float) -> None:
    """Refuse what torch refuses while training: a variance of zero would divide by zero."""
    if epsilon <= 0.0:
        raise ValueError(
            refusal(
                f"batch_norm eps must be positive during training, but got {epsilon}",
                "It keeps the square root away from zero where the numbers of a channel are equal",
                "Pass a small positive number such as 1e-5",
            )
        )


def refuse_single(x: Tensor) -> None:
    """Raise ValueError: one number per statistic."""
    raise ValueError(
        refusal(
            f"Expected more than 1 value per channel when training, got input size {x.size()}",
            "One number is its own mean, so that its normalized value says nothing",
            "Use larger batches (drop_last=True in the data loader), larger ghost batches, or eval()",
        )
    )

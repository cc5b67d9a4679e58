"""The inputs, and the check that all competitors compute the same."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cases import GHOST_SIZE, Case

__all__ = ["OURS", "Data", "Step", "check_agreement", "historical_options", "make_data"]

# step() does one step, step(read=True) also returns y, and the gradients of x, gamma and beta.
Step = Callable[..., Any]
OURS = "batchnorm"


class Data(NamedTuple):
    """x, its gradient's source dy, and a mask that leaves out a fifth."""

    x: np.ndarray
    dy: np.ndarray
    mask: np.ndarray


def make_data(case: Case) -> Data:
    random = np.random.default_rng(0)
    x = random.standard_normal(case.shape, np.float32) * 1.5 + 0.3
    return Data(x, random.standard_normal(case.shape, np.float32), random.random(case.mask_shape) > 0.2)


def historical_options(case: Case) -> dict[str, Any]:
    """The options by the names that TensorFlow's APIs have for them, and so have ours."""
    options: dict[str, Any] = {}
    if case.option == "renorm":
        options["renorm"] = True
    if case.option == "ghost 16":
        options["virtual_batch_size"] = GHOST_SIZE
    return options


def check_agreement(case: Case, results: Mapping[str, list[np.ndarray]]) -> None:
    """Refuse to time what computes something else.

    Raises:
        AssertionError: a competitor's output or gradient differs from ours.
    """
    within = 3e-2 if case.option == "bfloat16" else 1e-4
    # ReLU's gradient jumps at 0, where a few positions of a network come to lie on either side by rounding.
    within, size = (1e-3, _root_mean_square) if case.phase == "network" else (within, _largest)
    for name, result in results.items():
        for value, expected in zip(result, results[OURS], strict=True):
            scale, difference = size(expected), size(value.reshape(expected.shape) - expected)
            assert difference <= within * scale, (
                f"{name} disagrees with us on {case}: {difference / scale:.2g}"
            )


def _largest(value: np.ndarray) -> float:
    return float(np.abs(value).max())


def _root_mean_square(value: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(value, dtype=np.float64))))

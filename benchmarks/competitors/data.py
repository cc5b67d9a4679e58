"""The inputs, and the check that all competitors compute the same."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cases import CLASSES, GHOST_SIZE, Case

__all__ = [
    "APART",
    "COMPARED_STEPS",
    "OURS",
    "RATE",
    "Data",
    "Step",
    "check_agreement",
    "historical_options",
    "losses_of",
    "make_data",
    "make_labels",
]

# step() does one step; step(read=True) also returns y and the gradients of x, gamma and beta, or, for a network, the
# losses of its first steps.
Step = Callable[..., Any]
OURS = "batchnorm"
# Our layer with the addition and the ReLU behind it as operations of the framework.
APART = "batchnorm, apart"
# For networks: the learning rate, how many losses are compared, and how closely. Training amplifies differences in
# rounding: in the second step of MobileNetV2, changing the inputs by 3e-7 changes the loss by 1e-3.
RATE = 1e-3
COMPARED_STEPS = 2
WITHIN = 5e-3


class Data(NamedTuple):
    """x, its gradient's source dy, and a mask that leaves out a fifth."""

    x: np.ndarray
    dy: np.ndarray
    mask: np.ndarray

    @property
    def residual(self) -> np.ndarray:
        """What is added before a ReLU: numbers that have nothing to do with those of x."""
        return np.ascontiguousarray(self.dy[::-1])


def make_data(case: Case) -> Data:
    random = np.random.default_rng(0)
    x = random.standard_normal(case.shape, np.float32) * 1.5 + 0.3
    return Data(x, random.standard_normal(case.shape, np.float32), random.random(case.mask_shape) > 0.2)


def make_labels(case: Case) -> np.ndarray:
    """A class for each example."""
    return np.random.default_rng(1).integers(0, CLASSES, case.shape[0])


def losses_of(step: Callable[[], Any]) -> list[np.ndarray]:
    """The losses of the first training steps; the second one depends on the gradients of the first step."""
    return [np.asarray(float(step()), np.float32) for _ in range(COMPARED_STEPS)]


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
    within, size = (3e-2 if case.option == "bfloat16" else 1e-4), _largest
    if case.activates or case.network == "blocks":
        # ReLU's gradient jumps at 0, and rounding puts a few positions on either side.
        within, size = 3e-3, _root_mean_square
    elif case.network:
        within = WITHIN
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

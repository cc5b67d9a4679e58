"""What the layer needs from frameworks that know every shape, and whether a call trains, before they compute."""

from collections.abc import Callable
from typing import Any

import keras

from batchnorm._core.engine import Inputs
from batchnorm.errors import format_error

__all__ = [
    "advance",
    "assert_divisible",
    "assign",
    "dynamic_shape",
    "either",
    "infer_plainly",
    "is_compiling",
    "is_ragged",
    "recall",
    "train_plainly",
    "value",
]

Tensor = Any


def advance(*step: Any) -> bool:
    """Move the moving statistics without Keras' own assignments, which only works with PyTorch's memory."""
    del step
    return False


def assign(variable: Any, value: Tensor) -> None:
    """Assign a value to a variable, or hand it to the stateless call that collects it."""
    variable.assign(value)


def dynamic_shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def is_compiling() -> bool:
    """Whether a compiler that warns about caches is tracing the program."""
    return False


def is_ragged(x: Tensor) -> bool:
    """Whether the rows of x have different lengths, which only TensorFlow supports."""
    del x
    return False


def recall(layer: Any, inputs: Inputs[Tensor]) -> Inputs[Tensor]:
    """The inputs as a step must read them; frameworks that pass the state along recompute from the same state."""
    del layer
    return inputs


def train_plainly(*step: Any) -> None:
    """A step by kernels that write the moving statistics too, which only works with PyTorch's memory."""
    del step


def infer_plainly(*step: Any) -> None:
    """Inference without the core, which only pays off on PyTorch."""
    del step


def value(variable: Any) -> Tensor:
    """What a variable holds now: in a stateless call the value that was passed for it."""
    return variable.value


def either(training: Any, train: Callable[[], Tensor], infer: Callable[[], Tensor]) -> Tensor:
    """`train()` or `infer()`.

    Raises:
        TypeError: the choice depends on a value that JAX traces.
    """
    try:
        trains = bool(training)
    except Exception as error:
        raise TypeError(
            format_error(
                f"training={training!r} was given",
                f"On Keras' {keras.backend.backend()!r} backend the choice must be known while the call is traced",
                "Pass True or False, or mark the argument as static",
            )
        ) from error
    return train() if trains else infer()


def assert_divisible(x: Tensor, size: int) -> Tensor:
    """x as it is: the layout refuses a batch that the size does not divide."""
    del size
    return x

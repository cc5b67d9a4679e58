"""What the layer needs from the framework that Keras runs on, by the name of Keras' backend."""

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import keras

from batchnorm._core.engine import Batch, Engine, Inputs
from batchnorm.errors import format_error, warn_user
from batchnorm.layout import Layout
from batchnorm.options import Options

__all__ = ["StaticBackend", "backend", "warn_beside_keras_2"]

Tensor = Any
BACKENDS = ("tensorflow", "jax", "torch")
# Looking an imported module up takes the import system as long as a small sum, and layers ask several times a step.
_found: dict[str, Any] = {}
_told: list[bool] = []


@dataclass(frozen=True)
class StaticBackend:
    """The engine for a backend's tensors, and the functions that Keras has no operation for: those of JAX.

    Every shape is known, and whether a call trains; subclasses say what is different on other backends.
    """

    engine: Engine[Any]

    def advance(
        self, options: Options, variables: Mapping[str, Any], batch: Batch[Tensor], dtype: Any
    ) -> bool:
        """Whether nothing is left to do for the moving statistics: only then they are not assigned through Keras."""
        del options, variables, batch, dtype
        return False

    def assign(self, variable: Any, value: Tensor) -> None:
        """Assign a value to a variable, or hand it to the stateless call that collects it."""
        variable.assign(value)

    def dynamic_shape(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape)

    def is_compiling(self) -> bool:
        """Whether a compiler that warns about caches is tracing the program."""
        return False

    def is_ragged(self, x: Tensor) -> bool:
        """Whether the rows of x have different lengths, which only TensorFlow supports."""
        del x
        return False

    def recall(self, layer: Any, inputs: Inputs[Tensor]) -> Inputs[Tensor]:
        """The inputs as a step must read them; frameworks that pass the state along recompute from the same state."""
        del layer
        return inputs

    def train_plainly(self, layer: Any, options: Options, layout: Layout, x: Tensor) -> Tensor | None:
        """A step by kernels that write the moving statistics too, which only works with PyTorch's memory."""
        del layer, options, layout, x

    def infer_plainly(
        self, layer: Any, options: Options, layout: Layout, x: Tensor, residual: Tensor | None
    ) -> Tensor | None:
        """Inference in another way than the core's; None if there is none."""
        del layer, options, layout, x, residual

    def spread_residual(self, residual: Tensor, x: Tensor) -> Tensor:
        """The residual with the sizes of x, which were compared before if they are known."""
        del x
        return residual

    def value(self, variable: Any) -> Tensor:
        """What a variable holds now: in a stateless call the value that was passed for it."""
        return variable.value

    def either(self, training: Any, train: Callable[[], Tensor], infer: Callable[[], Tensor]) -> Tensor:
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

    def assert_divisible(self, x: Tensor, size: int) -> Tensor:
        """x as it is: the layout refuses a batch that the size does not divide."""
        del size
        return x


def backend() -> Any:
    """The object for the current backend: its `engine`, and the functions that Keras has no operation for."""
    name = keras.backend.backend()
    found = _found.get(name)
    if found is not None:
        return found
    if name == "jax":
        _found[name] = StaticBackend(importlib.import_module("batchnorm._engines.jax").engine)
        return _found[name]
    if name in BACKENDS:
        _found[name] = importlib.import_module(f"batchnorm.keras._{name}").backend
        return _found[name]
    raise RuntimeError(
        format_error(
            f"batchnorm.keras was asked to run on Keras' {name!r} backend",
            f"Its engines are those for {', '.join(BACKENDS)}",
            "Set the environment variable KERAS_BACKEND to one of them before Keras is imported",
        )
    )


def warn_beside_keras_2() -> None:
    """Warn once if `tf.keras` is Keras 2, whose models neither take a Keras 3 layer nor count its weights."""
    if (
        _told
        or os.environ.get("TF_USE_LEGACY_KERAS") not in ("true", "True", "1")
        or not find_spec("tf_keras")
    ):
        return
    _told.append(True)
    warn_user(
        format_error(
            "batchnorm.keras.layers.BatchNormalization was made while tf.keras is Keras 2 (TF_USE_LEGACY_KERAS)",
            "It is a layer of Keras 3, and models of Keras 2 do not take it",
            "Use batchnorm.compat.v1.layers.BatchNormalization in those, or build the model with `import keras`",
        ),
    )

"""What `batch_norm` asks of its arguments, checked before anything is computed."""

from collections.abc import Mapping, Sequence
from typing import Any

from batchnorm._core.engine import Ops
from batchnorm._engines.lookup import NUMPY, Framework
from batchnorm._faces.residual import check_same_shape
from batchnorm._faces.weights import FIRST_AXES, check_fit, check_values
from batchnorm.errors import format_error
from batchnorm.options import Options

__all__ = [
    "check_floating",
    "check_names",
    "check_options",
    "check_owner",
    "check_size",
    "check_training",
    "read_adjustment",
    "read_residual",
    "spread_weights",
]

Array = Any
# Frameworks multiply floats of 8 bits and fewer, but do not add them.
FLOATS = ("float16", "float32", "float64", "float96", "float128")


def check_floating(ops: Ops[Array], x: Array) -> None:
    name = str(ops.dtype(x))
    if not any(each in name for each in FLOATS):
        raise TypeError(
            format_error(
                f"An input of dtype {name} was given",
                "Only floating-point input can be normalized",
                "Convert it to a floating dtype of 16 bits or more first",
            )
        )


def check_training(training: Any) -> None:
    if not isinstance(training, bool):
        raise TypeError(
            format_error(
                f"training={training!r} was given",
                "It decides which function is computed, so it must be known before anything runs",
                "Pass True or False, and branch with the framework's own conditional if the choice is made later",
            )
        )


def check_options(options: Any) -> None:
    if not isinstance(options, Options):
        raise TypeError(
            format_error(
                f"options={options!r} was given",
                "One record holds all options, so that they are checked together",
                "Pass a batchnorm.Options",
            )
        )


def read_adjustment(adjustment: Any) -> tuple[Array, Array]:
    """The factor and the offset."""
    if not isinstance(adjustment, (tuple, list)) or len(adjustment) != 2:  # pyright: ignore[reportUnknownArgumentType]
        raise TypeError(
            format_error(
                f"adjustment={adjustment!r} was given",
                "It is a pair of arrays: a factor and an offset",
                "Pass (scale, bias)",
            )
        )
    return tuple(adjustment)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def check_names(kind: str, given: Mapping[str, Array], wanted: Sequence[str]) -> None:
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            format_error(
                f"A {kind} record of type {type(given).__name__} was given",
                "It maps names to arrays",
                "Make it with batchnorm.init and the same options",
            )
        )
    missing, unknown = [n for n in wanted if n not in given], [n for n in given if n not in wanted]
    if missing or unknown:
        found = [
            f"{word} {', '.join(map(repr, names))}"
            for word, names in (("lacks", missing), ("has", unknown))
            if names
        ]
        raise ValueError(
            format_error(
                f"The {kind} record {' and '.join(found)}",
                f"With these options it holds exactly {', '.join(map(repr, wanted)) or 'nothing'}",
                "Make it with batchnorm.init and the same options",
            )
        )


def check_owner(framework: Framework, value: Any, name: str) -> None:
    if framework.owns(value) or (framework.takes_numpy and NUMPY.owns(value)):
        return
    raise TypeError(
        format_error(
            f"{name} of type {type(value).__module__}.{type(value).__qualname__} came with an array x of "
            f"{framework.title}",
            "All arrays of a call must belong to one framework",
            f"Convert it to an array of {framework.title}",
        )
    )


def check_size(ops: Ops[Array], value: Array, name: str, wanted: tuple[Any, ...]) -> None:
    shape = ops.shape(value)
    same = len(shape) == len(wanted) and all(
        not isinstance(size, int) or not isinstance(known, int) or size == known
        for size, known in zip(shape, wanted, strict=True)
    )
    if not same:
        raise ValueError(
            format_error(
                f"{name} of shape {tuple(shape)} was given",
                f"With this input and these axes its shape is {tuple(wanted)}",
                "Make it with batchnorm.init and the same options",
            )
        )


def spread_weights(framework: Framework, ops: Ops[Array], x: Array, weights: Array | None) -> Array | None:
    """Weights of the rank of x and the statistics' dtype; booleans become zeros and ones."""
    if weights is None:
        return None
    check_owner(framework, weights, "weights")
    sizes = ops.shape(x)
    full = check_fit("Weights", tuple(weights.shape), sizes, range(len(sizes)), FIRST_AXES)
    check_values("An array of weights", weights)
    weights = ops.cast(weights, ops.stat_dtype(x))
    known = ops.shape(weights)
    return ops.reshape(weights, (*known, *full[len(known) :]))


def read_residual(framework: Framework, ops: Ops[Array], x: Array, residual: Array | None) -> Array | None:
    """What is added before the activation, in the dtype of x."""
    if residual is None:
        return None
    check_owner(framework, residual, "residual")
    check_same_shape(tuple(residual.shape), ops.shape(x))
    return ops.cast(residual, ops.dtype(x))

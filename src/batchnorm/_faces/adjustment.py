"""The adjustment that a layer is given: a function from the shape of its input to a factor and an offset."""

from collections.abc import Callable
from typing import Any

from batchnorm._core.adjustment import Adjustment
from batchnorm.errors import format_error

__all__ = ["call_adjustment", "check_adjustment", "check_dtype"]


def check_adjustment(function: Any) -> None:
    """Raise TypeError for what cannot be called."""
    if function is not None and not callable(function):
        raise TypeError(
            format_error(
                f"adjustment={function!r} was asked for",
                "It is called with the shape of the input at every training step",
                "Pass a function that returns (scale, bias)",
            )
        )


def call_adjustment(
    function: Callable[[Any], Any], shape: Any, rank: int, convert: Callable[[Any], Any]
) -> Adjustment[Any]:
    """What the function returns for an input of this shape and rank, each part made a tensor by `convert`.

    Raises:
        TypeError: it returned no pair.
        ValueError: a part is None, or has a higher rank than the input.
    """
    result = function(shape)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(
            format_error(
                f"The adjustment returned {result!r}",
                "It takes a factor and an offset",
                "Return (scale, bias)",
            )
        )
    if any(part is None for part in result):
        raise ValueError(
            format_error(
                "The adjustment returned None for the factor or the offset",
                "Both are applied",
                "Return 1.0 for no factor and 0.0 for no offset",
            )
        )
    adjustment = Adjustment(*map(convert, result))
    for part in adjustment:
        # In a TensorFlow graph the rank may be unknown.
        found = part.shape.rank if hasattr(part.shape, "rank") else len(part.shape)
        if found is not None and found > rank:
            raise ValueError(
                format_error(
                    f"The adjustment returned a tensor of rank {found}",
                    f"It must broadcast to the input, which has rank {rank}",
                    "Return for instance one value per example, [batch, 1, ..., 1]",
                )
            )
    return adjustment


def check_dtype(found: str, wanted: str) -> None:
    """Raise TypeError for a part that is a tensor of another dtype than the statistics."""
    if found != wanted:
        raise TypeError(
            format_error(
                f"The adjustment returned a tensor of {found}",
                f"The statistics are {wanted}",
                f"Return tensors of {wanted}, or Python numbers",
            )
        )

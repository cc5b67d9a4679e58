"""A residual, which is added before the activation: it has the shape of the inputs, and is ragged if they are."""

from typing import Any

from batchnorm._faces.residual import check_same_shape
from batchnorm.errors import format_error
from batchnorm.keras._backend import backend

__all__ = ["check_residual"]

Tensor = Any


def check_residual(inputs: Tensor, residual: Tensor | None) -> None:
    """Refuse a residual that does not fit the inputs, as far as their sizes are known.

    Raises:
        ValueError: the shapes differ, or only one of the two is ragged.
    """
    if residual is None:
        return
    ragged = backend().is_ragged(residual), backend().is_ragged(inputs)
    if ragged[0] is not ragged[1]:
        residuals, rows = ("ragged" if each else "dense" for each in ragged)
        raise ValueError(
            format_error(
                f"A {residuals} residual came with {rows} inputs",
                "It is added number by number to the normalized inputs, so both have the same rows",
                f"Pass a {rows} residual",
            )
        )
    check_same_shape(tuple(residual.shape), tuple(inputs.shape))

"""The table behind test_private.py: one row for each behavior that depends on private names of a framework."""

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["ROWS", "Row", "touches"]


class Row(NamedTuple):
    framework: str
    names: tuple[str, ...]
    behavior: str
    touch: Callable[..., None]


ROWS: list[Row] = []


def touches(
    framework: str, names: str, behavior: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a row: the decorated function touches these names, which the behavior depends on."""

    def add(touch: Callable[..., None]) -> Callable[..., None]:
        ROWS.append(Row(framework, tuple(names.split()), behavior, touch))
        return touch

    return add

"""What `python -m batchnorm info` says of the CPU kernels."""

from collections.abc import Callable, Iterator

from batchnorm import _kernels

__all__ = ["BINDINGS", "describe"]

# For each framework whose arrays the kernels take: why its binding cannot be used, or None.
BINDINGS: dict[str, Callable[[], str | None]] = {"numpy": _kernels.why_missing}


def describe() -> Iterator[tuple[str, str]]:
    """Names and what there is to say of them, a line each."""
    missing = _kernels.why_missing()
    if missing is None:
        number = _kernels.threads()
        yield "cpu kernels", f"{_kernels.instructions()}, {number} thread{'s' if number > 1 else ''}"
    else:
        yield "cpu kernels", missing
    for framework, why in BINDINGS.items():
        yield f"cpu kernels for {framework}", why() or "loaded"

"""What `python -m batchnorm info` says about the CPU kernels."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from batchnorm import _kernels

__all__ = ["BINDINGS", "describe"]


def _torch() -> str | None:
    """PyTorch's tensors use the same binding as NumPy's arrays."""
    return "needs torch" if find_spec("torch") is None else _kernels.why_missing()


def _with_library(framework: str) -> Callable[[], str | None]:
    """Only whether the binding exists; whether it loads would take an import of the framework, which takes seconds."""

    def why_not() -> str | None:
        if find_spec(framework) is None:
            return f"needs {framework}"
        library = Path(__file__).with_name(f"libbatchnorm_{framework}.so")
        if _kernels.why_missing() is None and not library.exists():
            return "not built"
        return _kernels.why_missing()

    return why_not


# For each framework whose arrays the kernels take: why its binding cannot be used, or None.
BINDINGS: dict[str, Callable[[], str | None]] = {
    "numpy": _kernels.why_missing,
    "torch": _torch,
    "tensorflow": _with_library("tensorflow"),
    "jax": _with_library("jax"),
}


def describe() -> Iterator[tuple[str, str]]:
    """Names and what to say about each, a line each."""
    missing = _kernels.why_missing()
    if missing is None:
        number = _kernels.threads()
        yield "cpu kernels", f"{_kernels.instructions()}, {number} thread{'s' if number > 1 else ''}"
    else:
        yield "cpu kernels", missing
    for framework, why in BINDINGS.items():
        yield f"cpu kernels for {framework}", why() or "ready"

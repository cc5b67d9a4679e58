"""What `python -m batchnorm info` says of the CPU kernels."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from batchnorm import _kernels

__all__ = ["BINDINGS", "describe"]


def _torch() -> str | None:
    """PyTorch's tensors go through the binding that NumPy's arrays go through."""
    return "needs torch" if find_spec("torch") is None else _kernels.why_missing()


def _tensorflow() -> str | None:
    """Whether it loads is known once TensorFlow is imported, which takes seconds; here, whether there is one."""
    if find_spec("tensorflow") is None:
        return "needs tensorflow"
    if _kernels.why_missing() is None and not Path(__file__).with_name("libbatchnorm_tensorflow.so").exists():
        return "not built"
    return _kernels.why_missing()


# For each framework whose arrays the kernels take: why its binding cannot be used, or None.
BINDINGS: dict[str, Callable[[], str | None]] = {
    "numpy": _kernels.why_missing,
    "torch": _torch,
    "tensorflow": _tensorflow,
}


def describe() -> Iterator[tuple[str, str]]:
    """Names and what there is to say of them, a line each."""
    missing = _kernels.why_missing()
    if missing is None:
        number = _kernels.threads()
        yield "cpu kernels", f"{_kernels.instructions()}, {number} thread{'s' if number > 1 else ''}"
    else:
        yield "cpu kernels", missing
    for framework, why in BINDINGS.items():
        yield f"cpu kernels for {framework}", why() or "ready"

"""The instruction sets that there are kernels for."""

from batchnorm import _kernels

__all__ = ["levels"]


def levels() -> list[str]:
    """Those that this machine has; none where there are no kernels."""
    module = _kernels.load()
    named = ("baseline", "avx2", "avx512", "neon")
    return [] if module is None else [name for name in named if module.has_instructions(name)]

"""How errors and warnings are worded, and where warnings point: to the user's line."""

import inspect
import warnings

__all__ = ["format_error", "warn_user"]

# Ours, and those that call us on the user's behalf.
PACKAGES = ("batchnorm", "flax", "jax", "keras", "tensorflow", "tf_keras", "tf_slim", "torch")


def format_error(asked: str, why: str, remedy: str) -> str:
    """The three parts of an error message as one text; the caller raises it with the type it promises."""
    return f"{asked.rstrip('.')}. {why.rstrip('.')}. {remedy.rstrip('.')}."


def warn_user(message: str) -> None:
    """Warn, with the line of the innermost function that belongs neither to this package nor to a framework."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__", "")).split(".")[0] in PACKAGES:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)

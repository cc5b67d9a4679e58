"""What a face says if its framework is not installed."""

import importlib

from batchnorm.errors import refusal

__all__ = ["require"]


def require(module: str, title: str, extra: str, face: str) -> None:
    """Import a framework before the modules that build on it.

    Raises:
        ImportError: it is not installed; the message names the extra that installs it. A framework that is
            installed but fails to import raises its own error.
    """
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ImportError(
            refusal(
                f"{face} was imported",
                f"It needs {title}, which is not installed",
                f"Run: pip install 'batchnorm[{extra}]'",
            )
        ) from error

"""What a face says if its framework is not installed, or is a release that it does not know."""

import importlib
from collections.abc import Generator
from contextlib import contextmanager

from batchnorm.errors import format_error

__all__ = ["private_names", "require"]


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
            format_error(
                f"{face} was imported",
                f"It needs {title}, which is not installed",
                f"Run: pip install 'batchnorm[{extra}]'",
            )
        ) from error


@contextmanager
def private_names(title: str, version: str, extra: str) -> Generator[None]:
    """Import, inside the context, names that a framework does not promise to keep.

    Raises:
        ImportError: this release lacks one; the message says which, and names the extra that brings a release with it.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            format_error(
                f"{title} {version} was imported",
                f"It lacks something that is not public and that batchnorm needs: {error}",
                f"Run: pip install 'batchnorm[{extra}]', which brings a release that has it",
            )
        ) from error

"""`python -m batchnorm info`: what is installed, from the packages' metadata alone, and what can be used with it."""

import platform
from importlib.metadata import PackageNotFoundError, version

from batchnorm._kernels import report
from batchnorm._version import __version__

__all__ = ["print_info"]

# Import names, and the distributions that may provide them.
LIBRARIES = {
    "numpy": ("numpy",),
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-intel", "tensorflow-macos", "tf-nightly"),
    "keras": ("keras", "keras-nightly"),
    "tf_keras": ("tf-keras", "tf-keras-nightly"),
    "tf_slim": ("tf-slim",),
    "torch": ("torch",),
    "jax": ("jax",),
    "flax": ("flax",),
}
# What each face imports, and the extra that installs it.
FACES = {
    "batchnorm.compat.v1.layers": (("tensorflow",), "tensorflow"),
    "batchnorm.compat.v1.keras.utils": (("tensorflow",), "tensorflow"),
    "batchnorm.contrib.layers": (("tensorflow",), "tensorflow"),
    "batchnorm.keras.layers": (("keras",), "keras"),
    "batchnorm.torch": (("torch",), "torch"),
    "batchnorm.flax": (("jax", "flax"), "flax"),
    "batchnorm.batch_norm": (("numpy",), ""),
}


def print_info() -> None:
    """Print the versions, the faces and the CPU kernels, a line each."""
    found = {name: _find_version(distributions) for name, distributions in LIBRARIES.items()}
    print(f"batchnorm   {__version__}")
    print(f"python      {platform.python_version()}")
    for name, number in found.items():
        print(f"{name:<11} {number or 'not installed'}")
    for face, (needed, extra) in FACES.items():
        missing = [name for name in needed if found[name] is None]
        verdict = f"needs {' and '.join(missing)}: pip install 'batchnorm[{extra}]'" if missing else "usable"
        print(f"{face:<31} {verdict}")
    for name, verdict in report.describe():
        print(f"{name:<31} {verdict}")


def _find_version(distributions: tuple[str, ...]) -> str | None:
    for distribution in distributions:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None

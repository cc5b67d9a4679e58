"""An import brings what it needs and no more; a missing framework is named with its extra."""

import subprocess
import sys

import pytest

from batchnorm._require import require

pytestmark = pytest.mark.slow(1)

FRAMEWORKS = ("tensorflow", "keras", "tf_keras", "tf_slim", "torch", "jax", "flax")

# the framework that is built on, and what is imported; what the framework imports by itself is its own affair
IMPORTS = {
    "numpy": (
        "batchnorm",
        "batchnorm.options",
        "batchnorm.combinations",
        "batchnorm.layout",
        "batchnorm.errors",
        "batchnorm.functional",
        "batchnorm._core.step",
        "batchnorm._core.state",
        "batchnorm._core.adjustment",
        "batchnorm._core.composed",
        "batchnorm._faces.adjustment",
        "batchnorm._faces.axes",
        "batchnorm._faces.clip",
        "batchnorm._faces.weights",
        "batchnorm._engines.lookup",
        "batchnorm._engines.numpy",
    ),
    "tensorflow": (
        "batchnorm._engines.tensorflow",
        "batchnorm.contrib.framework",
        "batchnorm.contrib.layers",
        "batchnorm.compat.v1.layers",
    ),
    "torch": ("batchnorm._engines.torch", "batchnorm.torch"),
    "jax": ("batchnorm._engines.jax",),
    "flax": ("batchnorm.flax",),
}


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("framework", IMPORTS)
def test_imports_bring_no_other_framework(framework: str) -> None:
    pytest.importorskip(framework)
    # All in one process, which prints what the framework imports, and then what is there after ours.
    told = f"print(*(f for f in {FRAMEWORKS} if f in sys.modules))"
    done = python(f"import sys, {framework}; {told}\nimport {', '.join(IMPORTS[framework])}; {told}")
    assert done.returncode == 0, done.stderr
    alone, with_ours = done.stdout.splitlines()
    assert alone == with_ours
    assert bool(alone) == (framework != "numpy")


LOADED = """
import sys
print(*({name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names - {'__main__'}))
"""


def test_the_package_and_its_records_need_the_standard_library_alone() -> None:
    done = python(
        "import batchnorm, batchnorm.options, batchnorm.combinations, batchnorm.layout\n"
        "import batchnorm._core.step\n" + LOADED
    )
    assert done.returncode == 0, done.stderr
    # what the environment's own start-up files import is not ours
    bare = python(LOADED)
    assert set(done.stdout.split()) - set(bare.stdout.split()) == {"batchnorm"}


# import, what is missing, and how the message begins and ends
MISSING = [
    (
        "batchnorm.compat.v1.layers",
        "tensorflow",
        "batchnorm.compat.v1 was imported. It needs TensorFlow, which is not installed. "
        "Run: pip install 'batchnorm[tensorflow]'.",
    ),
    (
        "batchnorm.compat.v1.keras.utils",
        "tensorflow",
        "batchnorm.compat.v1 was imported. It needs TensorFlow, which is not installed. "
        "Run: pip install 'batchnorm[tensorflow]'.",
    ),
    (
        "batchnorm.contrib.layers",
        "tensorflow",
        "batchnorm.contrib was imported. It needs TensorFlow, which is not installed. "
        "Run: pip install 'batchnorm[tensorflow]'.",
    ),
    (
        "batchnorm.torch",
        "torch",
        "batchnorm.torch was imported. It needs PyTorch, which is not installed. "
        "Run: pip install 'batchnorm[torch]'.",
    ),
    (
        "batchnorm.flax",
        "flax",
        "batchnorm.flax was imported. It needs Flax, which is not installed. Run: pip install 'batchnorm[flax]'.",
    ),
    (
        "batchnorm.flax",
        "jax",
        "batchnorm.flax was imported. It needs JAX, which is not installed. Run: pip install 'batchnorm[flax]'.",
    ),
    (
        "batchnorm.keras.layers",
        "keras",
        "batchnorm.keras was imported. It needs Keras 3. Run: pip install 'batchnorm[keras]'.",
    ),
]


@pytest.mark.parametrize(
    ("name", "missing", "message"), MISSING, ids=[" without ".join(row[:2]) for row in MISSING]
)
def test_a_missing_framework_is_named_with_its_extra(name: str, missing: str, message: str) -> None:
    if missing == "flax":
        pytest.importorskip("jax", reason="JAX is asked for before Flax")
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"try:\n    import {name}\nexcept ImportError as error:\n    print(error)"
    )
    done = python(program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == message


def test_require_lets_an_installed_framework_be() -> None:
    require("numpy", "NumPy", "numpy", "batchnorm")


def test_require_hides_no_other_failure(monkeypatch, tmp_path) -> None:
    """A framework that is there and fails for a reason of its own tells that reason."""
    (tmp_path / "broken_framework.py").write_text("import no_such_dependency\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_dependency'$"):
        require("broken_framework", "Broken", "broken", "batchnorm.broken")

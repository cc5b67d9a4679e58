"""What a user may name: every public module says so in `__all__`, and has a docstring."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import batchnorm

ROOT = Path(batchnorm.__file__).parent


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def is_public(name: str) -> bool:
    """Whether a user may import from it. The demo is a program, which is run; `private` is ours alone."""
    parts = name.split(".")[1:]
    return not any(part.startswith("_") or part == "private" for part in parts) and parts[:1] != ["demo"]


SOURCES = {module_name(file): file for file in ROOT.rglob("*.py") if file.name != "__main__.py"}
PUBLIC = sorted(filter(is_public, SOURCES))


def modules_below(folder: Path, prefix: str) -> Iterator[str]:
    """What Python would import from there, without importing it."""
    for module in pkgutil.iter_modules([str(folder)], prefix):
        yield module.name
        if module.ispkg:
            yield from modules_below(folder / module.name.rpartition(".")[2], f"{module.name}.")


def imported(name: str) -> ModuleType:
    """The module, where the framework it needs is installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if "Run: pip install 'batchnorm[" not in str(error):
            raise
        pytest.skip(str(error))


def test_the_public_modules_are_these() -> None:
    found = {"batchnorm", *modules_below(ROOT, "batchnorm.")}
    assert set(PUBLIC) == {name for name in found if is_public(name)}
    assert {"batchnorm.options", "batchnorm.layout", "batchnorm.combinations", "batchnorm.errors"} <= set(
        PUBLIC
    )
    assert {"batchnorm.compat.v1.layers", "batchnorm.keras.layers"} <= set(PUBLIC)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_module_has_a_docstring(name: str) -> None:
    text = ast.get_docstring(ast.parse(SOURCES[name].read_text(encoding="utf-8")))
    assert text
    assert text.splitlines()[0][-1] in ".:", "the first line is a sentence, or leads to what follows"


@pytest.mark.parametrize("name", PUBLIC)
def test_all_is_what_the_module_offers(name: str) -> None:
    module = imported(name)
    offered = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == name
    }
    taken = imported_by_others(name)
    listed = getattr(module, "__all__", None)
    if listed is None:
        assert not offered | taken, f"{name} has no __all__"
        return
    assert len(listed) == len(set(listed))
    missing = [key for key in listed if not hasattr(module, key)]
    assert not missing
    assert offered | taken <= set(listed)
    scope: dict[str, object] = {}
    exec(f"from {name} import *", scope)
    assert set(scope) - {"__builtins__"} == set(listed)


def imported_by_others(name: str) -> set[str]:
    """What the package's other modules import from this one by name, modules and underscored names apart."""
    found: set[str] = set()
    for other, file in SOURCES.items():
        if other == name:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == name and not node.level:
                found |= {alias.name for alias in node.names}
    return {key for key in found if f"{name}.{key}" not in SOURCES and not key.startswith("_")}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_docstrings(name: str) -> None:
    module = imported(name)
    for key in getattr(module, "__all__", []):
        value = getattr(module, key)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name}.{key}"


def test_the_version_can_be_read() -> None:
    program = "from batchnorm._version import __version__ as v; print(v)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [part.isdigit() for part in done.stdout.strip().split(".")] == [True] * 3

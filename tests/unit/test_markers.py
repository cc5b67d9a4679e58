"""A test file that cannot be imported without a framework says so, and names nothing that there is not."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from markers import declared

TESTS = Path(__file__).parents[1]
ROOTS = (TESTS, TESTS.parent / "src")
FILES = sorted(TESTS.rglob("test_*.py"))
# What batchnorm or its tests import, and what a user of one framework need not have.
OPTIONAL = {
    *("tensorflow", "keras", "tf_keras", "tf_slim", "torch", "jax", "flax", "optax"),
    *("sklearn", "matplotlib", "rich", "onnx", "onnxscript", "onnxruntime"),
}


def name_of(file: Path) -> str:
    return str(file.relative_to(TESTS))


@cache
def imports_of(file: Path) -> set[str]:
    """The modules that a file cannot be imported without; of `from a import b`, both a and a.b.

    What is imported under a condition, or in a `try`, the file can be imported without.
    """
    found: set[str] = set()
    for statement in ast.parse(file.read_text()).body:
        if isinstance(statement, ast.Import):
            found.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.module, f"{file} imports relatively"
            found.add(statement.module)
            found.update(f"{statement.module}.{alias.name}" for alias in statement.names)
    return found


@cache
def ours(module: str) -> list[Path]:
    """The files that run when one of the repository's modules is imported: its packages', and its own."""
    parts = module.split(".")
    places = [root.joinpath(*parts[:n]) for root in ROOTS for n in range(1, len(parts) + 1)]
    candidates = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return [file for file in candidates if file.exists()]


def needed(file: Path) -> set[str]:
    """The optional packages without which a file cannot be imported."""
    waiting, seen, found = [file], set(), set()
    while waiting:
        next_one = waiting.pop()
        if next_one in seen:
            continue
        seen.add(next_one)
        for module in imports_of(next_one):
            waiting += ours(module)
            if not ours(module):
                found.add(module.partition(".")[0])
    return found & OPTIONAL


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_says_what_it_imports(file: Path) -> None:
    missing = needed(file) - set(declared(file).get("needs", ()))
    assert not missing, f"{name_of(file)} imports {sorted(missing)}: add pytest.mark.needs to its pytestmark"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_markers_are_known_and_the_files(file: Path) -> None:
    markers = declared(file)
    assert set(markers.get("needs", ())) <= OPTIONAL
    assert ("originals" in markers) == (file.parent.name == "parity" or file.name == "test_originals.py")
    assert "forks" not in markers or "forked" in imports_of(file)
    # conftest.py reads these from `pytestmark` only; a single test would ask by pytest.importorskip.
    assert not re.search(r"^\s*@pytest\.mark\.(needs|originals|forks|slow)\b", file.read_text(), re.MULTILINE)
    if "slow" in markers:
        assert markers["slow"] in ([1], [2], [3])


def test_imports_are_followed_through_helpers_and_the_package() -> None:
    assert needed(TESTS / "faces/test_contrib_layers.py") == {"tensorflow"}
    assert needed(TESTS / "faces/tracked_keras.py") >= {"tensorflow", "keras"}
    assert needed(TESTS / "unit/test_layout.py") == set()
    assert {"torch", "jax", "flax"} <= set().union(*map(needed, FILES))


def test_what_is_declared_can_be_read_from_the_source(tmp_path: Path) -> None:
    source = 'pytestmark = [pytest.mark.needs("a", "b"), pytest.mark.skipif(f(), reason="c"), pytest.mark.originals]'
    (tmp_path / "test_it.py").write_text(source)
    assert declared(tmp_path / "test_it.py") == {"needs": ["a", "b"], "skipif": [], "originals": []}
    (tmp_path / "test_it.py").write_text("pytestmark = pytest.mark.slow(2)")
    assert declared(tmp_path / "test_it.py") == {"slow": [2]}

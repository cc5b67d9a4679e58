"""The modules of the package import each other in one direction, and its layers only those below."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "batchnorm"


def module_of(file: Path) -> str:
    parts = ("batchnorm", *file.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(file): file for file in SOURCE.rglob("*.py")}


def imports_of(module: str) -> set[str]:
    """Our modules that a module imports, at its top or inside of functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.update({inner if inner in FILES else node.module} & set(FILES))
    return found - {module}


def part_of(module: str) -> str:
    """The package, or the single module, right below batchnorm."""
    return module.split(".")[1] if "." in module else module


IMPORTS = {module: imports_of(module) for module in FILES}
PARTS: dict[str, set[str]] = {part_of(module): set() for module in FILES}
for importing, imported in IMPORTS.items():
    PARTS[part_of(importing)] |= {part_of(module) for module in imported} - {part_of(importing)}

PACKAGES = {folder.name for folder in SOURCE.iterdir() if (folder / "__init__.py").exists()}
FACES = {name for name in PACKAGES if not name.startswith("_")} - {"demo"}
# What several faces share.
SHARED = {name for name in PACKAGES if name.startswith("_")} - {"_core", "_kernels", "_engines"}
# Modules at the top that call engines; only faces may use them.
CALLS = {"batchnorm", "functional", "explanation", "_call"}
UNWANTED = {
    "_core": {"_kernels", "_engines"} | SHARED | FACES | CALLS,
    "_kernels": {"_core", "_engines"} | SHARED | FACES | CALLS,
    "_engines": SHARED | FACES | CALLS,
    **dict.fromkeys(SHARED, FACES | CALLS),
    **{face: FACES - {face} for face in FACES},
}
# contrib's functions make the layers of TensorFlow 1.
UNWANTED["contrib"] -= {"compat"}


# Names of Keras 3 that are not public, in the one file for them: its own layer uses them, and so do trackers that are
# Keras 3 layers.
SHARED = {"batchnorm.keras.private"}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Nodes that lead back to the first, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


def test_circles_are_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) in (["b", "c", "b"], ["c", "b", "c"])


def test_imports_are_found() -> None:
    assert "batchnorm._core.step" in IMPORTS["batchnorm.functional"]
    assert {"compat", "contrib", "keras", "torch", "flax"} == FACES
    assert {"_core", "_kernels"} <= PARTS["_engines"]
    assert "compat" in PARTS["contrib"]


def test_modules_import_in_no_circle() -> None:
    assert " -> ".join(circle(IMPORTS)) == ""


def test_packages_import_in_no_circle() -> None:
    assert " -> ".join(circle(PARTS)) == ""


@pytest.mark.parametrize("part", sorted(UNWANTED))
def test_a_layer_imports_only_what_is_below(part: str) -> None:
    found = {
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others
        if part_of(module) == part and part_of(other) in UNWANTED[part] and other not in SHARED
    }
    assert not found

"""What a test file declares in its `pytestmark`, read without importing it: that could fail."""

import ast
from pathlib import Path
from typing import Any


def declared(file: Path) -> dict[str, list[Any]]:
    """Each marker of the file by name, with those of its arguments that are constants."""
    found: dict[str, list[Any]] = {}
    for statement in ast.parse(file.read_text()).body:
        if not isinstance(statement, ast.Assign) or ast.unparse(statement.targets[0]) != "pytestmark":
            continue
        value = statement.value
        for mark in value.elts if isinstance(value, ast.List) else [value]:
            name, arguments = (mark.func, mark.args) if isinstance(mark, ast.Call) else (mark, [])
            constants = [argument.value for argument in arguments if isinstance(argument, ast.Constant)]
            found[ast.unparse(name).removeprefix("pytest.mark.")] = constants
    return found

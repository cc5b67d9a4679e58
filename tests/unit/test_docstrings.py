"""The examples in the docstrings give what they say they give."""

import ast
import doctest
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import batchnorm

ROOT = Path(batchnorm.__file__).parent
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# The public names that must have an example, by the module that defines them.
PUBLIC = {
    "functional": ("batch_norm", "init"),
    "explanation": ("Explanation", "explain"),
    "options": ("Clip", "Ghost", "Options", "Renorm"),
    "torch._layers": ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"),
    "torch._convert": ("convert",),
    "torch._fuse": ("joined",),
    "_engines.torch.recompute": ("checkpoint_contexts", "frozen_statistics"),
    "torch._schedule": ("clipping_schedule",),
    "flax._module": ("BatchNorm",),
    "keras.layers": ("BatchNormalization",),
    "keras._convert": ("convert",),
    "compat.v1._layer": ("BatchNormalization",),
    "compat.v1._function": ("batch_normalization",),
    "compat.v1.keras.utils": (
        "get_or_create_layer",
        "regularization_losses",
        "track_tf1_style_variables",
    ),
    "contrib.layers": ("batch_norm",),
    "contrib.framework": ("arg_scope", "arg_scoped_arguments", "current_arg_scope"),
    "_tf1.recompute": ("recompute_grad",),
}
# What a module needs before it can be imported.
NEEDS = {"contrib": ("tensorflow",), "compat": ("tensorflow",), "_tf1": ("tensorflow",)}


def examples():
    """Every docstring with an example, read without importing the module that it is in."""
    for file in sorted(ROOT.rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if ">>>" in text:
                    yield module, getattr(node, "name", ""), text


EXAMPLES = {(module, name): text for module, name, text in examples()}


def test_every_public_name_has_an_example():
    assert set(EXAMPLES) >= {(module, name) for module, names in PUBLIC.items() for name in names}


@pytest.mark.parametrize("place", EXAMPLES, ids=".".join)
def test_example(place):
    module, name = place
    text = EXAMPLES[place]
    needed = re.findall(r">>> (?:import|from) (\w+)", text)
    for package in (*needed, *NEEDS.get(module.partition(".")[0], ())):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}")
    test = doctest.DocTestParser().get_doctest(
        text, {"__name__": "example"}, f"{module}.{name}", f"{module}.py", 0
    )
    said = []
    result = doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=said.append)
    assert result.attempted > 0
    assert not result.failed, "".join(said)

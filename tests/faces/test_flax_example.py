"""The critic of examples/crossq_jax.py learns."""

import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("flax", "jax", "optax")


EXAMPLE = Path(__file__).parents[2] / "examples" / "crossq_jax.py"


def test_the_error_falls_and_is_printed(capsys) -> None:
    last = runpy.run_path(str(EXAMPLE))["main"](200)
    printed = capsys.readouterr().out.split("\n")
    assert printed[0].startswith("step 0: error ")
    first = float(printed[0].rsplit(" ", 1)[1])
    assert printed[5] == f"step 200: error {last:.2f}"
    assert last < 0.75 * first

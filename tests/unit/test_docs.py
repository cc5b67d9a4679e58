"""The pages that are made from the code say what the code says, and the README's examples run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_combinations_page_is_the_table():
    made = subprocess.run(
        [sys.executable, "-c", "import make_combinations; print(make_combinations.page(), end='')"],
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == (ROOT / "docs/combinations.md").read_text()


def test_readme_has_examples():
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("source", EXAMPLES, ids=lambda source: source.splitlines()[1][:40])
def test_readme_example_runs(source, tmp_path):
    ran = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]

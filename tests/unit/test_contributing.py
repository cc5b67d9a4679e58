"""CONTRIBUTING's map of the folders is true: what it names exists, and what exists is named."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
MAP = re.findall(r"^    .*$", PAGE.split("## Where things are")[1].split("\n##")[0], re.MULTILINE)


def named(lines: list[str]) -> set[str]:
    """The paths that the map names, from the root; two spaces deeper is a folder further in."""
    found: set[str] = set()
    below = ""
    for line in lines:
        depth = len(line) - len(line.lstrip())
        # Two spaces end the names; a line of text only is indented like the texts above.
        names = re.split(r" {2,}", line.strip())[0].split() if depth <= 6 else []
        assert depth in (4, 6) or depth > 20, line
        if depth == 4:
            below = names[0] if len(names) == 1 else ""
        found.update(names if depth == 4 else (below + name for name in names))
    return found


NAMED = named(MAP)


def covers(path: str) -> bool:
    """Whether the map names this, or something inside."""
    return any(name.rstrip("/") == path or name.startswith(f"{path}/") for name in NAMED)


def test_what_the_map_names_exists() -> None:
    assert len(NAMED) > 20
    missing = {name for name in NAMED if not list(ROOT.glob(name.rstrip("/")))}
    assert not missing
    assert not {name for name in NAMED if name.endswith("/") and not (ROOT / name).is_dir()}


def test_every_package_and_module_at_the_top_is_on_the_map() -> None:
    source = ROOT / "src" / "batchnorm"
    packages = {init.parent.name for init in source.glob("*/__init__.py")}
    modules = {file.name for file in source.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert {name for name in packages | modules if not covers(f"src/batchnorm/{name}")} == set()


def test_every_folder_of_tests_and_of_the_repository_is_on_the_map() -> None:
    tests = {folder.name for folder in (ROOT / "tests").iterdir() if list(folder.glob("**/*.py"))}
    assert {name for name in tests | {"goldens"} if not covers(f"tests/{name}")} == set()
    python = {file.relative_to(ROOT).parts[0] for file in ROOT.glob("*/*.py")}
    assert {name for name in python | {"src", "tests", "csrc"} if not covers(name)} == set()


def test_other_paths_on_the_page_exist() -> None:
    prose = re.findall(r"`([\w./-]+/[\w./-]+\.(?:py|md|sh|toml))`", PAGE)
    assert len(prose) >= 2
    assert {
        path for path in prose if not (ROOT / path).exists() and not (ROOT / "tests" / path).exists()
    } == set()


def test_commands_on_the_page_are_the_makefiles() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake (\w+)", re.sub(r"make_\w+", "", PAGE))) <= set(targets)


def test_the_files_that_make_check_takes_exist() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    chosen = re.findall(r"\$\(addprefix (tests/[\w/]*),([^)]*)\)", makefile)
    assert len(chosen) == 3
    files = [f"{prefix}{name}" for prefix, names in chosen for name in names.split()]
    assert [file for file in files if not (ROOT / file).is_file()] == []

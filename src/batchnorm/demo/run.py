"""The demo from start to end."""

import os
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from batchnorm.demo.engines import ENGINES

__all__ = ["run"]

MIXED_EPOCHS, FEW_LABEL_EPOCHS, QUICK_EPOCHS = 5, 30, 1
# Wide enough for the tables if there is no terminal to ask.
WIDTH = 100


def run(engine: str, epochs: int | None, output: Path, seed: int, quick: bool) -> int:
    """Train, print the tables and save the picture; 0, or 1 if the APIs disagree."""
    started = time.perf_counter()
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    title = ENGINES[engine].title
    with console.status(f"Starting {title}"), _quiet():
        networks = ENGINES[engine].load()
        from batchnorm.demo import compare, data, network, noniid, picture, report

        # The first network has the framework look for its devices.
        next(iter(networks.APIS.values()))(network.initial_weights(seed))
    digits = data.load(seed)
    chosen = epochs or (QUICK_EPOCHS if quick else None)
    console.print(
        f"{len(digits.train_labels)} digits to train on, {len(digits.test_labels)} to test, seed {seed}",
        highlight=False,
    )
    with report.show_progress(console, networks.APIS) as tick:
        results = compare.train_through_each(networks.APIS, digits, chosen or MIXED_EPOCHS, seed, tick)
    report.print_apis(console, results)
    with report.show_progress(console, networks.METHODS) as tick:
        courses = noniid.train_by_each(networks.METHODS, digits, chosen or FEW_LABEL_EPOCHS, seed, tick)
    report.print_courses(console, courses)
    path = output / ("digits.png" if engine == "tensorflow" else f"digits-{engine}.png")
    picture.draw(title, results, courses, path)
    seconds = time.perf_counter() - started
    console.print(
        f"Loss curves and moving statistics: {path} ({seconds:.0f} seconds in all)",
        highlight=False,
        soft_wrap=True,
    )
    return 0 if compare.agree(results) else 1


@contextmanager
def _quiet() -> Generator[None]:
    """Hide what a framework's C++ code prints at startup, mostly about missing GPUs, unless the startup fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(terminal, kept.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)

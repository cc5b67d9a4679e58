"""What the demo prints: progress bars, a table for each part, and the conclusions."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from batchnorm.demo.compare import TOLERANCE, Trained, agree
from batchnorm.demo.data import LABEL_GROUPS
from batchnorm.demo.noniid import Course

__all__ = ["final_loss", "name_count", "print_apis", "print_courses", "show_progress"]

COUNTS = {3: "three", 4: "four"}
# The last batches whose mean is called the final loss: one alone says little.
LAST = 25


@contextmanager
def show_progress(console: Console, names: Iterable[str]) -> Generator[Callable[[str, float, float], None]]:
    """A bar for each of the names that the yielded `tick(name, share done, loss)` is called with."""
    width = max(12, *map(len, names))
    columns = (
        TextColumn(f"  {{task.description:<{width}}}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as progress:

        def tick(name: str, done: float, loss: float) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=1.0, loss=loss)
            progress.update(tasks[name], completed=done, loss=loss)

        yield tick


def print_apis(console: Console, results: Mapping[str, Trained]) -> None:
    """Part 1's table, and whether the APIs agree."""
    first = next(iter(results))
    table = Table(
        box=SIMPLE_HEAD,
        title=f"One training through each of the {name_count(results)} APIs",
        caption=f"last three: largest difference from the {first}, relative",
    )
    table.add_column("API", no_wrap=True)
    for heading in ("final\nloss", "test\naccuracy", "\ntime"):
        table.add_column(heading, justify="right")
    for heading in ("logits,\ninference", "logits,\ntraining", "moving\naverages"):
        table.add_column(heading, justify="right")
    for name, result in results.items():
        differences = (result.by_moving, result.by_batch, result.statistics)
        table.add_row(
            name,
            f"{final_loss(result.losses):.5f}",
            f"{result.accuracy:.1%}",
            f"{result.seconds:.1f} s",
            *("-" if name == first else f"{difference:.1e}" for difference in differences),
        )
    console.print(table)
    largest = float(np.max([(r.by_moving, r.by_batch, r.statistics) for r in results.values()]))
    agreed = agree(results)
    say, side, style = ("agree", "within", "green") if agreed else ("do NOT agree", "over", "red")
    text = (
        f"{name_count(results)} APIs {say}: the largest difference, {largest:.1e}, is {side} {TOLERANCE:.0e}"
    )
    _say(console, f"The {text}.", style)


def print_courses(console: Console, courses: Mapping[str, Course]) -> None:
    """Part 2's table, and what inference costs."""
    groups = ", ".join("-".join(map(str, group)) for group in LABEL_GROUPS)
    table = Table(
        box=SIMPLE_HEAD,
        title=f"Minibatches of two or three labels each ({groups})",
        caption="by batch: test digits in such batches, each normalized by its own statistics",
    )
    table.add_column("normalization")
    for heading in (
        "final\ntraining loss",
        "test accuracy\nby batch",
        "by moving statistics\n(inference)",
        "\nlost",
    ):
        table.add_column(heading, justify="right")
    for name, course in courses.items():
        table.add_row(
            name,
            f"{final_loss(course.losses):.4f}",
            f"{course.by_batch:.1%}",
            f"{course.by_moving:.1%}",
            f"{100 * (course.by_batch - course.by_moving):+.1f}",
        )
    console.print(table)
    plain, renorm = (100 * (courses[name].by_batch - courses[name].by_moving) for name in ("plain", "renorm"))
    _say(
        console,
        f"At inference plain batch norm loses {plain:.1f} points of accuracy, and renorm {renorm:.1f}.",
    )


def name_count(results: Mapping[str, Trained]) -> str:
    """How many APIs there are, in a word."""
    return COUNTS[len(results)]


def final_loss(losses: Sequence[float]) -> float:
    """The mean over the last batches."""
    return float(np.mean(losses[-LAST:]))


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, highlight=False, soft_wrap=True)

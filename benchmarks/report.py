"""The measurements as a table for the terminal and as a page for the docs."""

import datetime
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.table import Table

from benchmarks.competitors import OURS
from benchmarks.measure import Row

__all__ = ["markdown", "table"]

HEAD = ("shape", "phase", "options", "ours, ms", "tf_keras", "Keras 3", "GB/s", "of copy")
PEERS = ("tf_keras", "Keras 3")
PAGE = """# Performance

Made by `make bench` on {date}: {processor}, {threads} threads, Python {python}, TensorFlow {tensorflow}, tf_keras
{tf_keras}, Keras {keras}. Medians of {rounds} rounds in which all competitors took turns, in `tf.function`, float32;
glibc's allocator was told to keep large buffers, for all alike ({allocator}). Every
competitor's output, gradients and moving averages were compared with ours before it was timed.

The columns tf_keras and Keras 3 say how many times as long as ours they took. GB/s counts the bytes that must move
(channels last: forward two reads and one write of x, backward four reads and one write more; channels first: forward
one read and one write, backward two reads and one write more; inference one read and one write) over our time, and the
last column is its share of what copying an array of that size reached in the same run. tf_keras is measured with
`fused=False` under a mask, which its fused kernel ignores; Keras 3 has no ghost batches. "weighted" is a mask that
leaves out a fifth of the positions.

| {head} |
|{rule}|
{body}
"""


def table(rows: Sequence[Row]) -> Table:
    """The measurements for the terminal."""
    made = Table(*HEAD)
    for row in rows:
        made.add_row(*_cells(row))
    return made


def markdown(rows: Sequence[Row], threads: int, rounds: int, allocator: Mapping[str, str]) -> str:
    """The page, with all that decides the figures."""
    return PAGE.format(
        date=datetime.date.today().isoformat(),
        processor=_processor(),
        threads=threads,
        python=platform.python_version(),
        rounds=rounds,
        allocator=", ".join(f"`{name}={value}`" for name, value in allocator.items()),
        head=" | ".join(HEAD),
        rule="---|" * (len(HEAD) - 1) + "---",
        body="\n".join(f"| {' | '.join(_cells(row))} |" for row in rows),
        tensorflow=version("tensorflow-cpu"),
        tf_keras=version("tf-keras"),
        keras=version("keras"),
    )


def _cells(row: Row) -> list[str]:
    ratios = [row.ratio(peer) for peer in PEERS]
    return [
        row.case.shape_name,
        row.case.phase,
        row.case.option,
        f"{row.milliseconds(OURS):.2f}",
        *("–" if ratio is None else f"{ratio:.2f}×" for ratio in ratios),
        f"{row.bandwidth / 1e9:.1f}",
        f"{row.of_copy:.0%}",
    ]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

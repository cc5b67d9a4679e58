"""The measurements as a table for the terminal, as a page for the docs, and as a picture."""

import datetime
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import geometric_mean

import matplotlib as mpl
from rich.table import Table

from benchmarks.competitors.data import COMPARED_STEPS, OURS
from benchmarks.measure import TURN, Row

__all__ = ["markdown", "picture", "table"]

HEAD = (
    "framework",
    "shape",
    "phase",
    "options",
    "ours, ms",
    "peers: how many times as long",
    "over the floor",
)
VERSIONS = ("numpy", "tensorflow-cpu", "tf-keras", "tf-slim", "keras", "torch", "jax", "flax")
PAGE = """# Performance

Made by `{asked}` on {date}: {processor}, {threads} threads, Python {python}, {versions}.

Each framework ran in a process of its own, in which its competitors took turns for {rounds} rounds; the figures
are medians. Within a turn, quick steps are repeated until ours would have taken {turn:.0f} ms, because each turn
starts by writing back what the previous competitor left in the caches, which would dominate short turns.
For single layers glibc's allocator was told to keep large buffers, for all competitors alike ({allocator});
for networks it was as every program has it. All had the same number of threads. Every competitor's output and gradients
were compared with ours before timing.
TensorFlow ran in `tf.function`, JAX under `jit`, PyTorch eagerly; "Keras on ..." is our Keras layer beside Keras
3's own on that backend.

A training step is the forward and backward passes and the update of the averages. "weighted" uses a mask that leaves
out a fifth of the positions; tf_keras takes masks into account only with `fused=False`. "ghost 16" is compared with a
loop over chunks if the peer has no ghost batches. In rows with "relu" a ReLU follows, with "residual" behind an
addition; "batchnorm, apart" is our layer with these as operations of the framework.

The last column is our time divided by the bandwidth floor: the time needed to move the bytes that must move, at the
speed of copying x in the same rounds. With the channels last, these are two reads and one write of x in the forward
pass and four reads and one write in the backward pass; with the channels first, one read and one write, and two reads
and one write; at inference, one read and one write. A ReLU adds nothing. A residual adds a read in the forward pass,
and a read and a write in the backward pass. Arrays that fit the cache can get below 1.

## Whole networks

Training steps of networks with stochastic gradient descent. Everything but the normalization is the framework's own.

- PyTorch: torchvision's ResNet-18 and MobileNetV2, eager, with in-place ReLUs, in both memory formats (channels last is
  `torch.channels_last`), after `batchnorm.torch.convert` with `fuse=True`, which joins the normalization with the
  additions and activations behind it. "batchnorm, apart" is the same without `fuse`.
- Keras: MobileNetV2 of `keras.applications` in `fit`, four batches per call on TensorFlow and one on JAX, compiled as
  Keras does by default, after `batchnorm.keras.convert` with `fuse=True`, and without.
- TensorFlow: a residual network and a perceptron of ten layers, built with tf_slim in TensorFlow 1 graphs, with our
  function as their `normalizer_fn`. The perceptron's `is_training` is a placeholder, and its batch size is not fixed.
- JAX: three blocks of a 3x3 convolution, batch normalization and ReLU.

Before timing, the losses of the first {steps} steps were compared with ours.

| framework | network | shape | ours, ms | peer: how many times as long |
|---|---|---|---|---|
{networks}

## Single layers

![How many times as long the peers take]({picture})

| summary: training steps, geometric mean | rows | times as long |
|---|---|---|
{summary}

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


def markdown(
    rows: Sequence[Row], threads: int, rounds: int, allocator: Mapping[str, str], picture_name: str
) -> str:
    """The page, with all that decides the figures."""
    return PAGE.format(
        # Without arguments, `make bench` runs the same.
        asked=shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        date=datetime.date.today().isoformat(),
        processor=_processor(),
        threads=threads,
        python=platform.python_version(),
        rounds=rounds,
        turn=1e3 * TURN,
        versions=", ".join(f"{name} {_version(name)}" for name in VERSIONS),
        allocator=", ".join(f"`{name}={value}`" for name, value in allocator.items()),
        picture=picture_name,
        summary="\n".join(
            f"| {framework}: {peer} | {len(ratios)} | {geometric_mean(ratios):.2f}× |"
            for (framework, peer), ratios in _ratios(rows).items()
        ),
        steps=COMPARED_STEPS,
        networks="\n".join(f"| {' | '.join(_network_cells(row))} |" for row in rows if row.case.network),
        head=" | ".join(HEAD),
        rule="---|" * (len(HEAD) - 1) + "---",
        body="\n".join(f"| {' | '.join(_cells(row))} |" for row in rows if not row.case.network),
    )


def picture(rows: Sequence[Row], file: Path) -> None:
    """A panel per framework: every peer's time over ours, by row."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    frameworks = list(dict.fromkeys(row.framework for row in rows))
    figure, panels = plt.subplots(1, len(frameworks), figsize=(3.6 * len(frameworks), 9), squeeze=False)
    for panel, framework in zip(panels[0], frameworks, strict=True):
        own = [row for row in rows if row.framework == framework and row.phase_is_training]
        for peer in dict.fromkeys(peer for row in own for peer in row.peers):
            points = [(row.ratio(peer), place) for place, row in enumerate(own) if peer in row.times]
            panel.plot(*zip(*points, strict=True), "o", markersize=4, label=peer)
        panel.axvline(1.0, color="black", linewidth=0.8)
        panel.set_xscale("log")
        panel.set_yticks(
            range(len(own)), [f"{row.case.shape_name} {row.case.option}" for row in own], fontsize=5
        )
        panel.invert_yaxis()
        panel.set_title(framework, loc="left")
        panel.set_xlabel("time over ours")
        if own:
            panel.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def _ratios(rows: Sequence[Row]) -> dict[tuple[str, str], list[float]]:
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        for peer in row.peers:
            ratio = row.ratio(peer)
            if ratio is not None and row.phase_is_training:
                option = " (ghost 16)" if row.case.option == "ghost 16" else ""
                found.setdefault((row.framework, peer + option), []).append(ratio)
    return found


def _cells(row: Row) -> list[str]:
    peers = [f"{peer} {row.ratio(peer):.2f}×" for peer in row.peers]
    return [
        row.framework,
        row.case.shape_name,
        row.case.network or row.case.phase,
        row.case.option,
        f"{row.milliseconds(OURS):.3g}",
        ", ".join(peers) or "–",
        "–" if row.of_floor is None else f"{row.of_floor:.2f}",
    ]


def _network_cells(row: Row) -> list[str]:
    framework, shape, network, _, ours, peers, _ = _cells(row)
    return [framework, network, shape, ours, peers]


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

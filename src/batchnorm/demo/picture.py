"""The demo's picture: loss curves, accuracy at inference, and the moving statistics that inference uses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from batchnorm.demo.compare import Trained
from batchnorm.demo.noniid import TRACED, Course
from batchnorm.demo.report import name_count
from batchnorm.demo.schedule import OPENING

__all__ = ["draw"]

Axes = Any
COLORS = {"plain": "#d1495b", "renorm": "#00798c", "ghost": "#edae49", "none": "#8d8d8d"}
QUANTITIES = {
    "accuracy": "test accuracy",
    "moving_mean": "mean over channels",
    "moving_variance": "mean over channels",
}
STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
# Curves that coincide stay visible: the first is widest, the last dotted on top.
STROKES = (
    {"color": "#b9d6dc", "linewidth": 7.0},
    {"color": "#00798c", "linewidth": 3.5},
    {"color": "#edae49", "linewidth": 1.6},
    {"color": "#1b1b1b", "linewidth": 1.2, "linestyle": (0, (2, 4))},
)


def draw(title: str, results: Mapping[str, Trained], courses: Mapping[str, Course], path: Path) -> None:
    """Save the picture as a PNG; the title says what the network ran on."""
    mpl.use("Agg")
    from matplotlib import pyplot

    with mpl.rc_context(STYLE):
        figure, axes = pyplot.subplots(2, 3, figsize=(14, 7.6), layout="constrained")
        figure.suptitle(f"One network on scikit-learn's digits: {title}", fontsize=13, fontweight="bold")
        _draw_apis(axes[0, 0], results)
        _draw_losses(axes[0, 1], courses)
        _draw_readings(axes[0, 2], courses, "accuracy", "Few labels: test accuracy at inference")
        _draw_ends(axes[1, 0], courses)
        _draw_readings(axes[1, 1], courses, "moving_mean", f"Few labels: moving mean of {TRACED}")
        _draw_readings(axes[1, 2], courses, "moving_variance", f"Few labels: moving variance of {TRACED}")
        figure.savefig(path, dpi=130)
        pyplot.close(figure)


def _draw_apis(axes: Axes, results: Mapping[str, Trained]) -> None:
    for (name, result), stroke in zip(results.items(), STROKES[: len(results)], strict=True):
        axes.plot(result.losses, label=name, **stroke)
    _finish(axes, f"{name_count(results).capitalize()} APIs: training loss", "cross-entropy")
    axes.set_yscale("log")


def _draw_losses(axes: Axes, courses: Mapping[str, Course]) -> None:
    for name, course in courses.items():
        smooth = _smooth(course.losses)
        axes.plot(
            np.arange(len(smooth)) + len(course.losses) - len(smooth),
            smooth,
            color=COLORS[name],
            label=name,
        )
    _finish(axes, "Few labels: training loss", "cross-entropy, mean of 25 batches")
    start, end = (share * len(courses["renorm"].losses) for share in OPENING)
    axes.axvspan(start, end, color=COLORS["renorm"], alpha=0.08, linewidth=0)
    axes.text(
        start,
        1.0,
        " renorm's bounds open",
        color=COLORS["renorm"],
        transform=axes.get_xaxis_transform(),
        va="top",
        fontsize=8.5,
    )
    axes.set_yscale("log")


def _draw_readings(axes: Axes, courses: Mapping[str, Course], field: str, title: str) -> None:
    for name, course in courses.items():
        values = np.array([getattr(reading, field) for reading in course.readings])
        if not np.isnan(values).all():
            steps = [reading.step for reading in course.readings]
            axes.plot(steps, values, color=COLORS[name], label=name)
    _finish(axes, title, QUANTITIES[field])


def _draw_ends(axes: Axes, courses: Mapping[str, Course]) -> None:
    places = np.arange(len(courses))
    for shift, field, alpha in ((-0.2, "by_batch", 0.45), (0.2, "by_moving", 1.0)):
        heights = [100 * getattr(course, field) for course in courses.values()]
        bars = axes.bar(places + shift, heights, 0.38, color=[COLORS[name] for name in courses], alpha=alpha)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8.5)
    axes.set_xticks(places, list(courses))
    axes.set_ylim(0, 112)
    axes.set_title("Few labels: accuracy in the end")
    axes.set_ylabel("test accuracy, %")
    axes.set_xlabel("pale: by the batch's statistics; full: by the moving ones, at inference")
    axes.grid(axis="x", visible=False)


def _finish(axes: Axes, title: str, quantity: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.set_ylabel(quantity)
    axes.legend()


def _smooth(values: Sequence[float], width: int = 25) -> Any:
    width = min(width, len(values))
    return np.convolve(values, np.ones(width) / width, mode="valid")

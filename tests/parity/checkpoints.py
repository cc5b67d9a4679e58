"""The recorded TensorFlow 1.15.5 checkpoint: its path and what was recorded beside it."""

import json
from functools import cache

import numpy as np

import golden_data

FOLDER = golden_data.GOLDENS / "checkpoints" / "a"
CHECKPOINT = FOLDER / "model.ckpt"


@cache
def everything():
    with np.load(FOLDER / "io.npz") as file:
        return dict(file)


def recorded(name):
    return everything()[name]


def start_values():
    return {k.removeprefix("start/"): v for k, v in everything().items() if k.startswith("start/")}


def end_values():
    return {k.removeprefix("end/"): v for k, v in everything().items() if k.startswith("end/")}


@cache
def graph():
    """Variables in creation order, the trainable ones and the number of update ops."""
    return json.loads((FOLDER / "graph.json").read_text())

"""The demo from start to end."""

import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
import os
import sys

from batchnorm.demo import data, report
from batchnorm.demo.picture import draw

__all__ = ["run"]

MIXED_EPOCHS, FEW_LABEL_EPOCHS = 5, 20
QUICK_EPOCHS = 1


def run(epochs: int | None, output: Path, seed: int, quick: bool) -> int:
    """Train, print the tables and save the picture; 0, or 1 where the APIs disagree."""
    started = time.perf_counter()
    console = report.make_console()
    with console.status("Starting TensorFlow"), _quiet():
        from batchnorm.demo import compare, noniid
    digits = data.load(seed)
    mixed_epochs = epochs or (QUICK_EPOCHS if quick else MIXED_EPOCHS)
    few_label_epochs = epochs or (QUICK_EPOCHS if quick else FEW_LABEL_EPOCHS)
    ...

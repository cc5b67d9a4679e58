"""`python -m benchmarks.worker FRAMEWORK ...`: one framework's cases in a process of their own, a JSON line each."""

import argparse
import importlib
import json
import sys
from dataclasses import asdict

from benchmarks.cases import CASES
from benchmarks.measure import measure

__all__ = ["FRAMEWORKS"]

# By framework, the module of its competitors and Keras' backend.
FRAMEWORKS = {
    "TensorFlow": ("tensorflow", "tensorflow"),
    "PyTorch": ("torch", "torch"),
    "JAX": ("jax", "jax"),
    "Keras on JAX": ("keras", "jax"),
    "Keras on PyTorch": ("keras", "torch"),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cases", type=int, nargs="+", required=True)
    asked = parser.parse_args()
    _set_threads(asked.framework, asked.threads)
    steps = importlib.import_module(f"benchmarks.competitors.{FRAMEWORKS[asked.framework][0]}").steps
    for number in asked.cases:
        row = measure(asked.framework, CASES[number], steps, asked.rounds, asked.threads)
        print(json.dumps({**asdict(row), "case": number}), file=sys.stdout, flush=True)


def _set_threads(framework: str, threads: int) -> None:
    backend = FRAMEWORKS[framework][1]
    if backend == "torch":
        import torch

        torch.set_num_threads(threads)
    elif backend == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
    # JAX takes the cores that the process may run on.


if __name__ == "__main__":
    main()

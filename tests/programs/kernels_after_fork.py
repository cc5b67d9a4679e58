"""`python kernels_after_fork.py WAY`: the CPU kernels in children of fork, which must agree with their parent.

A child that hangs is ended by its own alarm, and so is this program.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 60
TASKS = Path("/proc/self/task")
SHAPE = (16, 24, 30, 30)  # more numbers than PyTorch's layers leave to PyTorch


def in_children_of_numpy() -> None:
    """Plain `os.fork`, at rest and while another thread has the helpers; PyTorch is not loaded."""
    from batchnorm import _kernels
    from batchnorm._engines.numpy import engine
    from batchnorm.layout import plan_layout

    _kernels.set_threads(3)
    x, layout = np.random.default_rng(1).standard_normal(SHAPE, np.float32), plan_layout(SHAPE, (1,))

    def compute() -> list[np.ndarray]:
        y, batch, scale = engine.fused_train(x, None, None, 1e-3, layout)
        return [y, batch.mean, batch.variance, scale]

    def works() -> bool:
        """The same numbers, by helpers of the child's own where they can be counted."""
        same = agrees(compute(), want)
        return same and (not TASKS.exists() or len(list(TASKS.iterdir())) == 3)

    want = compute()
    for _ in range(3):
        check(run_forked(works), "a child of a process at rest")
    with going_on(compute):
        for _ in range(10):
            check(run_forked(works), "a child of a process at work")
    check(agrees(compute(), want), "the parent afterwards")
    check("torch" not in sys.modules, "PyTorch stays away")


def in_children_of_torch() -> None:
    """torch.multiprocessing's processes, started by fork after the parent's helpers and PyTorch's own."""
    import torch
    import torch.multiprocessing

    torch.set_num_threads(2)
    step, want = torch_step()
    context = torch.multiprocessing.get_context("fork")
    for _ in range(3):
        child = context.Process(target=lambda: leave(step_agrees(step, want)))
        child.start()
        child.join(SECONDS)
        check(child.exitcode == 0, f"a child of torch.multiprocessing, exit code {child.exitcode}")
    check(step_agrees(step, want), "the parent afterwards")


def in_loader_workers() -> None:
    """Two workers of a DataLoader, as it starts them and with two threads for each."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    torch.set_num_threads(2)
    step, want = torch_step()

    class Steps(Dataset[Any]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> tuple[bool, int]:
            del index
            return step_agrees(step, want), torch.get_num_threads()

    for threads, prepare in ((1, None), (2, lambda worker: torch.set_num_threads(2))):
        loader = DataLoader(
            Steps(),
            batch_size=None,
            num_workers=2,
            multiprocessing_context="fork",
            timeout=SECONDS,
            worker_init_fn=prepare,
        )
        check([tuple(found) for found in loader] == [(True, threads)] * 8, f"workers of {threads} threads")


def torch_step() -> tuple[Callable[[], list[Any]], list[Any]]:
    """A training step of a layer, and what it gives here; the kernels must be what computes it."""
    import torch

    import batchnorm.torch as bt
    from batchnorm._engines.torch import cpu_kernels

    source = torch.Generator().manual_seed(2)
    x, dy = (torch.randn(SHAPE, generator=source) for _ in range(2))
    used: list[str] = []
    train_by = cpu_kernels.train_by
    cpu_kernels.train_by = lambda *arguments: (used.append("train"), train_by(*arguments))[1]

    def step() -> list[Any]:
        layer, point = bt.BatchNorm2d(SHAPE[1]), x.detach().requires_grad_()
        used.clear()
        y = layer(point)
        check(used == ["train"], "the kernels compute it")
        return [y.detach(), *torch.autograd.grad(y, [point, layer.weight, layer.bias], dy)]

    return step, step()


def step_agrees(step: Callable[[], list[Any]], want: list[Any]) -> bool:
    return agrees([value.numpy() for value in step()], [value.numpy() for value in want])


def agrees(got: list[np.ndarray], want: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def run_forked(work: Callable[[], bool]) -> bool:
    child = os.fork()
    if child == 0:
        leave(work())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def leave(passed: bool) -> None:
    os._exit(0 if passed else 1)


@contextmanager
def going_on(work: Callable[[], Any]) -> Iterator[None]:
    """Something that another thread does over and over meanwhile."""
    done = threading.Event()

    def repeat() -> None:
        while not done.is_set():
            work()

    other = threading.Thread(target=repeat)
    other.start()
    try:
        yield
    finally:
        done.set()
        other.join()


def check(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"{os.getpid()}: wrong: {what}")


WAYS = {"numpy": in_children_of_numpy, "torch": in_children_of_torch, "loader": in_loader_workers}

if __name__ == "__main__":
    # A child takes no alarm over from its parent.
    os.register_at_fork(after_in_child=lambda: signal.alarm(SECONDS))
    signal.alarm(3 * SECONDS)
    WAYS[sys.argv[1]]()
    print("agreed")

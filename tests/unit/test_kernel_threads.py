"""The CPU kernels among threads and processes: calls at once, after fork, in a DataLoader, and on how many threads."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchnorm import _kernels
from batchnorm._engines.numpy import dispatch, engine
from batchnorm.layout import plan_layout
from programs import kernels_after_fork

pytestmark = pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}")

# Sizes of every plan: channels by themselves, rows in parts, ghost groups, and one that nobody else is woken for.
SHAPES = [((8, 24, 40, 40), (1,)), ((3000, 33), (1,)), ((6, 5, 7, 130), (1, 3)), ((20, 6), (1,))]


def numpy_step(shape: tuple[int, ...], axes: tuple[int, ...], seed: int) -> Callable[[], list[Any]]:
    rng, layout = np.random.default_rng(seed), plan_layout(shape, axes)
    x, dy = (rng.standard_normal(shape, np.float32) for _ in range(2))

    def step() -> list[Any]:
        y, batch, scale = engine.fused_train(x, None, None, 1e-3, layout)
        return [y, batch.mean, batch.variance, scale, *engine.grad_sums(dy, x, batch.mean, layout)]

    return step


def torch_step(shape: tuple[int, ...], axes: tuple[int, ...], seed: int) -> Callable[[], list[Any]]:
    torch = pytest.importorskip("torch")
    import batchnorm.torch as bt

    del axes
    source = torch.Generator().manual_seed(seed)
    x, dy = (torch.randn(shape, generator=source) for _ in range(2))
    kind = {2: bt.BatchNorm1d, 4: bt.BatchNorm2d}[len(shape)]

    def step() -> list[Any]:
        layer, point = kind(shape[1]), x.clone().requires_grad_()
        y = layer(point)
        gradients = torch.autograd.grad(y, [point, layer.weight, layer.bias], dy)
        return [value.detach().numpy() for value in (y, *gradients, layer.running_var)]

    return step


@pytest.mark.parametrize("of_torch", [False, True], ids=["NumPy", "PyTorch among NumPy"])
def test_calls_at_once_give_the_same_bits_as_calls_alone(of_torch, request):
    if of_torch:
        pytest.importorskip("torch")
        request.getfixturevalue("small_inputs_too")
    makers = [numpy_step, torch_step if of_torch else numpy_step]
    steps = [makers[n % 2](*SHAPES[n % len(SHAPES)], seed=n) for n in range(8)]
    _kernels.set_threads(3)
    try:
        want, found = [step() for step in steps], {}

        def work(number: int) -> None:
            found[number] = [steps[number]() for _ in range(5)]

        callers = [threading.Thread(target=work, args=(number,)) for number in range(len(steps))]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        _kernels.set_threads(None)
    assert sorted(found) == list(range(len(steps)))
    for number, results in found.items():
        for result in results:
            for got, expected in zip(result, want[number], strict=True):
                np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("way", kernels_after_fork.WAYS)
def test_children_of_fork_agree_and_end(way):
    if sys.platform == "win32":
        pytest.skip("there is no fork")
    if way != "numpy":
        pytest.importorskip("torch")
    program = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        str(Path(kernels_after_fork.__file__)),
        way,
    ]
    done = subprocess.run(program, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["agreed"]


def test_every_call_is_told_the_threads_that_pytorch_uses(monkeypatch, small_inputs_too):
    torch = pytest.importorskip("torch")
    import batchnorm.torch as bt
    from batchnorm._engines.torch import cpu_kernels

    told: list[tuple[str, int]] = []
    module = _kernels.load()

    class Spy:
        def __getattr__(self, name: str) -> Any:
            value = getattr(module, name)
            # The number of threads is the last argument of every kernel.
            return (
                (lambda *given: (told.append((name, given[-1])), value(*given))[1])
                if callable(value) and name != "blend"
                else value
            )

    monkeypatch.setattr(cpu_kernels, "load", Spy)
    layer, x = bt.BatchNorm2d(6), torch.randn(4, 6, 5, 5, requires_grad=True)
    before = torch.get_num_threads()
    try:
        for number in (1, 3, 2):
            torch.set_num_threads(number)
            told.clear()
            layer(x).sum().backward()
            # Negative where they are PyTorch's own threads.
            assert [(name, abs(threads)) for name, threads in told] == [
                ("train", number),
                ("gradients", number),
            ]
    finally:
        torch.set_num_threads(before)


TEAM = """
import os
import torch
torch.set_num_threads(3)
import batchnorm.torch as bt
from batchnorm._kernels.torch import joins_team
x = torch.randn(64, 32, 32, 32)
layer = bt.BatchNorm2d(32)
torch.sin(x)  # the team is there
before = len(os.listdir("/proc/self/task"))
layer(x)
print(joins_team(), len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux' list of threads")
def test_torch_shares_its_threads():
    pytest.importorskip("torch")
    done = subprocess.run([sys.executable, "-c", TEAM], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "0"], done.stderr[-2000:]


@pytest.mark.parametrize("number", [1, 2])
def test_numpy_is_told_what_was_set(monkeypatch, number):
    told: list[int] = []
    module = _kernels.load()

    class Spy:
        FLOAT32 = module.FLOAT32 if module is not None else 0

        def train(self, *given: Any) -> None:
            told.append(given[-2])  # the epilogue comes last
            module.train(*given)

    monkeypatch.setattr(dispatch, "load", Spy)
    _kernels.set_threads(number)
    try:
        x = np.ones((40, 6), np.float32)
        engine.fused_train(x, None, None, 1e-3, plan_layout(x.shape, (1,)))
    finally:
        _kernels.set_threads(None)
    assert told == [number]

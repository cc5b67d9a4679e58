"""Fixtures of several files. What they stand for need not be installed: each imports it, or skips the test."""

from typing import Any

import pytest


@pytest.fixture
def small_inputs_too(monkeypatch) -> None:
    """PyTorch's layers take the CPU kernels from the first number on."""
    pytest.importorskip("torch")
    from batchnorm._engines.torch import dispatch

    for name in ("LARGE_INPUT", "LARGE_LAST", "LARGE_COMPILED"):
        monkeypatch.setattr(dispatch, name, 1)


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """The passes on the CPU kernels that were called with PyTorch's tensors, by name."""
    pytest.importorskip("torch")
    from batchnorm import _kernels
    from batchnorm._engines.torch import cpu_kernels

    found: list[str] = []
    module = _kernels.load()

    class Spy:
        def __getattr__(self, name: str) -> Any:
            value = getattr(module, name)
            if not callable(value) or name == "blend":
                return value

            def call(*arguments: Any) -> Any:
                found.append(name)
                return value(*arguments)

            return call

    monkeypatch.setattr(cpu_kernels, "load", Spy)
    return found


class Recorder:
    """The module of ops, and the names of those that were asked of it."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.used: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.used.append(name.removeprefix("batchnorm_kernels_"))
        return getattr(self.module, name)


@pytest.fixture
def native_ops(monkeypatch) -> Recorder:
    """TensorFlow's ops on the CPU kernels, and a record of their use."""
    pytest.importorskip("tensorflow")
    from batchnorm._engines.tensorflow import dispatch
    from batchnorm._kernels import tensorflow as kernels

    if kernels.load() is None:
        pytest.skip(kernels.why_missing())
    recorder = Recorder(kernels.load())
    monkeypatch.setattr(dispatch, "load", lambda: recorder)
    return recorder


@pytest.fixture
def no_kernels(monkeypatch) -> None:
    """As if TensorFlow's ops had not been built."""
    pytest.importorskip("tensorflow")
    from batchnorm._engines.tensorflow import dispatch

    monkeypatch.setattr(dispatch, "load", lambda: None)


@pytest.fixture(params=["native_ops", "no_kernels"])
def either(request) -> Any:
    """With TensorFlow's ops, and without."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def compile_all(monkeypatch, no_kernels) -> dict[Any, Any]:
    """TensorFlow compiles passes for arrays of any size, into an empty cache, which is returned."""
    from batchnorm._engines.tensorflow import compiled, dispatch

    functions: dict[Any, Any] = {}
    monkeypatch.setattr(dispatch, "LARGE_INPUT", 0)
    monkeypatch.setattr(compiled, "_functions", functions)
    return functions

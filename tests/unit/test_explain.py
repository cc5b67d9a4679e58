"""`explain` says what runs: its answers beside the kernels that are called, in every framework."""

import importlib
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest

import batchnorm
from batchnorm import Explanation, Ghost, Options, Renorm, _kernels
from unit.explained import INSTALLED, LOADERS, Watched, array, explained, run

IMAGES, APART = (8, 3, 3, 5), (2, 3, 2, 3, 2, 3)
LAST, FIRST, TWO, THREE = (3,), (1,), (1, 3), (1, 3, 5)
# By NumPy, PyTorch and TensorFlow; one word where they do the same.
TRAINING: dict[str, tuple[str, Options, dict[str, Any]]] = {
    "channels last": ("native", Options(LAST), {}),
    "channels first": ("native", Options(FIRST), {}),
    "two axes": ("native", Options(TWO), {}),
    "float64": ("native", Options(LAST), {"dtype": "float64"}),
    "bfloat16": ("native", Options(LAST), {"dtype": "bfloat16"}),
    "float16": ("native", Options(LAST), {"dtype": "float16"}),
    "interleaved": ("native", Options(LAST, ghost=Ghost(4)), {}),
    "contiguous": ("native", Options(LAST, ghost=Ghost(4, "contiguous")), {}),
    "renorm": ("native", Options(LAST, renorm=Renorm()), {}),
    "synchronized": ("native", Options(LAST, synchronized=True), {}),
    "insisting": ("native", Options(LAST, fused=True, renorm=Renorm()), {"weights": (8, 1, 1, 1)}),
    "weights": ("native", Options(LAST), {"weights": (8,)}),
    "weights of ghosts": ("native", Options(LAST, ghost=Ghost(2)), {"weights": (8, 3, 3, 1)}),
    "an empty batch": ("native composed native", Options(LAST), {"shape": (0, 3, 3, 5)}),
    "axes apart": ("composed framework composed", Options(THREE), {"shape": APART}),
    "axes apart, renorm": ("composed", Options(THREE, renorm=Renorm()), {"shape": APART}),
    "axes apart, weights": ("composed", Options(THREE), {"shape": APART, "weights": (2,)}),
    "weights by channel": ("mixed", Options(LAST), {"weights": (1, 1, 1, 5)}),
    "weights in part of a run": ("mixed", Options(TWO, ghost=Ghost(2)), {"weights": (8,)}),
    "plain operations": ("composed", Options(LAST, fused=False), {}),
    "insisting, apart": ("refused", Options(THREE, fused=True), {"shape": APART}),
    "insisting, by channel": ("refused", Options(LAST, fused=True), {"weights": (8, 1, 1, 5)}),
}
INFERENCE: dict[str, tuple[str, Options, dict[str, Any]]] = {
    "channels last": ("native native framework", Options(LAST), {}),
    "float64": ("native native composed", Options(LAST), {"dtype": "float64"}),
    "channels first": ("native native composed", Options(FIRST), {}),
    "two axes": ("native native composed", Options(TWO), {}),
    "axes apart": ("composed", Options(THREE), {"shape": APART}),
    "ghosts": ("native native framework", Options(LAST, ghost=Ghost(3)), {}),
    "plain operations": ("composed", Options(LAST, fused=False), {}),
    "insisting": ("native native framework", Options(LAST, fused=True), {}),
}

needs_kernels = pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}")
everywhere = pytest.mark.parametrize("framework", INSTALLED)


def wanted(paths: str, framework: str) -> str:
    every = paths.split()
    return every[("numpy", "torch", "tensorflow").index(framework)] if len(every) == 3 else paths


def given(framework: str, case: dict[str, Any]) -> tuple[Any, Any]:
    """The input and the weights."""
    x = array(framework, case.get("shape", IMAGES), case.get("dtype", "float32"))
    return x, array(framework, case["weights"]) if "weights" in case else None


@needs_kernels
@everywhere
@pytest.mark.parametrize("name", TRAINING)
def test_what_is_said_of_training_is_what_runs(monkeypatch, framework: str, name: str) -> None:
    paths, options, case = TRAINING[name]
    x, weights = given(framework, case)
    watched = Watched(framework, monkeypatch)
    said = explained(x, options, weights)
    assert watched.path() == "composed", "explaining computes nothing"
    assert said.path == wanted(paths, framework)
    assert (said.why is None) == (said.path == "native")
    if said.path == "refused":
        with pytest.raises(ValueError, match=f"^fused=True was asked for.*{said.why}"):
            run(x, options, weights)
        assert watched.path() == "composed", "it is refused before anything is computed"
        options = replace(options, fused=None)
        assert explained(x, options, weights).path not in ("native", "refused")
    run(x, options, weights)
    assert watched.path() == explained(x, options, weights).path
    kernel = said.path in ("native", "mixed")
    assert (said.instructions == _kernels.instructions()) == kernel
    assert (said.threads is not None) == kernel


@needs_kernels
@everywhere
@pytest.mark.parametrize("name", INFERENCE)
def test_what_is_said_of_inference_is_what_runs(monkeypatch, framework: str, name: str) -> None:
    paths, options, case = INFERENCE[name]
    x, _ = given(framework, case)
    watched = Watched(framework, monkeypatch)
    said = explained(x, options, training=False)
    assert said.path == wanted(paths, framework)
    y = run(x, options, training=False)
    assert watched.path(training=False) == said.path
    plain = array("numpy", case.get("shape", IMAGES), case.get("dtype", "float32"))
    want = run(plain, replace(options, fused=False), training=False)
    np.testing.assert_allclose(np.asarray(y), want, rtol=1e-6)


@everywhere
@pytest.mark.parametrize("name", TRAINING)
def test_without_kernels_nothing_is_native(monkeypatch, framework: str, name: str) -> None:
    _, options, case = TRAINING[name]
    x, weights = given(framework, case)
    monkeypatch.setattr(importlib.import_module(LOADERS[framework]), "load", lambda: None)
    monkeypatch.setattr(
        importlib.import_module(LOADERS[framework]), "why_missing", lambda: "not built: reason"
    )
    watched = Watched(framework, monkeypatch)
    said = explained(x, options, weights)
    assert said.path in (("refused",) if options.fused else ("composed", "framework"))
    assert said.instructions is None
    if options.fused is not False:
        assert said.why is not None
        assert "not built: reason" in said.why
    if options.fused:
        with pytest.raises(ValueError, match="not built: reason"):
            run(x, options, weights)
    else:
        run(x, options, weights)
        assert watched.path() == said.path


@needs_kernels
def test_the_gradients_function_of_numpy_goes_the_same_way(monkeypatch) -> None:
    watched = Watched("numpy", monkeypatch)
    x = array("numpy", IMAGES)
    found = {}
    for fused, path in ((None, "native"), (False, "composed")):
        options = Options(LAST, fused=fused)
        params, state = batchnorm.init(options, x.shape)
        y, _, pull = batchnorm.batch_norm(x, params, state, options, training=True, with_pullback=True)
        assert watched.path() == path == explained(x, options).path
        found[path] = y, *pull(x)[:3]
        assert watched.ours == (["gradients"] if fused is None else [])
        watched.path()
    for got, want in zip(*found.values(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@everywhere
def test_what_batch_norm_refuses_is_not_explained(framework: str) -> None:
    x = array(framework, IMAGES)
    with pytest.raises(ValueError, match="virtual_batch_size must divide the batch size"):
        batchnorm.explain(x, Options(LAST, ghost=Ghost(3)))
    with pytest.raises(ValueError, match="Weights of shape"):
        batchnorm.explain(x, Options(LAST), weights=array(framework, (7,)))
    with pytest.raises(TypeError, match="training=None was given"):
        batchnorm.explain(x, Options(LAST), training=None)  # pyright: ignore[reportArgumentType]


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(TypeError, match=r"An input x of type builtins\.list was given"):
        batchnorm.explain([1.0], Options())
    with pytest.raises(TypeError, match="An input of dtype int64 was given"):
        batchnorm.explain(np.arange(3), Options())


def test_an_explanation_can_be_read() -> None:
    native = Explanation("NumPy", "native", None, "avx2", 2)
    assert str(native) == "NumPy: our CPU kernels (avx2, threads: 2)"
    assert str(replace(native, threads=None)) == "NumPy: our CPU kernels (avx2)"
    assert str(Explanation("PyTorch", "framework", "the input is odd")) == (
        "PyTorch: PyTorch's own kernel\nwhy not the kernels: the input is odd"
    )
    assert (
        str(Explanation("JAX", "composed", "so")) == "JAX: plain operations of JAX\nwhy not the kernels: so"
    )
    assert str(Explanation("JAX", "refused", "so")).startswith(
        "JAX: refused: fused=True cannot be honored here\n"
    )
    with pytest.raises(FrozenInstanceError):
        native.path = "mixed"  # pyright: ignore[reportAttributeAccessIssue]


def test_explaining_numpys_arrays_imports_no_framework() -> None:
    program = (
        "import sys, numpy, batchnorm\n"
        "print(batchnorm.explain(numpy.ones((4, 3), 'float32'), batchnorm.Options()).engine)\n"
        "print(*({'torch', 'tensorflow', 'jax', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["NumPy"]

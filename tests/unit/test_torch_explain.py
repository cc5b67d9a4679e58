"""What `explain` says where PyTorch traces, transforms or compiles, beside what runs there."""

import warnings
from typing import Any

import pytest
import torch

import batchnorm
from batchnorm import Ghost, Options, Renorm, _kernels
from batchnorm._engines.torch import dispatch
from unit.explained import Watched, explained, run
from unit.torch_tensors import normal

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}"),
]

Tensor = torch.Tensor
SHAPE = (6, 5, 7, 4)
LAST, TWO = Options((3,)), Options((1, 3))


class Marked(torch.Tensor):
    """A subclass, as those are that keep their numbers elsewhere."""


def mapped(function: Any, x: Tensor) -> Any:
    return torch.func.vmap(function)(x[None])


def with_forward_mode(function: Any, x: Tensor) -> Any:
    with torch.autograd.forward_ad.dual_level():
        return function(x)


def with_a_mode(function: Any, x: Tensor) -> Any:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False):
        return function(x)


# How a function is called there, and how the reason begins.
PLACES = {
    "torch.func.vjp": (lambda f, x: torch.func.vjp(f, x)[0], "one of torch.func's transforms is at work"),
    "torch.func.vmap": (mapped, "one of torch.func's transforms is at work"),
    "forward mode": (with_forward_mode, "derivatives are computed in forward mode"),
    "a mode": (with_a_mode, "a tracer or a mode of PyTorch's watches"),
    "torch.jit.trace": (
        lambda f, x: torch.jit.trace(f, x, check_trace=False)(x),
        "torch.jit.trace records the operations",
    ),
    "a subclass": (lambda f, x: f(x.as_subclass(Marked)), "a Marked, being a subclass of Tensor"),
    "a sign not yet applied": (lambda f, x: f(torch._neg_view(x)), "a tensor's numbers are not those in"),
    "no numbers": (lambda f, x: f(x.to("meta")), "a tensor is on the device meta"),
}


@pytest.mark.parametrize("options", [LAST, Options((3,), renorm=Renorm())], ids=["plain", "renorm"])
@pytest.mark.parametrize("name", PLACES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_what_is_said_somewhere_is_what_runs_there(monkeypatch, name: str, options: Options) -> None:
    place, reason = PLACES[name]
    watched, said = Watched("torch", monkeypatch), []

    def function(x: Tensor) -> Tensor:
        said.append(explained(x, options))
        return run(x, options, start=start)

    start = batchnorm.init(options, SHAPE, like=normal(1).to("meta" if name == "no numbers" else "cpu"))
    place(function, normal(*SHAPE))
    assert said[0].why.startswith(reason)
    assert watched.path() == said[0].path
    assert said[0].path != "native"
    assert explained(normal(*SHAPE), options).path == "native"


@pytest.mark.parametrize("options", [LAST, TWO, Options((3,), ghost=Ghost(2), renorm=Renorm())])
def test_gradients_go_the_same_way(monkeypatch, options: Options) -> None:
    watched, x = Watched("torch", monkeypatch), normal(*SHAPE).requires_grad_()
    assert explained(x, options).path == "native"
    y = run(x, options)
    assert watched.path() == "native"
    y.sum().backward()
    assert watched.ours
    assert watched.path() == "native"


def test_inference_along_two_axes_leaves_gradients_to_plain_operations(monkeypatch) -> None:
    watched, x = Watched("torch", monkeypatch), normal(*SHAPE)
    for value, path in ((x, "native"), (x.clone().requires_grad_(), "composed")):
        assert explained(value, TWO, training=False).path == path
        run(value, TWO, training=False)
        assert watched.path(training=False) == path
    with torch.no_grad():
        assert explained(value, TWO, training=False).path == "native"


@pytest.mark.parametrize("options", [LAST, Options((3,), renorm=Renorm())], ids=["plain", "renorm"])
@pytest.mark.parametrize("size", ["large", "small"])
def test_what_is_said_while_compiling_is_what_is_compiled(
    monkeypatch, request, size: str, options: Options
) -> None:
    """In one graph and without a warning."""
    if size == "large":
        request.getfixturevalue("small_inputs_too")
    watched, x = Watched("torch", monkeypatch), normal(*SHAPE)
    torch._dynamo.reset()
    params, state = batchnorm.init(options, SHAPE, like=x)

    def function(x: Tensor) -> Any:
        said = batchnorm.explain(x, options)
        y, _ = batchnorm.batch_norm(x, params, state, options, training=True)
        return y, said.path, said.why

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, path, why = torch.compile(function, fullgraph=True, backend="aot_eager")(x)
    assert path == ("native" if size == "large" and options is LAST else "composed")
    assert watched.path() == path
    assert (why is None) == (path == "native")


def test_insisting_while_compiling(small_inputs_too) -> None:
    torch._dynamo.reset()
    x, said = normal(*SHAPE), "PyTorch exports the program, or compiles it"
    for options in (Options((3,), fused=True), Options((3,), fused=True, renorm=Renorm())):
        params, state = batchnorm.init(options, SHAPE, like=x)

        def function(x: Tensor, params=params, state=state, options=options) -> Tensor:
            return batchnorm.batch_norm(x, params, state, options, training=True)[0]

        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        if options.renorm is None:
            torch.testing.assert_close(compiled(x), function(x))
        else:
            with pytest.raises(Exception, match=f"fused=True was asked for.* {said}"):
                compiled(x)


@pytest.mark.parametrize("least", [dispatch.LARGE_INPUT, dispatch.LARGE_LAST])
def test_the_docstring_names_the_sizes_from_which_the_layers_take_our_kernels(least: int) -> None:
    assert f"{least:,}" in str(batchnorm.explain.__doc__)

"""`fused=True` of PyTorch's layers: a kernel, PyTorch's own or ours, or a refusal that changes nothing."""

from typing import Any

import numpy as np
import pytest
import torch

import batchnorm.torch as bt
from batchnorm import _kernels
from batchnorm._engines.torch import cpu_kernels
from tolerances import assert_close

pytestmark = pytest.mark.needs("torch")

needs_kernels = pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}")
SHAPE = (6, 4, 3, 2)


def layer_of(**options: Any) -> Any:
    axis = options.get("axis", (1,))
    layer = bt.BatchNorm2d(int(np.prod([SHAPE[a] for a in axis])), dtype=torch.float64, **options)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


# What is asked of a layer, and the weight's shape, where only the CPU kernels of this package can go.
INSISTING = {
    "renorm": ({"renorm": True}, None),
    "renorm and ghosts": ({"renorm": True, "virtual_batch_size": 2}, None),
    "two axes": ({"renorm": True, "axis": (1, 3)}, None),
    "weights": ({}, (6,)),
    "weights of positions": ({"renorm": True, "zero_debias": True}, (6, 1, 3, 2)),
}


@needs_kernels
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", INSISTING)
def test_insisting_on_kernels_gives_the_same_numbers(name: str, memory: Any) -> None:
    options, shape = INSISTING[name]
    insisting, plain = layer_of(**options, fused=True), layer_of(**options, fused=False)
    plain.load_state_dict(insisting.state_dict())
    weight = None if shape is None else torch.rand(shape)
    for _ in range(2):
        x = torch.randn(SHAPE, dtype=torch.float64).contiguous(memory_format=memory)
        assert_close(insisting(x, weight).detach(), plain(x, weight).detach(), "float64", "y")
    for key, value in plain.state_dict().items():
        assert_close(insisting.state_dict()[key].double(), value.double(), "float64", key)
    assert_close(insisting.eval()(x).detach(), plain.eval()(x).detach(), "float64", "y")


def transformed(layer: Any, x: Any) -> Any:
    with bt.frozen_statistics():
        return torch.func.vjp(layer, x)


def compiled(layer: Any, x: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(layer, fullgraph=True, backend="eager")(x)


# What cannot be granted: the options, the call, and the reason.
IMPOSSIBLE = {
    "weights by channel": (
        {},
        lambda layer, x: layer(x, torch.rand(SHAPE)),
        "the weights differ between channels",
    ),
    "an empty batch": ({"renorm": True}, lambda layer, x: layer(x[:0]), "the input is empty"),
    "a transform": ({"renorm": True}, transformed, "one of torch.func's transforms is at work"),
    "a compiler": ({"renorm": True}, compiled, "PyTorch exports the program, or compiles it"),
    "no numbers": (
        {"renorm": True},
        lambda layer, x: layer.to("meta")(x.to("meta")),
        "a tensor is on the device meta",
    ),
}


@needs_kernels
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_insisting_on_kernels_that_cannot_go_changes_nothing(name: str) -> None:
    options, call, reason = IMPOSSIBLE[name]
    layer = layer_of(**options, fused=True)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with pytest.raises(
        Exception, match=f"fused=True was asked for.* This is because {reason}.* Leave `fused`"
    ):
        call(layer, torch.randn(SHAPE, dtype=torch.float64))
    if name != "no numbers":
        for key, value in layer.state_dict().items():
            assert torch.equal(value, before[key]), key
    layer = layer_of(**options)
    call(layer, torch.randn(SHAPE, dtype=torch.float64))


def test_insisting_is_granted_by_pytorchs_kernel_where_it_does_all_of_it(monkeypatch) -> None:
    monkeypatch.setattr(cpu_kernels, "load", lambda: None)
    x = torch.randn(SHAPE, dtype=torch.float64)
    for options in ({}, {"virtual_batch_size": 2}, {"variance": "population"}, {"axis": (1, 3)}):
        layer, plain = (layer_of(**options, fused=fused, affine=False) for fused in (True, False))
        assert_close(layer(x), plain(x), "float64", "y")
    assert compiled(layer_of(fused=True), x).shape == SHAPE


def test_insisting_without_kernels_is_refused_at_construction(monkeypatch) -> None:
    monkeypatch.setattr(_kernels, "_import", lambda: (None, "not built: there was no compiler"))
    monkeypatch.setattr(_kernels, "load", lambda: None)
    with pytest.raises(
        ValueError, match=r"^fused=True was asked for with renorm=True.* not built: there was no"
    ):
        bt.BatchNorm2d(4, renorm=True, fused=True)
    with pytest.raises(ValueError, match=r"renorm=True\. .*not built"):
        bt.convert(torch.nn.BatchNorm2d(4), renorm=True, fused=True)

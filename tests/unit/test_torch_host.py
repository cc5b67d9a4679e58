"""Steps on the CPU kernels, whose statistics are NumPy's arrays: what PyTorch must not notice of it."""

import warnings
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import batchnorm
import batchnorm.torch as bt
from batchnorm import Ghost, Options, Renorm, _kernels
from batchnorm._engines.torch import cpu_kernels, numpy_stats
from unit.torch_tensors import Tensor, normal

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}"),
]

SHAPE = (6, 5, 4, 3)
OPTIONS: dict[str, dict[str, Any]] = {
    "renorm": {"renorm": True, "renorm_clipping": {"rmax": 1.5, "dmax": 0.5}},
    "ghosts and renorm": {"renorm": True, "virtual_batch_size": 3},
    "zero debias": {"zero_debias": True},
    "population": {"variance": "population"},
}


class Watching(TorchDispatchMode):
    """Sees every operation, so that none may go by address."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def layer(fused: bool | None, options: dict[str, Any]) -> Any:
    made = bt.BatchNorm2d(5, fused=fused, dtype=torch.float64, **options)
    with torch.no_grad():
        made.weight.copy_(normal(5, seed=7, dtype=torch.float64))
    made(normal(*SHAPE, seed=8, mean=3.0, dtype=torch.float64))
    return made


def pair(options: dict[str, Any]) -> list[tuple[Any, Tensor]]:
    """Layers on the kernels and in plain operations, each with an input of its own."""
    x = normal(*SHAPE, mean=2.0, dtype=torch.float64)
    return [(layer(fused, options), x.clone().requires_grad_()) for fused in (None, False)]


def agree(got: Any, want: Any) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_a_gradient_asked_for_under_a_mode_or_batched(
    monkeypatch, options: dict[str, Any], masked: bool
) -> None:
    mask = torch.arange(6) != 2 if masked else None
    found: list[list[Tensor]] = []
    for made, x in pair(options):
        y, dys = made(x, mask=mask), normal(3, *SHAPE, seed=1, dtype=torch.float64)
        wanted = [x, made.weight, made.bias]
        with Watching(), monkeypatch.context() as patched:
            for kernel in ("fused_gradients", "grad_sums", "grad_input"):
                patched.setattr(numpy_stats.Host, kernel, None)
            watched = torch.autograd.grad(y, wanted, dys[0], retain_graph=True)
        plain = torch.autograd.grad(y, wanted, dys[0], retain_graph=True)
        agree(watched, plain)
        batched = torch.autograd.grad(y, wanted, dys, is_grads_batched=True)
        agree([value[0] for value in batched], plain)
        found.append([*plain, *batched])
    agree(*found)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_second_derivatives_are_of_the_state_that_was_read(options: dict[str, Any]) -> None:
    found: list[list[Tensor]] = []
    for made, x in pair(options):
        y = made(x)
        made(normal(*SHAPE, seed=3, mean=-5.0, dtype=torch.float64))
        (dx,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
        found.append([dx, *torch.autograd.grad((dx**2).sum(), [x, made.weight])])
    agree(*found)


def test_weights_that_no_kernel_takes_and_their_gradient() -> None:
    found: list[list[Tensor]] = []
    for made, x in pair(OPTIONS["renorm"]):
        weight = normal(*SHAPE, seed=4, dtype=torch.float64).abs().requires_grad_()
        y = made(x, weight)
        found.append([y, *torch.autograd.grad((y**2).sum(), [x, weight, made.weight]), *made.buffers()])
    agree(*found)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_numbers_that_are_not_finite_raise_no_warning(options: dict[str, Any]) -> None:
    found: list[list[Tensor]] = []
    for made, x in pair(options):
        with torch.no_grad():
            x[1, 2, 0, 0], x[2, 3, 1, 1] = float("inf"), float("nan")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # At the second step infinity meets infinity.
            made(x)
            y = made(x)
            y.sum().backward()
        found.append([torch.isfinite(value) for value in (y, x.grad, *made.buffers())])
    agree(*found)


def test_bounds_and_a_momentum_that_are_tensors() -> None:
    options = {
        "renorm": True,
        "momentum": None,
        "renorm_clipping": lambda step: {"rmax": 1.0 + step, "dmax": step / 2},
    }
    found: list[list[Tensor]] = []
    for made, x in pair(options):
        found.append([made(x), made(x * 2.0), *made.buffers()])
        assert not any(value.requires_grad for value in made.buffers())
    agree(*found)


ORDERS = {
    "channels last in memory": ((6, 5, 4, 3), (0, 2, 3, 1), 1),
    "channels first in memory": ((6, 4, 3, 5), (0, 3, 1, 2), -1),
    "channels between": ((6, 4, 5, 3), (0, 2, 1, 3), 3),
}


@pytest.mark.parametrize("ghost", [None, Ghost(3), Ghost(2, "contiguous")], ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["all", "weighted"])
@pytest.mark.parametrize("order", ORDERS)
def test_numbers_are_read_where_they_lie(
    monkeypatch, order: str, weighted: bool, ghost: Ghost | None
) -> None:
    """In the order of memory, without a copy, and y comes back in it."""
    shape, memory, axis = ORDERS[order]
    inverse = sorted(range(4), key=memory.__getitem__)
    x, dy = (
        normal(*(shape[a] for a in memory), seed=seed, dtype=torch.float64).permute(inverse)
        for seed in (0, 1)
    )
    weights = (
        normal(*shape, seed=2, dtype=torch.float64).abs().select(axis, 0).unsqueeze(axis)
        if weighted
        else None
    )
    seen: list[int] = []
    dense = cpu_kernels.Kernels.dense
    monkeypatch.setattr(cpu_kernels.Kernels, "dense", lambda self, value: _noted(seen, dense(self, value)))
    found: list[list[Any]] = []
    for fused in (None, False):
        options = Options((axis,), renorm=Renorm(), ghost=ghost, fused=fused)
        params, state = batchnorm.init(options, shape, like=x)
        given = x.detach().requires_grad_()
        params["gamma"].requires_grad_()
        y, state = batchnorm.batch_norm(given, params, state, options, training=True, weights=weights)
        assert y.stride() == x.stride() or fused is False
        found.append([y, *torch.autograd.grad(y, [given, params["gamma"]], dy), *state.values()])
    agree(*found)
    assert set(seen) == {x.data_ptr(), dy.data_ptr()}


def _noted(seen: list[int], value: Tensor) -> Tensor:
    seen.append(value.data_ptr())
    return value
